"""The cross-domain few-shot experiment's tables and figures, from its run records."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common.errors import UserError
from common.report import (
    Group,
    by_place,
    comparisons,
    difference,
    interval_table,
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
    figure_style,
    legend_below,
    new_figure,
    published_value,
    save_figure,
    series_styles,
    write_table,
)
from common.reporting.frame import seed_means
from common.reporting.records import load_folder
from cross_domain_fewshot.config import EXPERIMENT, METHODS
from cross_domain_fewshot.data import DOMAINS, domains_of, open_domain
from cross_domain_fewshot.models import BETA_START, GAMMA_START, ResNet, transforms
from cross_domain_fewshot.noise_study import NoiseRecord, noise_table

EPISODES_NOTE = (
    "A run's accuracy is the mean over its test episodes, which are the same for all methods of "
    "a seed."
)
_INTRO = """
A few-shot learner is trained on four domains and tested on new classes of a fifth. Feature-wise
transformation layers add noise to its features in training; the size of the noise is trained on
the training loss (**FT**) or learned by hypergradients (**LFT**; by EvoGrad, or by **T1-T2**, the
exact hypergradient of one unrolled training step), so that what is learned on one training domain
works on another. No transformation and FT are trained as in the authors' code, on
all four domains at once without auxiliary loss, and **controlled**: in LFT's training loop, FT's
noise fixed. Accuracy is that at the last epoch unless said otherwise.
"""
_NONE, _FT = METHODS["none"].label, METHODS["ft"].label
_CONTROLLED = f"{_NONE} protocol=controlled"
EFFECTS = (
    ("mixed stream instead of pairs, no auxiliary loss", _NONE, _NONE, f"{_NONE} protocol=pairs"),
    ("auxiliary loss, pairs", _NONE, _CONTROLLED, f"{_NONE} protocol=pairs"),
    ("FT trained instead of fixed, mixed stream", _FT, _FT, f"{_FT} protocol=fixed"),
    ("released instead of controlled", _NONE, _NONE, _CONTROLLED),
    ("released instead of controlled", _FT, _FT, f"{_FT} protocol=controlled"),
    *(
        (f"{METHODS[m].label} instead of none", protocol, METHODS[m].label, reference)
        for m in ("lft_evograd", "lft_t1t2")
        for protocol, reference in (("released", _NONE), ("controlled", _CONTROLLED))
    ),
    ("EvoGrad instead of T1-T2", "LFT", METHODS["lft_evograd"].label, METHODS["lft_t1t2"].label),
)
"""What is changed, in what, and the labels of the runs with and without the change."""
_METRICS = {"accuracy": "ci95", "best_accuracy": "best_ci95", "val_accuracy": "val_ci95"}
"""Metrics of a run, and their own intervals over episodes."""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    for benchmark in sorted({record.config["benchmark"] for record in records}):
        own = [record for record in records if record.config["benchmark"] == benchmark]
        runs = ordered_runs(own)
        cells = accuracy_cells(runs, benchmark)
        if benchmark == "paper":
            tables["accuracy"] = accuracy_table(own, preset)
        else:
            tables |= embedded_tables(cells, benchmark)
        if benchmark == "embedded":
            tables["effects"] = effects_table(runs)
        for setting, group in runs.groupby("setting", sort=False):
            stem = "-".join([benchmark, *setting.lower().replace(",", "").split()])
            figures.append(_accuracy_figure(stem, setting, cells, folder))
            learned = group[[run.method.startswith("lft") for run in group["record"]]]
            if len(learned):
                by_method = learned.groupby("method", sort=False)["record"].apply(list).to_dict()
                figures.append(_deviation_figure(stem, setting, by_method, folder))
        figures += _contact_sheets(benchmark, own[-1].config["image_size"], folder)
    if records:
        title = "Few-shot: cost of one training step"
        tables["cost"] = step_costs(
            EXPERIMENT, title, records, lambda run: f"{run['benchmark']}, {setting_name(run)}"
        )
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
    return setting_name(config), domains_of(config["benchmark"]).index(config["unseen"])


def published_accuracy(config: Mapping[str, Any]) -> Published | None:
    """Table 3's value; None where the paper has none (other episodes, backbones)."""
    shots, backbone, row = config["n_shot"], config["backbone"], METHODS[config["method"]].published
    same = config["benchmark"] == "paper" and config["n_way"] == 5 and shots in (1, 5)
    if not same or backbone == "resnet18" or row is None:
        return None
    return published_value(EXPERIMENT.name, f"{shots}shot", backbone, row, config["unseen"])


def accuracy_table(records: Sequence[RunRecord], preset: str) -> Table:
    """Table 3 on the paper's data: published and measured, with planned cells without runs."""
    groups = by_place(EXPERIMENT, records, _place, _order)
    planned = [config for config in EXPERIMENT.planned(preset) if config.benchmark == "paper"]
    places = dict.fromkeys([*(_place(config.result_settings()) for config in planned), *groups])
    return comparison_table(
        "Few-shot accuracy (%) on the unseen domain",
        comparisons(EXPERIMENT, places, groups, planned, _place, published_accuracy, ci95="ci95"),
        ("setting", "unseen domain", "method"),
        "At the last epoch (the paper's Table 3).",
        preset == "paper",
        EPISODES_NOTE,
    )


def ordered_runs(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row per run in the order of the tables, with its ``setting``; the label as ``method``."""
    groups = by_place(EXPERIMENT, records, _place, _order).values()
    runs = [run for group in groups for own in group.values() for run in own]
    return labelled(EXPERIMENT, runs).assign(setting=[setting_name(run.config) for run in runs])


def accuracy_cells(runs: pd.DataFrame, benchmark: str = "embedded") -> pd.DataFrame:
    """By setting, unseen domain and method: the metrics, and the differences in accuracy from the
    references. Last the means over the unseen domains, of the methods and seeds with runs on all of
    them, if there are several. ± of a single run: over its test episodes."""
    added = "" if benchmark in DOMAINS else f" benchmark={benchmark}"
    references = [f"{_NONE}{added}", f"{_NONE}{added} protocol=controlled"]

    def mean(cell: pd.DataFrame, metric: str, ci95: str) -> Number | str:
        values, within = cell[f"final.{metric}"], cell.get(f"final.{ci95}")
        if len(values) == 1 and within is not None and within.notna().all():
            return Number(values.iloc[0], within.iloc[0])
        return number(measured(values))

    rows = []
    for setting, own in runs.groupby("setting", sort=False):
        domains, by_run = own["unseen"].nunique(), own.groupby(["method", "seed"], sort=False)
        means = by_run[[f"final.{metric}" for metric in _METRICS]].mean()
        means = means[(by_run.size() == domains) & (domains > 1)].reset_index()
        both = pd.concat([own, means.assign(unseen="mean")])
        for (unseen, name), cell in both.groupby(["unseen", "method"], sort=False):
            there = both[both["unseen"] == unseen]
            gains = [measured(difference(EXPERIMENT, there, name, r)) for r in references]
            metrics = [mean(cell, *metric) for metric in _METRICS.items()]
            signed = [number(gain, signed=True) for gain in gains]
            rows.append((setting, unseen, name, *metrics, *signed, str(len(cell))))
    columns = ["setting", "unseen domain", "method", "accuracy", "best epoch", "val", "− none",
               "− none, controlled", "seeds"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def embedded_tables(cells: pd.DataFrame, benchmark: str = "embedded") -> dict[str, Table]:
    """Accuracy by unseen domain and method on a benchmark for which nothing is published; of the
    embedded one also the README's ``summary``, the means over the unseen domains."""
    title, about = "Embedded benchmark", "of this project, of small images"
    if benchmark != "embedded":
        title, about = f"Domains {benchmark}", "of your own"
    table = interval_table(
        f"{title}: few-shot accuracy (%) on the unseen domain",
        ("setting", "unseen domain", "method", "accuracy", "− none", "− none, controlled",
         "best epoch", "val", "seeds"),
        cells,
        f"A benchmark {about}; its numbers are not comparable with the "
        "paper's. Controlled: in the training loop of LFT, FT's noise fixed. − none and − none, "
        "controlled: difference to the same seeds without transformations, trained either way. "
        "Best epoch: with the weights of the best epoch on the base domain's val classes. Val: "
        "there, at the last epoch.",
        "Of a single run: over its test episodes.",
        EPISODES_NOTE,
    )  # fmt: skip
    means = cells[cells["unseen domain"] == "mean"]
    if benchmark != "embedded" or means.empty:
        return {benchmark: table}
    summary = interval_table(
        "Embedded benchmark: accuracy (%), mean over the unseen domains",
        ("method", "seeds", "accuracy", "− none", "− none, controlled"),
        means,
        "Controlled: in the training loop of LFT, with FT's noise fixed. Differences: between runs "
        "of the same seeds.",
    )
    return {"summary": summary, benchmark: table}


def effects_table(runs: pd.DataFrame) -> Table:
    """What the parts of the training protocol change, on the same unseen domains and seeds."""
    rows = []
    for setting, own in runs.groupby("setting", sort=False):
        for change, where, with_it, without in EFFECTS:
            changes = difference(EXPERIMENT, own, with_it, without, "unseen").reset_index()
            if found := measured(seed_means(changes)["mean"]):
                mean = number(found, signed=True)
                rows.append((setting, change, where, mean, str(found.n)))
    return interval_table(
        "Embedded benchmark: what the training protocol changes",
        ("setting", "change", "in", "accuracy", "seeds"),
        rows,
        "Difference in accuracy (points) between runs with and without the change, on the same "
        "unseen domains and seeds: for each seed the mean over domains.",
    )


def _accuracy_figure(stem: str, setting: str, cells: pd.DataFrame, folder: Path) -> Figure:
    """Accuracy per unseen domain, a marker per method; whiskers as in the tables."""
    cells = cells[(cells["setting"] == setting) & (cells["unseen domain"] != "mean")]
    domains, names = ([*cells[column].unique()] for column in ("unseen domain", "method"))
    with figure_style():
        fig, axis = new_figure(height=2.2)
        for index, (name, style) in enumerate(zip(names, series_styles(len(names)), strict=True)):
            own, shift = cells[cells["method"] == name], 0.12 * (index - (len(names) - 1) / 2)
            places = [domains.index(domain) + shift for domain in own["unseen domain"]]
            values, whiskers = zip(
                *((n.value, n.spread or 0) for n in own["accuracy"]), strict=True
            )
            axis.errorbar(places, values, whiskers, label=name, **(style | {"linestyle": "none"}))
        axis.set_xlim(-0.5, len(domains) - 0.5)
        axis.set_xticks(range(len(domains)), domains)
        axis.set(xlabel="unseen domain", ylabel="accuracy (%)")
        axis.grid(False, axis="x")
        legend_below(fig, axis)
        return save_figure(
            fig,
            folder,
            f"accuracy-{stem}",
            alt=f"Test accuracy on each unseen domain ({', '.join(domains)}), a marker for each of "
            f"{', '.join(names)}.",
            caption=f"Accuracy on the unseen domain ({setting}): mean over runs; whiskers: 95 % "
            "confidence interval, of a single run over its episodes.",
        )


def layer_names(config: Mapping[str, Any]) -> list[str]:
    """Short names of the transformation layers of a run's backbone: the number of the block, and s
    if the layer is in its shortcut."""
    with torch.device("meta"):
        backbone = ResNet(config["backbone"], config["width"])
    parts = (name.split(".") for name in transforms(backbone))
    return [f"{int(number) + 1}{'s' if 'shortcut' in rest else ''}" for _, number, *rest in parts]


def _deviation_figure(stem: str, setting: str, learned: Group, folder: Path) -> Figure:
    """Learned standard deviations by layer, gamma and beta, a line per method."""
    names = layer_names(next(iter(learned.values()))[0].config)
    places = np.arange(len(names))
    shifts = 0.16 * (np.arange(len(learned)) - (len(learned) - 1) / 2)
    titles = {"gamma": ("scale (gamma)", GAMMA_START), "beta": ("shift (beta)", BETA_START)}
    with figure_style():
        fig, axes = new_figure(columns=2, height=2.2)
        for axis, (kind, (title, start)) in zip(axes, titles.items(), strict=True):
            axis.axhline(start, color="#bb2222", lw=0.8, ls=":", label="start (FT)")
            for style, shift, (name, runs) in zip(
                series_styles(len(learned)), shifts, learned.items(), strict=True
            ):
                mean, low, high = (
                    np.mean([run.curves[f"{kind}_{part}"] for run in runs], axis=0)
                    for part in ("mean", "low", "high")
                )
                # A skewed layer's mean may lie outside the quartiles.
                below, above = np.maximum(mean - low, 0), np.maximum(high - mean, 0)
                axis.errorbar(
                    places + shift, mean, (below, above), **(style | {"linestyle": "none"}),
                    lw=0.9, label=name,
                )  # fmt: skip
            axis.set_xticks(places, names)
            axis.set(title=title, xlabel="layer", ylabel="standard deviation")
        legend_below(fig, axes[0])
        return save_figure(
            fig,
            folder,
            f"deviations-{stem}",
            alt="Learned standard deviations of the feature-wise transformations by layer, for "
            f"scale and shift, for {', '.join(learned)}; a dotted line marks the start.",
            caption=f"Learned standard deviations ({setting}): mean over the channels of a layer, "
            "with their quartiles, averaged over runs and unseen domains. A layer is named by its "
            "residual block, s for the shortcut.",
        )


def _contact_sheets(benchmark: str, image_size: int, folder: Path) -> Iterator[Figure]:
    """For each domain a sheet of images of its novel classes, a row per class. A domain whose
    images are missing is left out: nothing else in the report needs them."""
    for domain in domains_of(benchmark):
        try:
            split = open_domain(benchmark, domain, "novel", image_size, None, torch.device("cpu"))
        except UserError as error:
            print(f"images of {domain} left out: {error}")
            continue
        sheet = split.contact_sheet(6, 8)
        names = split.class_names[: len(sheet)]
        # (classes, images, 3, H, W) -> (classes * H, images * W, 3)
        picture = sheet.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        with figure_style():
            fig, axis = new_figure(width=4, height=4 * picture.shape[0] / picture.shape[1])
            axis.imshow(picture.numpy(), interpolation="nearest")
            axis.set_axis_off()
            yield save_figure(
                fig,
                folder,
                f"images-{benchmark}-{domain}",
                alt=f"Images of {len(names)} novel classes of the domain {domain}, a row each.",
                caption=f"{domain}: novel classes, a row each: {', '.join(names)}.",
            )
