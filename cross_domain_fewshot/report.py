"""The cross-domain few-shot experiment's tables and figures, from its run records."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.reporting import (
    Comparison,
    Figure,
    Published,
    RunRecord,
    Section,
    Table,
    collect_metric,
    comparison_table,
    cost_table,
    published_value,
    write_table,
)
from cross_domain_fewshot import noise_study
from cross_domain_fewshot.config import Config, planned_runs, variant
from cross_domain_fewshot.data import DOMAINS
from cross_domain_fewshot.embedded_table import EPISODES_NOTE, embedded_table
from cross_domain_fewshot.figures import NAMES, Cells, contact_sheets, draw_figures

_PUBLISHED = {name: name for name in ("none", "ft", "lft_t1t2", "lft_evograd")} | {
    "lft_t1t2_higher": "lft_t1t2"
}
_INTRO = """
A few-shot learner is trained on four domains and tested on new classes of a fifth. Feature-wise
transformation layers add noise to its features in training; the size of the noise is trained on
the training loss (**FT**) or learned by hypergradients (**LFT**), so that what is learned on one
training domain works on another. No transformation and FT are trained as in the authors' code, on
all four domains at once without auxiliary loss, and **controlled**: in LFT's training loop, FT's
noise fixed. Accuracy is that at the last epoch unless said otherwise.
"""


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    settings = by_setting(records)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if any(record.config["benchmark"] == "paper" for record in records):
        tables["accuracy"] = accuracy_table(settings, preset)
    if any(record.config["benchmark"] == "embedded" for record in records):
        tables["embedded"] = embedded_table(settings)
    if records:
        tables["cost"] = settings_cost_table(settings)
        for (benchmark, setting), cells in settings.items():
            figures += draw_figures(benchmark, setting, cells, folder)
        sizes = {r.config["benchmark"]: r.config["image_size"] for r in records}
        for benchmark, image_size in sorted(sizes.items()):
            figures += contact_sheets(benchmark, image_size, folder)
    for stem, table in tables.items():
        write_table(table, folder, stem)
    return Section(
        title="Cross-domain few-shot learning",
        intro=_INTRO,
        tables=tuple(tables.values()),
        figures=tuple(figures),
        runs=len(records),
        planned_runs=len(planned_runs(preset)),
    )


def draw_studies(records: Path, folder: Path) -> None:
    """The tables of what is no run: from records/STUDY/records into folder/STUDY."""
    if found := noise_study.read(records / "noise" / "records"):
        write_table(noise_study.table(found), folder / "noise", "noise")


def setting_name(config: Mapping[str, Any]) -> str:
    """Network and episodes of a run, for people."""
    return (
        f"{config['backbone'].replace('resnet', 'ResNet-')}, {config['head']}, "
        f"{config['n_way']}-way {config['n_shot']}-shot"
    )


def method_name(config: Mapping[str, Any]) -> str:
    """The method, and what the run does otherwise than its preset."""
    return ", ".join([NAMES[config["method"]], *variant(config)])


def by_setting(records: Iterable[RunRecord]) -> dict[tuple[str, str], Cells]:
    """(benchmark, setting) -> unseen domain -> method -> runs, all in a fixed order."""
    order = list(NAMES)

    def place(record: RunRecord) -> tuple:
        config = record.config
        domain = DOMAINS[config["benchmark"]].index(config["unseen"])
        shape = (config["n_way"], config["n_shot"])
        return (config["benchmark"], config["backbone"], config["head"], *shape, domain,
                order.index(record.method), variant(config), record.seed)  # fmt: skip

    settings: dict[tuple[str, str], Cells] = {}
    for record in sorted(records, key=place):
        key = record.config["benchmark"], setting_name(record.config)
        cells = settings.setdefault(key, {}).setdefault(record.config["unseen"], {})
        cells.setdefault(method_name(record.config), []).append(record)
    return settings


def published_accuracy(config: Mapping[str, Any], method: str) -> Published | None:
    """Table 3's value; None where the paper has none (other heads, episodes, backbones)."""
    same = config["benchmark"] == "paper" and config["head"] == "relationnet"
    same = same and config["n_way"] == 5 and config["n_shot"] in (1, 5)
    if not same or config["backbone"] not in ("resnet10", "resnet34") or method not in _PUBLISHED:
        return None
    return published_value(
        "cross_domain_fewshot",
        f"{config['n_shot']}shot",
        config["backbone"],
        _PUBLISHED[method],
        config["unseen"],
    )


def accuracy_table(settings: Mapping[tuple[str, str], Cells], preset: str) -> Table:
    """Table 3 on the paper's data: published beside measured, planned cells without runs too."""
    planned: dict[tuple[str, str, str], list[Config]] = {}
    for config in planned_runs(preset):
        if config.benchmark == "paper":
            plan = config.deciding()
            key = setting_name(plan), config.unseen, method_name(plan)
            planned.setdefault(key, []).append(config)
    found = {
        (setting, unseen, name): runs
        for (benchmark, setting), cells in settings.items()
        if benchmark == "paper"
        for unseen, methods in cells.items()
        for name, runs in methods.items()
    }
    rows = []
    for key in dict.fromkeys([*planned, *found]):
        runs, plans = found.get(key, []), planned.get(key, [])
        config = runs[0].config if runs else plans[0].deciding()
        method = runs[0].method if runs else plans[0].method
        changed = bool(variant(config))
        rows.append(
            Comparison(
                label=key,
                published=None if changed else published_accuracy(config, method),
                measured=collect_metric(runs, "accuracy", ci95="ci95"),
                planned=len(plans) or None,
                comparable=preset == "paper" and not changed,
            )
        )
    return comparison_table(
        "Few-shot accuracy (%) on the unseen domain",
        rows,
        label_columns=("setting", "unseen domain", "method"),
        caption="At the last epoch (the paper's Table 3).",
        notes=(EPISODES_NOTE,),
    )


def settings_cost_table(settings: Mapping[tuple[str, str], Cells]) -> Table:
    """Cost of a step by method; if there are several settings, of the one with most runs."""
    setting, cells = max(
        settings.items(), key=lambda item: sum(len(r) for m in item[1].values() for r in m.values())
    )
    costs: dict[str, list[Any]] = {}
    for name in NAMES.values():
        for methods in cells.values():
            costs.setdefault(name, []).extend(run.cost for run in methods.get(name, []))
    return cost_table(
        "Few-shot: cost of one training step",
        costs,
        NAMES["none"],
        caption=f"Base step and meta step together, {setting[1]}. Peak: memory beyond what was "
        "in use before the step.",
        notes=("Measured while other runs may have shared the machine: compare ratios.",),
    )
