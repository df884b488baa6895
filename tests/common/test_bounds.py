"""Ranges of settings."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest
import tyro

from common.bounds import Bounds, PositiveFloat, PositiveInt, check_settings
from common.errors import UserError


@dataclass(frozen=True)
class Base:
    log_every: PositiveInt = 5


@dataclass(frozen=True)
class Settings(Base):
    log_every: int = 50
    rate: PositiveFloat = 0.1
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9
    part: Annotated[float, Bounds(least=0, most=1)] = 0.5
    hidden: Annotated[int, Bounds(least=32, multiple_of=32)] = 64
    milestones: tuple[PositiveInt, ...] = (2, 3)
    radius: PositiveFloat | None = None
    degrees: float = 30.0
    kind: Literal["a", "b"] = "a"
    seeds: int = 1


def test_values_inside_their_range_are_accepted():
    check_settings(Settings())
    check_settings(Settings(momentum=0, part=1, hidden=96, milestones=(), radius=2, degrees=-720.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"log_every": 0}, "--log-every 0 must be at least 1"),  # the base class's bounds
        ({"rate": 0.0}, "--rate 0.0 must be greater than 0"),
        ({"rate": math.inf}, "--rate inf must be greater than 0"),
        ({"momentum": 1}, "--momentum 1 must be at least 0 and below 1"),
        ({"part": -0.1}, "--part -0.1 must lie between 0 and 1"),
        ({"hidden": 40}, "--hidden 40 must be at least 32 and a multiple of 32"),
        ({"milestones": (5, -1)}, "--milestones -1 must be at least 1"),
        ({"radius": 0}, "--radius 0 must be greater than 0"),
        ({"degrees": math.nan}, "--degrees nan must be a finite number"),
        ({"kind": "c"}, "--kind c is unknown: use a, b"),
        ({"seeds": 2**70}, f"--seeds {2**70} must be at most {2**31 - 1}"),
        ({"seeds": 1.5}, "--seeds 1.5 must be a whole number"),
        ({"rate": "0.1"}, "--rate '0.1' must be a number"),
    ],
)
def test_a_value_outside_its_range_is_named_with_it(changed, message):
    with pytest.raises(UserError) as refused:
        check_settings(replace(Settings(), **changed))
    assert str(refused.value) == message


def test_annotated_settings_make_the_same_command_line():
    parsed = tyro.cli(Settings, args=["--rate", "0.5", "--milestones", "4", "7", "--radius", "3"])
    assert parsed == Settings(rate=0.5, milestones=(4, 7), radius=3.0)
