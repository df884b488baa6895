"""Records: JSON files that say what they are and carry a checksum of what they hold.

A run record has the settings, metrics and cost of one run, and the versions, device, commit and
checksums of data behind them. The cost study, the fidelity study and others have records of their
own, written and read in the same way. Nothing in them identifies a person or a machine: no host
name, user name or path.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import textwrap
from datetime import UTC, datetime
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
_REMEDY = "restore the file, or delete it and repeat that run"
_PROJECT = Path(__file__).resolve().parents[2]


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


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON object of any record, without its checksum. UserError, naming the file, if it is
    missing, damaged, or changed since it was written."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("sha256", None) != checksum(content):
            raise ValueError("it was changed after it was written (sha256 disagrees)")
        return content
    except FileNotFoundError:
        raise UserError(f"There is no record at {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a valid record: {error}; {_REMEDY}.") from None


def load(path: str | Path, model: type[Kind]) -> Kind:
    """Reads one record. UserError as ``read_document``, and if it is of another kind."""
    content = read_document(path)
    try:
        if (kind := content.pop("kind", None)) != model.KIND:
            raise ValueError(f"kind is {kind!r}")
        return model(**content)
    except ValueError as error:
        reason = _sentence(error) if isinstance(error, ValidationError) else error
        raise UserError(f"{path} is not a valid {model.KIND}: {reason}; {_REMEDY}.") from None


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


def collect_provenance() -> dict[str, Any]:
    """Describes this process: software versions, processor and GPUs, git commit, UTC time.

    What is not there is None (a package that is not installed, CUDA on a CPU machine, the commit
    where git is absent or the project is not a checkout).
    """
    # torch takes seconds to import; those who only read records do without it.
    import torch

    versions: dict[str, str | None] = dict.fromkeys(("torchvision", "higher", "numpy"))
    for package in versions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cpu = platform.processor() or None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(n.partition(":")[2].strip() for n in lines if n.startswith("model name"))
    cuda = torch.cuda.is_available()
    gpus = range(torch.cuda.device_count() if cuda else 0)
    # Without the kernel's release string: builders put names of sites and machines into it.
    system = [platform.system(), platform.machine(), *filter(None, platform.libc_ver())]
    # A copy without .git may lie inside somebody's own repository, whose commit is not ours.
    top, commit = _git("rev-parse", "--show-toplevel"), None
    if top is not None and Path(top).resolve() == _PROJECT:
        commit = _git("rev-parse", "HEAD")
    # results/ does not count: a campaign of runs rewrites it, and its later runs are as clean as
    # the first.
    changed = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    changes = _git(*changed) if commit is not None else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **versions,
        "platform": " ".join(system),
        "cpu": cpu,
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in gpus],
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "utc_time": utc_now(),
        "git_commit": commit,
        "git_dirty": None if changes is None else changes != "",
    }


def utc_now() -> str:
    """The time in UTC as ISO 8601, to the second: 2021-12-06T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git(*arguments: str) -> str | None:
    # A run is no place for locks: `status` may otherwise rewrite the index.
    command = ["git", "--no-optional-locks", "-C", str(_PROJECT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


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
