"""Record files: JSON that is written through a pydantic model and read back through it.

A record describes itself (``kind``), carries a checksum of its content, and is consistent or
refused: damage, a changed field and impossible values end in one sentence.
"""

import hashlib
import json
import math
import textwrap
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, JsonValue, ValidationError

from common.errors import UserError
from common.files import write_atomic

_LINE_WIDTH = 100


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not a finite number: look there for a diverged run")
    return value


Finite = Annotated[Any, AfterValidator(_finite)]
"""A number as it stands in the file: 1 stays 1, and 1.0 stays 1.0."""
NotNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
JsonObject = dict[str, Annotated[Any, GetPydanticSchema(lambda _, schema: schema(JsonValue))]]
"""Plain JSON values by name; who reads one knows its type."""


class Inconsistent(ValueError):
    """Fields of a record contradict each other; the message begins with the field's name."""


class Strict(BaseModel):
    """Exactly the fields named, of exactly their types."""

    model_config = {"extra": "forbid", "strict": True, "allow_inf_nan": False, "frozen": True}


class Record(Strict):
    """Base of all records.

    KIND: what the file says it is. SCHEMA_VERSION: the newest form that this code reads.
    """

    KIND: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_one_sentence(error)) from None

    def check(self) -> None:
        """Raises Inconsistent if fields contradict each other.

        Records are checked when they are written and when they are read, not when they are made.
        """


Kind = TypeVar("Kind", bound=Record)


def save(record: Record, path: str | Path) -> Path:
    """Writes the record as JSON, in one step: an error or a kill leaves the file that was there.

    Raises UserError, naming the field, for a record that ``load`` would refuse.
    """
    content = record.model_dump()
    try:
        type(record)(**content).check()  # again, since lists inside may have been changed
    except (Inconsistent, UserError) as error:
        raise UserError(f"The record for {path} is not valid: {error}.") from None
    head = {"kind": record.KIND, "schema_version": record.SCHEMA_VERSION}
    document = head | content | {"sha256": checksum(content)}
    return write_atomic(path, _render(document) + "\n")


def load(path: str | Path, model: type[Kind]) -> Kind:
    """Reads one record. Raises UserError, naming the file, if it is missing, damaged, of another
    kind, inconsistent, or changed since it was written.

    A file without ``sha256`` is from before the checksum existed, and read without it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise Inconsistent("it holds no JSON object")
        kind, version = content.pop("kind", None), content.pop("schema_version", 1)
        expected = content.pop("sha256", None)
        if kind != model.KIND:
            raise Inconsistent(f"kind is {kind!r}")
        if type(version) is not int or not 1 <= version <= model.SCHEMA_VERSION:
            raise Inconsistent(f"schema_version is {version!r}; this code reads 1 to "
                               f"{model.SCHEMA_VERSION}")  # fmt: skip
        record = model(**content)
        record.check()
        if expected not in (None, checksum(content)):
            raise Inconsistent("it was changed after it was written (sha256 disagrees)")
    except FileNotFoundError:
        raise UserError(f"There is no record at {path}.") from None
    except (OSError, ValueError, RecursionError, UserError) as error:
        raise UserError(
            f"{path} is not a valid {model.KIND}: {error}; restore the file, or delete it and "
            "repeat that run."
        ) from None
    return record


def load_folder(folder: str | Path, model: type[Kind]) -> list[Kind]:
    """Every JSON file under a folder (recursively, sorted by path), all of one kind of record.

    A missing folder has none. A file that is not such a record raises UserError: leaving it out
    without a word would change a table.
    """
    return [load(path, model) for path in sorted(Path(folder).rglob("*.json"))]


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of what a file holds (kind, version and checksum aside), as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _one_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    value = repr(first["input"])
    text = first["msg"].removeprefix("Value error, ")
    return f"{field} ({value if len(value) < 80 else value[:80] + '...'}): {text}"


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
