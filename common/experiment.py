"""An experiment, declared once: what command line, sweep, report, publishing and studies read.

Every experiment is a folder whose ``config.py`` ends with ``EXPERIMENT``, an object of its own
subclass of ``Experiment``. Its methods import what they need when they are called.
"""

import argparse
import hashlib
import importlib
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import tyro

from common.errors import UserError
from common.estimators import ESTIMATORS, ONE_BATCH

if TYPE_CHECKING:
    import torch

    from common.reporting import RunRecord, Section
    from common.run import Task
    from common.settings import RunSettings


@dataclass(frozen=True)
class Method:
    """A method: a row of an experiment's tables. label: for people. estimator: its name in the
    registry (common/estimators.py), if it has one. published: its row in published.json, if any."""

    label: str
    estimator: str | None = None
    published: str | None = None


def estimator_methods(
    labels: Mapping[str, str] = MappingProxyType({}),
    published: Mapping[str, str] = MappingProxyType({}),
    excluded: Sequence[str] = (),
) -> dict[str, Method]:
    """A method for every estimator that takes one batch per step, named as in the registry.
    labels: in place of the registry's. published: names of rows in published.json. excluded: those
    that do not apply to the problem."""
    return {
        name: Method(labels.get(name, ESTIMATORS[name].label), name, published.get(name))
        for name in ONE_BATCH
        if name not in excluded
    }


class Experiment(ABC):
    """The declaration of an experiment.

    name: of the folder. title: of its section. description: for ``--help``. presets: settings by
    preset, the first being the default. metric: the final value that methods are compared in;
    best_metric: the one whose best epoch is recorded. baseline: the method that others are compared
    with. axes: settings that say what a run is about, whatever its method (the data set, the unseen
    domain, the target language). words: how tables call a metric, where that is not its name.
    """

    name: str
    title: str
    description: str
    config: "type[RunSettings]"
    methods: Mapping[str, Method]
    presets: "Mapping[str, RunSettings]"
    metric: str
    best_metric: str
    baseline: str
    axes: tuple[str, ...] = ()
    words: Mapping[str, str] = {}

    @abstractmethod
    def planned(self, preset: str) -> "Sequence[RunSettings]":
        """The runs behind the tables and figures of a preset."""

    def section(self, records: "Sequence[RunRecord]", preset: str, folder: Path) -> "Section":
        """Draws the figures and writes the tables of finished runs into ``folder``, by report.py of
        the experiment."""
        return importlib.import_module(f"{self.name}.report").section(records, preset, folder)

    @abstractmethod
    def task(self, config: Any, device: "torch.device") -> "Task":
        """What is trained, from its data to its measures."""

    def run(self, config: Any) -> "RunRecord":
        """Trains and evaluates, or continues, or returns the record of a finished run."""
        from common.run import execute

        return execute(self, config)

    def place(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the axes that tell a run from those about something else."""
        return {axis: settings[axis] for axis in self.axes}

    def base(self, preset: str, place: Mapping[str, Any]) -> Mapping[str, Any]:
        """What planned runs at a place change in the preset beside the axes, by dotted key."""
        return {}

    def datasets(self, preset: str) -> tuple[str, ...]:
        """Names in common/datasets of what the preset's runs read."""
        return ()

    def studies(self) -> Any:
        """studies.py of the experiment, with the cases for the cost study and the snapshots for the
        fidelity study; None without."""
        name = f"{self.name}.studies"
        return importlib.import_module(name) if find_spec(name) else None

    def differences(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The result settings of a run, by dotted key, that differ from the planned ones: those of
        its preset, with what is planned at its place."""
        from common.settings import flat

        default, place = self.preset(settings["preset"]), self.place(settings)
        estimator = self.methods[settings["method"]].estimator
        known = default.result_settings() | {"estimator": default.estimator.taken_by(estimator)}
        planned = self.base(settings["preset"], place).items()
        known = flat(known) | {k: list(v) if isinstance(v, tuple) else v for k, v in planned}
        named = {"method", "seed", "preset", *place, *self.axes}
        return {k: v for k, v in flat(settings).items() if k not in named and v != known[k]}

    def variant(self, settings: Mapping[str, Any]) -> list[str]:
        """``differences`` as words, key=value."""
        changed = self.differences(settings).items()
        return [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in changed]

    def label(self, settings: Mapping[str, Any]) -> str:
        """The method of a run for people, with the settings that are not the planned ones."""
        return " ".join([self.methods[settings["method"]].label, *self.variant(settings)])

    def run_name(self, settings: Mapping[str, Any]) -> str:
        """Place, method, seed and differences: the name of a run's folder and record."""
        place = [v if isinstance(v, str) else f"{k}={v}" for k, v in self.place(settings).items()]
        words = [*place, settings["method"], f"seed{settings['seed']}", *self.variant(settings)]
        name = re.sub(r"[^\w.=,+-]", "_", "-".join(words))
        if len(name) > 200:  # of 255 that file systems allow
            name = f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        return name

    def preset(self, name: str) -> "RunSettings":
        """The settings of a preset; UserError if there is none of that name."""
        if name not in self.presets:
            raise UserError(f"--preset {name} is unknown: use {', '.join(self.presets)}")
        return self.presets[name]

    def runs(
        self,
        preset: str,
        chosen: Mapping[str, Sequence[Any] | None] | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> "list[RunSettings]":
        """The planned runs that have the chosen values (by setting: "seed", "method", an axis), of
        which one that is not planned takes the place of the first planned one. changes: settings,
        by dotted key, that all runs have in place of their own."""
        self.preset(preset)
        runs = list(self.planned(preset))
        for name, values in (chosen or {}).items():
            if values:
                planned = [getattr(config, name) for config in runs]
                model = {v: v if v in planned else planned[0] for v in values}
                runs = [
                    config.changed({name: value})
                    for value in values
                    for config in runs
                    if getattr(config, name) == model[value]
                ]
        runs = [config.changed(changes or {}) for config in runs]
        return list({run.run_name(): run for run in runs}.values())

    def by_method(self, records: "Iterable[RunRecord]") -> "dict[str, list[RunRecord]]":
        """Runs by method, in the order of ``methods``; of some methods there may be none."""
        records = list(records)
        return {m: [r for r in records if r.method == m] for m in self.methods}

    def records(self, preset: str, folder: Path) -> "list[RunRecord]":
        """The runs of a preset under ``folder``, each with settings that the experiment accepts;
        UserError for any other file."""
        from common.reporting import read_records

        records = read_records(folder, self.name, preset)
        for record in records:
            try:
                self.preset(self.config.from_result_settings(record.config).preset)
            except UserError as error:
                which = f"{self.name}, {record.method}, seed {record.seed}"
                raise UserError(f"The record of {which}, is not valid: {error}") from None
        return records

    def parse(self, argv: Sequence[str] | None = None) -> "RunSettings":
        """Settings from a command line, with the defaults of the preset that it names; UserError
        for values that make no sense."""
        argv = list(sys.argv[1:] if argv is None else argv)
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--preset", default=next(iter(self.presets)))
        preset = first.parse_known_args(argv)[0].preset
        default, methods = self.preset(preset), ", ".join(self.methods)
        text = f"{self.description}\n\nmethods: {methods}\ndefaults: preset {preset}"
        prog = f"python -m {self.name}"
        return tyro.cli(type(default), args=argv, default=default, prog=prog, description=text)

    def main(self, argv: Sequence[str] | None = None) -> None:
        """``python -m NAME``: one run, from settings to its last metrics and the record's path."""
        from common.run import RECORD
        from common.training.processes import is_first

        config = self.parse(argv)
        record = self.run(config)
        words = self.words
        final = ", ".join(f"{words.get(n, n)} {value:.4g}" for n, value in record.final.items())
        if is_first():
            print(f"{self.run_name(record.config)}: {final}\n{config.directory() / RECORD}")


def load_experiment(name: str) -> Experiment:
    """The experiment in the folder ``name``; UserError if that folder holds none."""
    try:
        return importlib.import_module(f"{name}.config").EXPERIMENT
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name not in (name, f"{name}.config"):
            raise
        raise UserError(
            f"{name} is not an experiment: it has no config.py with EXPERIMENT"
        ) from None
