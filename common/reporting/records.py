"""Records: JSON files that say what they are and carry a checksum of what they hold.

A run record has the settings, metrics and cost of one run, and the versions, device, commit and
checksums of data behind them. The cost study, the fidelity study and others have records of their
own, written and read in the same way.
"""

import hashlib
import json
import os
import textwrap
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, Field, GetPydanticSchema, JsonValue, ValidationError

from common.errors import UserError
from common.files import write_atomic

Name = Annotated[str, Field(min_length=1)]
Finite = int | float
"""A number as it stands in the file: 1 stays 1, and 1.0 stays 1.0."""
NotNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
JsonObject = dict[str, Annotated[Any, GetPydanticSchema(lambda _, schema: schema(JsonValue))]]
"""Plain JSON values by name."""
_LINE_WIDTH = 100


class Strict(BaseModel):
    """Exactly the fields named, of exactly their types."""

    model_config = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "frozen": True}


class Record(Strict):
    """Base of all records. KIND: what the file says it is."""

    KIND: ClassVar[str]


class RunRecord(Record):
    """One run: one experiment, one method, one seed."""

    KIND: ClassVar[str] = "evograd-run-record"

    experiment: Name
    method: Name
    seed: int = Field(ge=0, lt=2**32)
    preset: Name
    config: JsonObject
    """``RunSettings.result_settings()``."""
    epochs: list[dict[str, Finite]] = Field(min_length=1)
    """Metrics by epoch, each row with ``epoch``; the first may be epoch 0, before training."""
    traces: dict[str, list[Finite]]
    """Series by iteration, of equal lengths, with ``iteration``."""
    final: dict[str, Finite]
    """Metrics at the last epoch."""
    best: dict[str, dict[str, Finite]]
    """Metric -> its largest ``value`` and the first ``epoch`` that had it."""
    cost: dict[str, NotNegative]
    """Of one training step, in seconds and bytes, and ``seconds_per_epoch``; {} where nothing is
    trained."""
    data: dict[str, Name]
    """File or split -> its checksum or size."""
    provenance: JsonObject
    """``collect_provenance()``, device, started, finished and wall_seconds."""
    curves: dict[str, list[Finite]] = Field(default_factory=dict)
    """Series for figures, of any length."""


Kind = TypeVar("Kind", bound=Record)


def save(record: Record, path: str | Path) -> Path:
    """Writes the record, in one step: an error or a kill leaves the file that was there.

    UserError, naming the field, for values that are not finite.
    """
    document = {"kind": record.KIND, **record.model_dump()}
    try:
        type(record).model_validate(record.model_dump())  # lists inside may have been changed
    except ValidationError as error:
        raise UserError(f"The record for {path} is not valid: {_sentence(error)}.") from None
    return write_atomic(path, _render(document | {"sha256": checksum(document)}) + "\n")


def load(path: str | Path, model: type[Kind]) -> Kind:
    """Reads one record. UserError, naming the file, if it is missing, damaged, of another kind, or
    changed since it was written."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if content.pop("sha256", None) != checksum(content):
            raise ValueError("it was changed after it was written (sha256 disagrees)")
        if (kind := content.pop("kind", None)) != model.KIND:
            raise ValueError(f"kind is {kind!r}")
        return model(**content)
    except FileNotFoundError:
        raise UserError(f"There is no record at {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = _sentence(error) if isinstance(error, ValidationError) else error
        raise UserError(
            f"{path} is not a valid {model.KIND}: {reason}; restore the file, or delete it and "
            "repeat that run."
        ) from None


def load_folder(folder: str | Path, model: type[Kind]) -> list[Kind]:
    """Every JSON file under a folder (recursively, sorted by path), all of one kind of record.

    A missing folder has none. A file that is not such a record raises UserError: leaving it out
    without a word would change a table.
    """
    # Unlike Path.rglob, also through links: a run's folder may lie on another disk.
    walked = os.walk(folder, followlinks=True)
    paths = [Path(inside) / name for inside, _, names in walked for name in names]
    return [load(path, model) for path in sorted(paths) if path.suffix == ".json"]


def read_records(
    folder: str | Path, experiment: str | None = None, preset: str | None = None
) -> list[RunRecord]:
    """Every run record under ``folder``, as ``load_folder``; UserError for one of another
    experiment or preset than given."""
    records = load_folder(folder, RunRecord)
    for record in records:
        for name, wanted in (("experiment", experiment), ("preset", preset)):
            if wanted not in (None, getattr(record, name)):
                raise UserError(
                    f"{folder} holds a record of {name} {getattr(record, name)} (method "
                    f"{record.method}, seed {record.seed}) among those of {wanted}: move it away."
                )
    return records


def checksum(document: dict[str, Any]) -> str:
    """SHA-256 of a record's JSON with sorted keys, without its own ``sha256``."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} ({first['input']!r:.80}): {first['msg']}"


def _render(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits on a line stays on one, and long lists of numbers fill lines.

    One line per epoch and filled lines of numbers keep files small and differences readable.
    """
    flat = json.dumps(value)
    if len(flat) + indent <= _LINE_WIDTH or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_render(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "}"
    if all(isinstance(item, int | float) for item in value):
        width = _LINE_WIDTH - indent
        lines = textwrap.wrap(flat[1:-1], width, break_on_hyphens=False, break_long_words=False)
    else:
        lines = [f"{_render(item, indent + 1)}," for item in value]
    return "[\n" + "\n".join(pad + line for line in lines).rstrip(",") + f"\n{' ' * indent}]"
