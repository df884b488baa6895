"""Checkpoints: written in one step, loaded without running foreign code, tied to their settings."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError


def save_checkpoint(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes tensors and plain values, with the settings they belong to; atomic.

    A kill at any moment leaves either the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"settings": dict(settings), "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state saved at ``path``, or None if there is none.

    Raises UserError if the file is damaged or belongs to other settings.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = content["settings"], content["state"]
    except Exception as error:  # damage shows in as many ways as there are bytes
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): "
            "delete it, or add --restart, to begin the run again"
        ) from None
    check_same_settings(path, saved, settings)
    return state


def check_same_settings(path: Path, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises UserError if ``saved`` (found in ``path``) are not the ``settings`` asked for."""
    differing = [
        f"{name} {saved.get(name)} (asked for: {settings.get(name)})"
        for name in sorted({*saved, *settings})
        if saved.get(name) != settings.get(name)
    ]
    if differing:
        raise UserError(
            f"{path} belongs to a run with {', '.join(differing)}: "
            "choose another --run-dir, or add --restart to replace it"
        )
