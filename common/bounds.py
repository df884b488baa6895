"""Ranges of numbers on the command lines of scripts."""

import math
from dataclasses import dataclass

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


THREADS = Bounds(least=0, most=1024)
"""CPU threads; 0: torch's choice."""
