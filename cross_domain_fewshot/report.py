"""The cross-domain few-shot experiment's tables and figures, from its run records."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.reporting import (
    Comparison,
    Figure,
    Measured,
    Number,
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
from common.reporting.record_files import load_folder
from cross_domain_fewshot.config import EXPERIMENT, METHODS, Config, planned_runs, variant
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
REFERENCES = (_NONE, f"{_NONE}, controlled")
"""What the others are compared with: none in the released way, and in the loop of the others."""
EFFECTS = (
    ("mixed stream instead of pairs, no auxiliary loss", _NONE, _NONE, f"{_NONE}, stream pairs"),
    ("auxiliary loss, pairs", _NONE, f"{_NONE}, controlled", f"{_NONE}, stream pairs"),
    ("FT trained instead of fixed, mixed stream", _FT, _FT, f"{_FT}, ft fixed"),
    ("released instead of controlled", _NONE, _NONE, f"{_NONE}, controlled"),
    ("released instead of controlled", _FT, _FT, f"{_FT}, controlled"),
    *(
        (f"{METHODS[m].label} instead of none", protocol, METHODS[m].label, reference)
        for m in ("lft_evograd", "lft_t1t2")
        for protocol, reference in zip(("released", "controlled"), REFERENCES, strict=True)
    ),
    ("EvoGrad instead of T1-T2", "LFT", METHODS["lft_evograd"].label, METHODS["lft_t1t2"].label),
)
"""What is changed, in what, and the labels of the runs with and without the change."""
Settings = Mapping[tuple[str, str], Cells]
"""(benchmark, setting) -> unseen domain -> method -> runs."""
BySeed = dict[int, float]


def section(records: Sequence[RunRecord], preset: str, folder: Path) -> Section:
    """Draws the figures and writes the tables into ``folder``."""
    settings = by_setting(records)
    tables: dict[str, Table] = {}
    figures: list[Figure] = []
    if any(record.config["benchmark"] == "paper" for record in records):
        tables["accuracy"] = accuracy_table(settings, preset)
    if any(record.config["benchmark"] == "embedded" for record in records):
        tables["embedded"] = embedded_table(settings)
        tables["effects"] = effects_table(settings)
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
        title=EXPERIMENT.title,
        intro=_INTRO,
        tables=tuple(tables.values()),
        figures=tuple(figures),
        runs=len(records),
        planned_runs=len(planned_runs(preset)),
    )


def draw_studies(records: Path, folder: Path) -> None:
    """The tables of what is no run: from records/STUDY/records into folder/STUDY."""
    if found := load_folder(records / "noise" / "records", NoiseRecord):
        write_table(noise_table(found), folder / "noise", "noise")


def setting_name(config: Mapping[str, Any]) -> str:
    """Network and episodes of a run, for people."""
    return (
        f"{config['backbone'].replace('resnet', 'ResNet-')}, {config['head']}, "
        f"{config['n_way']}-way {config['n_shot']}-shot"
    )


def by_setting(records: Iterable[RunRecord]) -> dict[tuple[str, str], Cells]:
    """Runs by setting, unseen domain and method, all in a fixed order."""
    order = list(METHODS)

    def place(record: RunRecord) -> tuple[Any, ...]:
        config = record.config
        domain = DOMAINS[config["benchmark"]].index(config["unseen"])
        shape = (config["n_way"], config["n_shot"])
        return (config["benchmark"], config["backbone"], config["head"], *shape, domain,
                order.index(record.method), variant(config), record.seed)  # fmt: skip

    settings: dict[tuple[str, str], Cells] = {}
    for record in sorted(records, key=place):
        key = record.config["benchmark"], setting_name(record.config)
        cells = settings.setdefault(key, {}).setdefault(record.config["unseen"], {})
        cells.setdefault(EXPERIMENT.label(record), []).append(record)
    return settings


def published_accuracy(config: Mapping[str, Any]) -> Published | None:
    """Table 3's value; None where the paper has none (other heads, episodes, backbones)."""
    row = METHODS[config["method"]].published
    same = config["benchmark"] == "paper" and config["head"] == "relationnet"
    same = same and config["n_way"] == 5 and config["n_shot"] in (1, 5)
    if not same or config["backbone"] not in ("resnet10", "resnet34") or row is None:
        return None
    shots = f"{config['n_shot']}shot"
    return published_value(EXPERIMENT.name, shots, config["backbone"], row, config["unseen"])


def accuracy_table(settings: Settings, preset: str) -> Table:
    """Table 3 on the paper's data: published beside measured, planned cells without runs too."""
    planned: dict[tuple[str, str, str], list[Config]] = {}
    for config in planned_runs(preset):
        if config.benchmark == "paper":
            plan = config.deciding()
            method = ", ".join([METHODS[config.method].label, *variant(plan)])
            planned.setdefault((setting_name(plan), config.unseen, method), []).append(config)
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
        changed = bool(variant(config))
        rows.append(
            Comparison(
                label=key,
                published=None if changed else published_accuracy(config),
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


def embedded_table(settings: Settings) -> Table:
    """Accuracy by unseen domain and method on the embedded benchmark, which nothing published
    belongs beside; a last block has the mean over the unseen domains, for the methods and seeds
    that were run on all of those that occur."""
    rows = []
    for (benchmark, setting), cells in settings.items():
        if benchmark != "embedded":
            continue
        for unseen, methods in cells.items():
            single = {name: runs[0].final for name, runs in methods.items() if len(runs) == 1}
            columns = {name: _columns(runs) for name, runs in methods.items()}
            rows += _rows((setting, unseen), columns, single)
        if len(cells) > 1:
            rows += _rows((setting, "mean"), _mean_over_domains(cells), {})
    return Table(
        "Embedded benchmark: few-shot accuracy (%) on the unseen domain",
        ("setting", "unseen domain", "method", "accuracy", "− none", "− none, controlled",
         "best epoch", "val", "seeds"),
        tuple(rows),
        caption="A benchmark of this project, of small images; its numbers are not comparable "
        "with the paper's. Controlled: in the training loop of LFT, FT's noise fixed. − none and "
        "− none, controlled: difference to the same seeds without transformations, trained either "
        "way. Best epoch: with the weights of the best epoch on the base domain's val classes. "
        "Val: there, at the last epoch.",
        notes=(
            "±: sample standard deviation over seeds; of a single run the half-width of the 95 % "
            "confidence interval over test episodes.",
            EPISODES_NOTE,
        ),
    )  # fmt: skip


_METRICS = {"accuracy": "ci95", "best_accuracy": "best_ci95", "val_accuracy": "val_ci95"}


def _columns(runs: Sequence[RunRecord]) -> dict[str, BySeed]:
    """The metrics of a method's runs by seed."""
    return {metric: {run.seed: run.final[metric] for run in runs} for metric in _METRICS}


def _mean_over_domains(cells: Cells) -> dict[str, dict[str, BySeed]]:
    """The same, averaged over the unseen domains."""
    found = {}
    for name in dict.fromkeys(name for methods in cells.values() for name in methods):
        domains = [_columns(methods.get(name, [])) for methods in cells.values()]
        seeds = set.intersection(*(set(columns["accuracy"]) for columns in domains))
        if seeds:
            found[name] = {
                metric: {
                    seed: statistics.fmean(columns[metric][seed] for columns in domains)
                    for seed in sorted(seeds)
                }
                for metric in _METRICS
            }
    return found


def _rows(
    place: tuple[str, str],
    methods: Mapping[str, Mapping[str, BySeed]],
    single: Mapping[str, Mapping[str, float]],
) -> list[tuple[Any, ...]]:
    """A row per method. single: final values of methods with one run, for its own intervals."""
    rows = []
    for name, columns in methods.items():
        numbers = {
            metric: _spread(columns[metric].values(), single.get(name, {}).get(ci95))
            for metric, ci95 in _METRICS.items()
        }
        gains = []
        for other in REFERENCES:
            reference = methods[other]["accuracy"] if other in methods else {}
            changes = [v - reference[s] for s, v in columns["accuracy"].items() if s in reference]
            gains.append("–" if name == other else _spread(changes, signed=True))
        accuracy, *others = numbers.values()
        rows.append((*place, name, accuracy, *gains, *others, str(len(columns["accuracy"]))))
    return rows


def _spread(
    values: Iterable[float], ci95: float | None = None, signed: bool = False
) -> Number | str:
    """Mean ± sample standard deviation; of a single value ± ci95."""
    values = tuple(values)
    if not values:
        return "–"
    measured = Measured(values)
    return Number(measured.mean, measured.sd if measured.n > 1 else ci95, signed=signed)


def effects_table(settings: Settings) -> Table:
    """What the parts of the training protocol change, on the same unseen domains and seeds."""
    rows = []
    for (benchmark, setting), cells in settings.items():
        if benchmark != "embedded":
            continue
        for change, where, with_it, without in EFFECTS:
            if found := _differences(cells, with_it, without):
                measured = Measured(found)
                number = Number(measured.mean, measured.ci95, signed=True)
                rows.append((setting, change, where, number, str(measured.n)))
    return Table(
        "Embedded benchmark: what the training protocol changes",
        ("setting", "change", "in", "accuracy", "pairs"),
        tuple(rows),
        caption="Difference in accuracy (points), with the change less without it, on the same "
        "unseen domain and seed.",
        notes=("±: half-width of the 95 % confidence interval over these pairs, by Student's t.",),
    )


def _differences(cells: Cells, name: str, other: str) -> tuple[float, ...]:
    """Accuracy of one method less that of another, by unseen domain and seed."""
    found = []
    for methods in cells.values():
        accuracy, reference = (_columns(methods.get(n, []))["accuracy"] for n in (name, other))
        found += [value - reference[s] for s, value in accuracy.items() if s in reference]
    return tuple(found)


def settings_cost_table(settings: Settings) -> Table:
    """Cost of a step by method; if there are several settings, of the one with most runs."""
    setting, cells = max(
        settings.items(), key=lambda item: sum(len(r) for m in item[1].values() for r in m.values())
    )
    costs: dict[str, list[Any]] = {}
    for methods in cells.values():
        for name, runs in methods.items():
            costs.setdefault(name, []).extend(run.cost for run in runs)
    return cost_table(
        "Few-shot: cost of one training step",
        costs,
        _NONE,
        caption=f"Base step and meta step together, {setting[1]}. Peak: memory beyond what was "
        "in use before the step.",
        notes=("Measured while other runs may have shared the machine: compare ratios.",),
    )
