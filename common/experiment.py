"""An experiment, declared once: what command line, sweep, report, publishing and studies read.

Every experiment is a folder whose ``config.py`` ends with ``EXPERIMENT = Experiment(...)``. Its
other files have fixed names and are imported on use: ``train`` has ``run(config)``, ``report`` has
``section(records, preset, folder)``; if they exist, ``cost`` has ``cases(size)`` and
``fidelity`` has ``moments(...)``.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.estimators import ESTIMATORS, ONE_BATCH

if TYPE_CHECKING:
    from common.reporting import RunRecord
    from common.settings import RunSettings


@dataclass(frozen=True)
class Method:
    """A method of an experiment: a row of its tables.

    label: its name for people. estimator: the name of its hypergradient estimator in the registry
    of common/hypergrad; None for a method without a meta step. published: its row among the
    experiment's published numbers; None if the paper has none.
    """

    label: str
    estimator: str | None = None
    published: str | None = None


def estimator_methods(
    labels: Mapping[str, str] | None = None,
    published: Mapping[str, str] | None = None,
    excluded: Sequence[str] = (),
) -> dict[str, Method]:
    """A method for every estimator that takes one batch per step, named as in the registry.

    labels: for tables, in place of the registry's. published: rows of published.json. excluded:
    those that do not apply to the experiment's problem.
    """
    labels, published = labels or {}, published or {}
    return {
        name: Method(labels.get(name, ESTIMATORS[name].label), name, published.get(name))
        for name in ONE_BATCH
        if name not in excluded
    }


Variant = Callable[[Mapping[str, Any]], list[str]]
"""How settings (of a run, or a record's config) differ from their preset, in words."""


def _no_variant(settings: Mapping[str, Any]) -> list[str]:
    return []


def variant_of(presets: "Mapping[str, RunSettings]", words: Mapping[str, str]) -> Variant:
    """``Experiment.variant`` from the words for each setting.

    words: setting -> what to say if its value is not the preset's; {} stands for the value, as in
    "decay {:g}". Records may lack settings that are newer than they are: those are the preset's.
    """

    def variant(settings: Mapping[str, Any]) -> list[str]:
        default, found = presets[settings["preset"]].deciding(), []
        for name, word in words.items():
            value = settings.get(name, default[name])
            several = isinstance(value, list | tuple)
            if (list(value) if several else value) != default[name]:
                found.append(word.format(" ".join(map(str, value)) if several else value))
        return found

    return variant


@dataclass(frozen=True)
class Experiment:
    """The declaration of an experiment.

    name: of the folder. title: of its section. description: for ``--help``. presets: settings by
    preset, the first being the default. planned: preset -> the runs behind its tables and figures.
    metric: of a run's final values, the one that methods are compared in. baseline: the method that
    others are compared with. axes: settings, besides method and seed, that tell planned runs apart
    (the unseen domain, the target language). variant: how a run's settings differ from its preset,
    in words; runs with such words have separate rows in tables. data: the data sets that a preset
    needs, by their names in common/datasets.
    """

    name: str
    title: str
    description: str
    methods: Mapping[str, Method]
    presets: "Mapping[str, RunSettings]"
    planned: "Callable[[str], Sequence[RunSettings]]"
    metric: str
    baseline: str
    axes: tuple[str, ...] = ()
    variant: Variant = _no_variant
    data: Mapping[str, tuple[str, ...]] | tuple[str, ...] = ()

    def preset(self, name: str) -> "RunSettings":
        """The settings of a preset; UserError if there is none of that name."""
        if name not in self.presets:
            raise UserError(f"--preset {name} is unknown: use {', '.join(self.presets)}")
        return self.presets[name]

    def datasets(self, preset: str) -> tuple[str, ...]:
        """Names in common/datasets of what the preset's runs read."""
        return self.data.get(preset, ()) if isinstance(self.data, Mapping) else self.data

    def runs(
        self, preset: str, chosen: Mapping[str, Sequence[Any] | None] | None = None
    ) -> "list[RunSettings]":
        """The planned runs that have the chosen values, those asked for but not planned included.

        chosen: values by setting ("seed", "method", or an axis); None: all that are planned. A
        value that is not planned takes the place of the first planned one.
        """
        self.preset(preset)
        runs = self.planned(preset)
        for name, values in (chosen or {}).items():
            if values:
                planned = [getattr(config, name) for config in runs]
                model = {v: v if v in planned else planned[0] for v in values}
                runs = [
                    replace(config, **{name: value})
                    for value in values
                    for config in runs
                    if getattr(config, name) == model[value]
                ]
        return list({run.run_name(): run.validate() for run in runs}.values())

    def label(self, config: Mapping[str, Any]) -> str:
        """The method of a run for people, with what its settings change in the preset."""
        return ", ".join([self.methods[config["method"]].label, *self.variant(config)])

    def by_method(self, records: "Iterable[RunRecord]") -> "dict[str, list[RunRecord]]":
        """Runs by method, in the order of ``methods``; those without runs have an empty list."""
        records = list(records)
        return {m: [r for r in records if r.method == m] for m in self.methods}

    def file(self, name: str) -> ModuleType:
        """A file of the experiment's folder, imported."""
        return importlib.import_module(f"{self.name}.{name}")

    def main(self, argv: Sequence[str] | None = None) -> None:
        """``python -m NAME``: one run, from settings to its last metrics."""
        from common.cli import parse_settings
        from common.training.processes import is_first

        config = parse_settings(self.presets, self.description, argv)
        record = self.file("train").run(config)
        final = ", ".join(f"{name} {value:.4g}" for name, value in record.final.items())
        if is_first():
            print(f"{config.run_name()}: {final}")


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
