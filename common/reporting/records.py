"""Run records: one JSON file per run, checked when written and when read.

A record holds what a table or a figure needs (settings, metrics, cost) and what somebody needs
to trust it (versions, device, commit, checksums of the data). Its fields and types are in
`record_schema.json`.
"""

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jsonschema

from common.errors import UserError
from common.files import write_atomic

SCHEMA_VERSION = 1
RECORD_KIND = "evograd-run-record"
_LINE_WIDTH = 100


@dataclass(frozen=True)
class RunRecord:
    """One run: one experiment, one method, one seed."""

    experiment: str
    method: str
    seed: int
    preset: str
    config: dict[str, Any]  # every setting of the run, JSON values
    epochs: list[dict[str, float]]  # metrics by epoch, each with "epoch"
    traces: dict[str, list[float]]  # series by iteration, equal lengths, with "iteration"; or {}
    final: dict[str, float]  # metrics at the last epoch
    best: dict[str, dict[str, float]]  # metric -> {"value": ..., "epoch": ...}; or {}
    cost: dict[str, Any]  # such as seconds_per_step, peak_bytes, seconds_per_epoch; or {}
    data: dict[str, str]  # file or split -> checksum
    provenance: dict[str, Any]  # collect_provenance(), wall_seconds, started, finished
    schema_version: int = SCHEMA_VERSION
    curves: dict[str, list[float]] = field(default_factory=dict)  # for figures, of any length


def write_record(record: RunRecord, path: str | Path) -> Path:
    """Write the record as JSON, in one step: an error or a kill leaves the file that was there.

    Raises UserError, naming the field, for what JSON has no number for (NaN, infinity) and for
    a record that the schema refuses.
    """
    document = {"kind": RECORD_KIND, "schema_version": record.schema_version} | asdict(record)
    where = f"The record for {path}"
    _check_values(document, where)
    document = json.loads(json.dumps(document))  # tuples become lists, as they will on reading
    _check_document(document, where)
    return write_atomic(path, _render(document) + "\n")


def read_record(path: str | Path) -> RunRecord:
    """Read one record. Raises UserError, naming the file, when it is missing, damaged or none."""
    document = _read_json(Path(path))
    if not _is_record(document):
        raise UserError(f'{path} is not a run record ("kind" is not "{RECORD_KIND}").')
    return _to_record(document, Path(path))


def read_records(folder: str | Path, experiment: str | None = None) -> list[RunRecord]:
    """Read every record under `folder` (recursively, sorted by path), of one experiment if given.

    JSON files that are no run records are passed over; a missing folder has none. A damaged JSON
    file raises UserError: leaving a run out of a table silently would change the table.
    """
    records = []
    for path in sorted(Path(folder).rglob("*.json")):
        document = _read_json(path)
        if _is_record(document):
            records.append(_to_record(document, path))
    return [r for r in records if experiment is None or r.experiment == experiment]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no run record at {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}): delete it and repeat that run."
        ) from None


def _is_record(document: Any) -> bool:
    return isinstance(document, dict) and document.get("kind") == RECORD_KIND


def _to_record(document: dict[str, Any], path: Path) -> RunRecord:
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has record version {version}, this code reads up to {SCHEMA_VERSION}: "
            "update the code."
        )
    _check_values(document, str(path))
    _check_document(document, str(path))
    names = (entry.name for entry in fields(RunRecord))
    return RunRecord(**{name: document[name] for name in names if name in document})


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(Path(__file__).with_name("record_schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _check_document(document: dict[str, Any], where: str) -> None:
    error = jsonschema.exceptions.best_match(_validator().iter_errors(document))
    if error is not None:
        message = error.message if len(error.message) < 200 else f"{error.message[:200]}..."
        raise UserError(
            f"{where} does not follow the record schema at {error.json_path} ({message}): "
            "correct the field or repeat that run."
        )
    # JSON Schema cannot compare the lengths of two arrays.
    traces = document["traces"]
    lengths = {name: len(series) for name, series in traces.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where} has traces of different lengths ({lengths}): repeat that run.")
    if traces and "iteration" not in traces:
        raise UserError(
            f'{where} has traces without the series "iteration": add the iteration numbers.'
        )


def _check_values(value: Any, where: str, field: str = "record") -> None:
    """Refuse what JSON would reject or silently change, naming the field that holds it."""
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(
                f"{where} has {value} in {field}, which is no finite number: "
                "look there for a diverged run or an empty average."
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where} has the key {key!r} in {field}: keys must be strings.")
            _check_values(item, where, f"{field}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_values(item, where, f"{field}[{index}]")
    else:
        raise UserError(
            f"{where} has a {type(value).__name__} in {field}: "
            "give plain numbers, strings, lists and dictionaries."
        )


def _render(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits on a line stays on one, and long lists of numbers fill lines.

    One line per epoch and filled lines of numbers keep files small and differences readable.
    """
    flat = json.dumps(value)
    if len(flat) + indent <= _LINE_WIDTH or not isinstance(value, (dict, list)):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_render(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "}"
    if all(isinstance(item, (int, float)) for item in value):
        lines = _fill((json.dumps(item) for item in value), _LINE_WIDTH - indent - 1)
    else:
        lines = [_render(item, indent + 1) for item in value]
    return "[\n" + ",\n".join(pad + line for line in lines) + "\n" + " " * indent + "]"


def _fill(words: Iterable[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 2 + len(word) > width:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines
