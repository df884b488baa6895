"""Command lines made from an experiment's dataclass of settings."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

from common.errors import UserError
from common.settings import RunSettings

Config = TypeVar("Config", bound=RunSettings)


def parse_settings(
    presets: Mapping[str, Config], description: str, argv: Sequence[str] | None = None
) -> Config:
    """Settings from the command line, with the defaults of the preset that it names.

    presets: name -> settings; the first is the default. Raises UserError for values that make no
    sense; unknown options end the program with status 2, as is usual.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=next(iter(presets)))
    preset = first.parse_known_args(argv)[0].preset
    if preset not in presets:
        raise UserError(f"--preset {preset} is unknown: use {', '.join(presets)}")
    default = presets[preset]
    text = f"{description}\n\nmethods: {', '.join(default.methods)}\ndefaults: preset {preset}"
    config = tyro.cli(
        type(default),
        args=argv,
        default=default,
        prog=f"python -m {default.experiment}",
        description=text,
    )
    return config.validate()
