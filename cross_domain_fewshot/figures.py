"""The cross-domain few-shot experiment's figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.report import Group
from common.reporting import (
    Figure,
    collect_metric,
    figure_style,
    new_figure,
    save_figure,
    series_styles,
)
from cross_domain_fewshot.data import DOMAINS, DomainSplit, open_domain
from cross_domain_fewshot.models import BETA_START, GAMMA_START, ResNet, transforms

Cells = dict[str, Group]
"""Unseen domain -> label -> runs, for one setting."""
_SHEET_CLASSES, _SHEET_IMAGES = 6, 8


def draw_figures(benchmark: str, setting: str, cells: Cells, folder: Path) -> list[Figure]:
    """The figures of one setting, into ``folder``."""
    figures = [_accuracy_figure(benchmark, setting, cells, folder)]
    learned: Group = {}
    for methods in cells.values():
        for name, runs in methods.items():
            if runs[0].method.startswith("lft"):
                learned.setdefault(name, []).extend(runs)
    if learned:
        figures.append(_deviation_figure(benchmark, setting, learned, folder))
    return figures


def _stem(kind: str, benchmark: str, setting: str) -> str:
    return "-".join([kind, benchmark, *setting.lower().replace(",", "").split()])


def _accuracy_figure(benchmark: str, setting: str, cells: Cells, folder: Path) -> Figure:
    """Accuracy per unseen domain, a marker per method; whiskers as in the tables."""
    names = list(dict.fromkeys(name for methods in cells.values() for name in methods))
    with figure_style():
        fig, axis = new_figure(height=2.6)
        for index, (name, style) in enumerate(zip(names, series_styles(len(names)), strict=True)):
            shift = 0.12 * (index - (len(names) - 1) / 2)
            found = [
                (place + shift, collect_metric(methods[name], "accuracy", ci95="ci95"))
                for place, methods in enumerate(cells.values())
                if name in methods
            ]
            axis.errorbar(
                [place for place, _ in found],
                [measured.mean for _, measured in found],
                [measured.sd if measured.n > 1 else measured.ci95 for _, measured in found],
                label=name,
                **(style | {"linestyle": "none"}),
            )
        axis.set_xlim(-0.5, len(cells) - 0.5)
        axis.set_xticks(range(len(cells)), list(cells))
        axis.set(xlabel="unseen domain", ylabel="accuracy (%)")
        axis.grid(False, axis="x")
        fig.legend(loc="outside lower center", ncols=2)
        return save_figure(
            fig,
            folder,
            _stem("accuracy", benchmark, setting),
            alt=f"Test accuracy on each unseen domain ({', '.join(cells)}), a marker for each of "
            f"{', '.join(names)}.",
            caption=f"Accuracy on the unseen domain ({setting}): mean over runs; whiskers: "
            "standard deviation over runs, of a single run the 95 % confidence interval over "
            "episodes.",
        )


def layer_names(config: Mapping[str, Any]) -> list[str]:
    """Short names of the transformation layers of a run's backbone: the number of the block, and s
    if the layer is in its shortcut."""
    with torch.device("meta"):
        backbone = ResNet(config["backbone"], config["width"])
    parts = (name.split(".") for name in transforms(backbone))
    return [f"{int(number) + 1}{'s' if 'shortcut' in rest else ''}" for _, number, *rest in parts]


def _deviation_figure(benchmark: str, setting: str, learned: Group, folder: Path) -> Figure:
    """Learned standard deviations by layer, gamma and beta, a line per method."""
    config = next(iter(learned.values()))[0].config
    names = layer_names(config)
    places = np.arange(len(names))
    shifts = 0.16 * (np.arange(len(learned)) - (len(learned) - 1) / 2)
    titles = {"gamma": ("scale (gamma)", GAMMA_START), "beta": ("shift (beta)", BETA_START)}
    with figure_style():
        fig, axes = new_figure(columns=2, height=2.6)
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
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return save_figure(
            fig,
            folder,
            _stem("deviations", benchmark, setting),
            alt="Learned standard deviations of the feature-wise transformations by layer, for "
            f"scale and shift, for {', '.join(learned)}; a dotted line marks the start.",
            caption=f"Learned standard deviations ({setting}): mean over the channels of a layer, "
            "with their quartiles, averaged over runs and unseen domains. A layer is named by its "
            "residual block, s for the shortcut.",
        )


def contact_sheets(benchmark: str, image_size: int, folder: Path) -> list[Figure]:
    """For each domain a sheet of images of its novel classes, a row per class. A domain whose
    images are missing is left out: nothing else in the report needs them."""
    figures = []
    for domain in DOMAINS[benchmark]:
        try:
            split = open_domain(benchmark, domain, "novel", image_size, None, torch.device("cpu"))
        except UserError as error:
            print(f"images of {domain} left out: {error}")
            continue
        classes = min(_SHEET_CLASSES, len(split.class_names))
        figures.append(_contact_sheet(benchmark, split, classes, folder))
    return figures


def _contact_sheet(benchmark: str, split: DomainSplit, classes: int, folder: Path) -> Figure:
    sheet = split.contact_sheet(classes, _SHEET_IMAGES)
    # (classes, images, 3, H, W) -> (classes * H, images * W, 3)
    picture = sheet.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).cpu()
    with figure_style():
        fig, axis = new_figure(width=4, height=4 * picture.shape[0] / picture.shape[1])
        axis.imshow(picture.numpy(), interpolation="nearest")
        axis.set_axis_off()
        return save_figure(
            fig,
            folder,
            f"images-{benchmark}-{split.name}",
            alt=f"Images of {classes} novel classes of the domain {split.name}, a row each.",
            caption=f"{split.name}: novel classes, a row each: "
            f"{', '.join(split.class_names[:classes])}.",
        )
