"""The cross-domain few-shot experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from common.report import (
    INTERVAL_NOTE,
    by_place,
    comparisons,
    difference,
    labelled,
    measured,
    number,
    step_costs,
    written_section,
)
from common.reporting import (
    Figure,
    Number,
    Published,
    RunRecord,
    Section,
    Table,
    comparison_table,
    published_value,
    write_table,
)
from common.reporting.frame import seed_means
from common.reporting.records import load_folder
from cross_domain_fewshot.config import EXPERIMENT, METHODS
from cross_domain_fewshot.data import DOMAINS
from cross_domain_fewshot.figures import Cells, contact_sheets, draw_figures
from cross_domain_fewshot.noise_study import NoiseRecord, noise_table

EPISODES_NOTE = (
    "A run's accuracy is the mean over its test episodes, which are the same for all methods of "
    "a seed."
)
_INTRO = """
A few-shot learner is trained on four domains and tested on new classes of a fifth. Feature-wise
transformation layers add noise to its features in training; the size of the noise is trained on
the training loss (**FT**) or learned by hypergradients (**LFT**), so that what is learned on one
training domain works on another. No transformation and FT are trained as in the authors' code, on
all four domains at once without auxiliary loss, and **controlled**: in LFT's training loop, FT's
noise fixed. Accuracy is that at the last epoch unless said otherwise.
"""
_NONE, _FT = METHODS["none"].label, METHODS["ft"].label
REFERENCES = (_NONE, f"{_NONE} protocol=controlled")
"""What the others are compared with: none in the released way, and in the loop of the others."""
EFFECTS = (
    ("mixed stream instead of pairs, no auxiliary loss", _NONE, _NONE, f"{_NONE} protocol=pairs"),
    ("auxiliary loss, pairs", _NONE, f"{_NONE} protocol=controlled", f"{_NONE} protocol=pairs"),
    ("FT trained instead of fixed, mixed stream", _FT, _FT, f"{_FT} protocol=fixed"),
    ("released instead of controlled", _NONE, _NONE, f"{_NONE} protocol=controlled"),
    ("released instead of controlled", _FT, _FT, f"{_FT} protocol=controlled"),
    *(
        (f"{METHODS[m].label} instead of none", protocol, METHODS[m].label, reference)
        for m in ("lft_evograd", "lft_t1t2")
        for protocol, reference in zip(("released", "controlled"), REFERENCES, strict=True)
    ),
    ("EvoGrad instead of T1-T2", "LFT", METHODS["lft_evograd"].label, METHODS["lft_t1t2"].label),
)
"""What is changed, in what, and the labels of the runs with and without the change."""
_METRICS = {"accuracy": "ci95", "best_accuracy": "best_ci95", "val_accuracy": "val_ci95"}
"""Metrics of a run, and their own intervals over episodes."""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    of = {b: [r for r in records if r.config["benchmark"] == b] for b in sorted(DOMAINS)}
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if of["paper"]:
        tables["accuracy"] = accuracy_table(of["paper"], preset)
    if of["embedded"]:
        tables["embedded"] = embedded_table(of["embedded"])
        tables["effects"] = effects_table(of["embedded"])
    if records:
        tables["cost"] = step_costs(
            EXPERIMENT,
            "Few-shot: cost of one training step",
            records,
            lambda run: f"{run['benchmark']}, {setting_name(run)}",
        )
    for benchmark, own in of.items():
        for setting, cells in by_setting(own).items():
            figures += draw_figures(benchmark, setting, cells, folder)
    for benchmark, own in of.items():
        if own:
            figures += contact_sheets(benchmark, own[-1].config["image_size"], folder)
    return written_section(EXPERIMENT, _INTRO, preset, records, tables, figures, folder)


def draw_studies(records: Path, folder: Path) -> None:
    """The tables of studies that are not runs: from records/STUDY/records into folder/STUDY."""
    if found := load_folder(records / "noise" / "records", NoiseRecord):
        write_table(noise_table(found), folder / "noise", "noise")


def setting_name(config: Mapping[str, Any]) -> str:
    """Network and episodes of a run, for people."""
    return (
        f"{config['backbone'].replace('resnet', 'ResNet-')}, relationnet, "
        f"{config['n_way']}-way {config['n_shot']}-shot"
    )


def _place(config: Mapping[str, Any]) -> tuple[str, str]:
    """Setting and unseen domain."""
    return setting_name(config), config["unseen"]


def _order(config: Mapping[str, Any]) -> tuple[Any, ...]:
    setting = (config[name] for name in ("backbone", "n_way", "n_shot"))
    return *setting, DOMAINS[config["benchmark"]].index(config["unseen"])


def by_setting(records: Iterable[RunRecord]) -> dict[str, Cells]:
    """Runs of one benchmark by setting, unseen domain and label."""
    settings: dict[str, Cells] = {}
    for (setting, unseen), group in by_place(EXPERIMENT, records, _place, _order).items():
        settings.setdefault(setting, {})[unseen] = group
    return settings


def published_accuracy(config: Mapping[str, Any]) -> Published | None:
    """Table 3's value; None where the paper has none (other heads, episodes, backbones)."""
    row = METHODS[config["method"]].published
    same = config["benchmark"] == "paper"
    same = same and config["n_way"] == 5 and config["n_shot"] in (1, 5)
    if not same or config["backbone"] not in ("resnet10", "resnet34") or row is None:
        return None
    shots = f"{config['n_shot']}shot"
    return published_value(EXPERIMENT.name, shots, config["backbone"], row, config["unseen"])


def accuracy_table(records: Sequence[RunRecord], preset: str) -> Table:
    """Table 3 on the paper's data: published and measured, with planned cells without runs."""
    groups = by_place(EXPERIMENT, records, _place, _order)
    planned = [config for config in EXPERIMENT.planned(preset) if config.benchmark == "paper"]
    places = dict.fromkeys([*(_place(config.result_settings()) for config in planned), *groups])
    judged = preset == "paper"
    return comparison_table(
        "Few-shot accuracy (%) on the unseen domain",
        comparisons(
            EXPERIMENT, places, groups, planned, _place, published_accuracy, judged, ci95="ci95"
        ),
        label_columns=("setting", "unseen domain", "method"),
        caption="At the last epoch (the paper's Table 3).",
        notes=(EPISODES_NOTE,),
    )


def _frames(records: Iterable[RunRecord]) -> dict[str, pd.DataFrame]:
    """One row per run in the order of the tables, by setting; the label in column ``method``."""
    return {
        setting: labelled(
            EXPERIMENT, (r for methods in cells.values() for runs in methods.values() for r in runs)
        )
        for setting, cells in by_setting(records).items()
    }


def embedded_table(records: Iterable[RunRecord]) -> Table:
    """Accuracy by unseen domain and method on the embedded benchmark, for which nothing is
    published. The last block has the mean over the unseen domains, for the methods and seeds with
    runs on all of them."""
    rows = []
    for setting, runs in _frames(records).items():
        everything = pd.concat([runs, _mean_over_domains(runs)])
        for unseen, own in everything.groupby("unseen", sort=False):
            for name, cell in own.groupby("method", sort=False):
                gains = (difference(EXPERIMENT, own, name, other) for other in REFERENCES)
                accuracy, *others = (
                    _spread(cell[f"final.{metric}"], cell[f"final.{ci95}"].iloc[0])
                    for metric, ci95 in _METRICS.items()
                )
                numbers = (accuracy, *(_spread(gain, signed=True) for gain in gains), *others)
                rows.append((setting, unseen, name, *numbers, str(len(cell))))
    return Table(
        "Embedded benchmark: few-shot accuracy (%) on the unseen domain",
        pd.DataFrame(
            rows,
            columns=[
                "setting",
                "unseen domain",
                "method",
                "accuracy",
                "− none",
                "− none, controlled",
                "best epoch",
                "val",
                "seeds",
            ],
        ),
        caption="A benchmark of this project, of small images; its numbers are not comparable "
        "with the paper's. Controlled: in the training loop of LFT, FT's noise fixed. − none and "
        "− none, controlled: difference to the same seeds without transformations, trained either "
        "way. Best epoch: with the weights of the best epoch on the base domain's val classes. "
        "Val: there, at the last epoch.",
        notes=(
            f"{INTERVAL_NOTE[:-1]}; of a single run: over its test episodes.",
            EPISODES_NOTE,
        ),
    )


def _mean_over_domains(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each method and seed with runs on every unseen domain: their mean. No rows if
    there is one domain only."""
    domains = runs["unseen"].nunique()
    by_run = runs.groupby(["method", "seed"], sort=False)
    columns = [f"final.{metric}" for metric in _METRICS]
    means = by_run[columns].mean()[(by_run.size() == domains) & (domains > 1)]
    return means.reset_index().assign(unseen="mean")


def _spread(values: pd.Series, ci95: float | None = None, signed: bool = False) -> Number | str:
    """Mean ± half the 95 % interval over runs; of a single value ± ci95."""
    if len(values) == 1 and ci95 is not None and not isnan(ci95):
        return Number(values.iloc[0], ci95)
    return number(measured(values), signed=signed)


def effects_table(records: Iterable[RunRecord]) -> Table:
    """What the parts of the training protocol change, on the same unseen domains and seeds."""
    rows = []
    for setting, runs in _frames(records).items():
        for change, where, with_it, without in EFFECTS:
            changes = difference(EXPERIMENT, runs, with_it, without, "unseen").reset_index()
            if found := measured(seed_means(changes)["mean"]):
                mean = number(found, signed=True)
                rows.append((setting, change, where, mean, str(found.n)))
    return Table(
        "Embedded benchmark: what the training protocol changes",
        pd.DataFrame(rows, columns=["setting", "change", "in", "accuracy", "seeds"]),
        caption="Difference in accuracy (points) between runs with and without the change, on the "
        "same unseen domains and seeds: for each seed the mean over domains.",
        notes=(INTERVAL_NOTE,),
    )
