"""The cross-lingual experiment's figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from common.report import Group, mean_by_epoch
from common.reporting import (
    Figure,
    figure_style,
    metric_against_seconds,
    new_figure,
    save_figure,
    series_styles,
)

Setting = tuple[str, str, str]
"""Data set, source and target language."""
Groups = Mapping[Setting, Group]
"""Setting -> label -> its runs."""


def draw_figures(setting: Setting, group: Group, folder: Path) -> list[Figure]:
    """The figures of one target language, into ``folder``."""
    config = next(iter(group.values()))[0].config
    figures = [
        _curves_figure(setting, group, folder),
        metric_against_seconds(
            {name: runs for name, runs in group.items() if "meta " not in name},
            "test_f1",
            "target test F1 (%)",
            -(-config["source_sentences"] // config["batch_size"]),
            folder,
            _stem("seconds", setting),
            _languages(setting),
        ),
    ]
    transformed = {n: runs for n, runs in group.items() if "pca_source_after_x" in runs[0].curves}
    if transformed:
        figures.append(_representations_figure(setting, transformed, folder))
    return figures


def _stem(name: str, setting: Setting) -> str:
    return "-".join((name, *setting))


def _languages(setting: Setting) -> str:
    dataset, source, target = setting
    return f"{source} to {target}, {dataset}"


def _curves_figure(setting: Setting, group: Group, folder: Path) -> Figure:
    """Dev and test F1 by epoch, a line per method: mean over seeds."""
    with figure_style():
        fig, axes = new_figure(columns=2, sharey=True)
        for axis, (metric, label) in zip(
            axes, (("dev_f1", "target dev F1 (%)"), ("test_f1", "target test F1 (%)")), strict=True
        ):
            for style, (name, runs) in zip(series_styles(len(group)), group.items(), strict=True):
                axis.plot(*mean_by_epoch(runs, metric), label=name, **style, markevery=0.15)
            axis.set(xlabel="epoch", ylabel=label)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return save_figure(
            fig,
            folder,
            _stem("f1", setting),
            alt=f"F1 on dev and test sentences of the target language by epoch "
            f"({_languages(setting)}), one line for each of {', '.join(group)}.",
            caption=f"Learning curves ({_languages(setting)}), means over seeds.",
        )


def _representations_figure(setting: Setting, group: Group, folder: Path) -> Figure:
    """Source and target words before and after the transformation, a row per method."""
    dark, light = series_styles(2)
    with figure_style():
        fig, axes = new_figure(
            rows=len(group), columns=2, sharex="row", sharey="row", squeeze=False
        )
        for row, (name, runs) in zip(axes, group.items(), strict=True):
            curves = runs[0].curves
            for axis, when, distance in zip(
                row, ("before", "after"), curves["centroid_distance"], strict=True
            ):
                _scatter(axis, curves, f"source_{when}", dark, "source")
                _scatter(axis, curves, "target", light, "target")
                axis.set_title(f"{name}: {when}, {distance:.2f}", fontsize=7.5)
                axis.tick_params(labelbottom=False, labelleft=False)
        axes[0, 0].legend()
        return save_figure(
            fig,
            folder,
            _stem("representations", setting),
            alt="Words of source and target language in the plane of the first two principal "
            f"components ({_languages(setting)}), before and after the transformation network, in "
            f"a row for each of {', '.join(group)}.",
            caption="What the classifier sees of source and target words, before and after the "
            f"transformation of the source ({_languages(setting)}, seed "
            f"{next(iter(group.values()))[0].seed}): first two principal components of all points "
            "of a row. Numbers: distance between the means of source and target, in units of the "
            "target's spread.",
        )


def _scatter(
    axis: Any, curves: dict[str, list[float]], name: str, style: dict[str, Any], label: str
) -> None:
    axis.scatter(
        curves[f"pca_{name}_x"],
        curves[f"pca_{name}_y"],
        s=6,
        color=style["color"],
        marker=style["marker"],
        linewidths=0,
        alpha=0.7,
        label=label,
    )
