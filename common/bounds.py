"""Ranges of settings, written in their annotations and checked in one place.

    @dataclass(frozen=True)
    class Config(RunSettings):
        epochs: PositiveInt = 60
        learning_rate: PositiveFloat = 0.1
        momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9
        milestones: tuple[PositiveInt, ...] = (40, 50)

``check_settings`` compares every field of a dataclass with its annotation. Numbers without bounds
must be finite, and whole numbers must fit into 32 bits.
"""

import functools
import math
import typing
from dataclasses import dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal

from common.errors import UserError

_LARGEST_WHOLE = 2**31 - 1


@dataclass(frozen=True)
class Bounds:
    """A range of numbers: least <= value <= most, above < value < below; None leaves a side open.

    multiple_of: what the value must be a whole multiple of.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None

    def check(self, flag: str, value: float) -> None:
        """Raises UserError, naming the flag, the value and the range, if the value is outside."""
        inside = (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
        )
        if not inside:
            raise UserError(f"{flag} {value} must {self}")
        if isinstance(value, int) and self.most is None and value > _LARGEST_WHOLE:
            raise UserError(f"{flag} {value} must be at most {_LARGEST_WHOLE}")

    def __str__(self) -> str:
        """What follows "must": "be at least 0 and below 1", "lie between 0 and 1", ..."""
        if self.least is not None and self.most is not None:
            return f"lie between {self.least} and {self.most}"
        limits = {
            "at least": self.least,
            "greater than": self.above,
            "at most": self.most,
            "below": self.below,
            "a multiple of": self.multiple_of,
        }
        parts = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
        return "be " + (" and ".join(parts) or "a finite number")


_FINITE = Bounds()
THREADS = Bounds(least=0, most=1024)
"""CPU threads; 0: torch's choice."""
PositiveInt = Annotated[int, Bounds(least=1)]
NonNegativeInt = Annotated[int, Bounds(least=0)]
PositiveFloat = Annotated[float, Bounds(above=0)]
NonNegativeFloat = Annotated[float, Bounds(least=0)]


def check_settings(settings: Any) -> None:
    """Raises UserError for the first field of a dataclass whose value its annotation excludes."""
    hints = _annotations(type(settings))  # type: ignore[arg-type]
    for field in fields(settings):
        flag = f"--{field.name.replace('_', '-')}"
        _check(flag, getattr(settings, field.name), hints[field.name])


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    """A field that a subclass repeats with another default keeps the bounds of its base class."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for base in cls.__mro__[1:-1]:
        for name, hint in typing.get_type_hints(base, include_extras=True).items():
            if typing.get_origin(hint) is Annotated and hints[name] == typing.get_args(hint)[0]:
                hints[name] = hint
    return hints


def _check(flag: str, value: Any, hint: Any, bounds: Bounds = _FINITE) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = [item for item in arguments[1:] if isinstance(item, Bounds)]
        _check(flag, value, arguments[0], *found)
    elif origin is Literal:
        if value not in arguments:
            raise UserError(f"{flag} {value} is unknown: use {', '.join(map(str, arguments))}")
    elif origin is tuple:
        for item in value:
            _check(flag, item, arguments[0], bounds)
    elif origin in (UnionType, typing.Union):
        if value is not None:
            (kind,) = (argument for argument in arguments if argument is not type(None))
            _check(flag, value, kind, bounds)
    elif hint in (int, float):
        _check_number(flag, value, hint, bounds)


def _check_number(flag: str, value: Any, kind: type, bounds: Bounds) -> None:
    allowed = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise UserError(f"{flag} {value!r} must be a {'whole ' if kind is int else ''}number")
    bounds.check(flag, value)
