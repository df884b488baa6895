"""A run record's settings, checked by the experiment that they belong to."""

import importlib
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import UserError
from common.reporting import RunRecord, read_records
from common.settings import RunSettings


def experiment_records(experiment: str, preset: str, folder: Path) -> list[RunRecord]:
    """The runs of one experiment and preset under ``folder``, each with settings that the
    experiment accepts; UserError for any other file."""
    records = read_records(folder, experiment, preset)
    for record in records:
        settings_of(record)
    return records


def settings_of(record: RunRecord) -> RunSettings:
    """A record's settings as the experiment's own class.

    UserError for an unknown preset, method or setting, a wrong type, a value out of range.
    Settings that are newer than the record have the preset's values.
    """
    where = f"The record of {record.experiment}, {record.method}, seed {record.seed},"
    presets = importlib.import_module(f"{record.experiment}.config").PRESETS
    if record.preset not in presets:
        raise UserError(f"{where} has the unknown preset {record.preset}: use {', '.join(presets)}")
    default = presets[record.preset]
    unknown = set(record.config) - set(default.deciding())
    if unknown:
        raise UserError(f"{where} has the unknown setting {min(unknown)}: repeat the run")
    try:
        # Strict: no text is taken for a number. As JSON, since lists stand for tuples there.
        settings = TypeAdapter(type(default)).validate_json(
            json.dumps(default.deciding() | record.config), strict=True
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where} is not valid: {first['loc'][0]}: {first['msg']}") from None
    try:
        return settings.validate()
    except UserError as error:
        raise UserError(f"{where} is not valid: {error}") from None
