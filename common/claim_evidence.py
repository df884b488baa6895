"""What the paper's claims are judged by: comparisons made on records, with p-values and hours.

Every comparison has ``find(kept)``, which gives a Finding: what was measured, the p-values of "the
claim holds" and of "it does not", and the core-hours that are missing if neither is sure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from scipy import stats

from common.cost_study.records import Measurement, read_measurements
from common.experiment import load_experiment
from common.reporting import Measured, Number, RunRecord, published, published_value
from common.reporting.statistics import LEVEL, MOST_SEEDS, seeds_needed

MARGIN = 1.0
"""Points: half the width of "no difference of a point"; how far "not worse" may lie below 0."""
POWER = 0.9
FAILED = 0.1
"""Label noise: a run failed if its mean weights of right and wrong labels are closer than this."""
Rule = Literal["better", "not worse"]
Word = Literal["better", "worse", "no difference of a point", "open"]
Place = Mapping[str, Any]
Half = tuple[float, float | None]
"""A mean and half its 95 % interval."""


@dataclass(frozen=True)
class Kept:
    """Records: of runs by experiment and preset; of costs."""

    runs: Mapping[tuple[str, str], Sequence[RunRecord]]
    costs: Sequence[Measurement] = ()

    @cached_property
    def known(self) -> dict[tuple[str, str], list[tuple[RunRecord, Place, Place]]]:
        """Each run with its place and with what differs from the planned settings."""
        return {
            key: [(r, e.place(r.config), e.differences(r.config)) for r in runs]
            for key, runs in self.runs.items()
            for e in [load_experiment(key[0])]
        }


def shipped(results: Path, experiments: Sequence[str]) -> Kept:
    """The records of results/."""
    runs = {
        (name, preset): load_experiment(name).records(preset, results / name / preset / "records")
        for name in experiments
        for preset in ("paper", "study", "quick")
    }
    costs = [
        m
        for size in ("paper", "small")
        for m in read_measurements(results / "benchmark" / size / "records")
    ]
    return Kept(runs, costs)


@dataclass(frozen=True)
class Finding:
    """What a comparison gives.

    holds, fails: p-values of "the claim does not hold" and of "it holds", for what is counted
    exactly 0 or 1. missing: core-hours of the runs that the frozen seeds still need, by run. hours:
    that more seeds would take, None if not known. at_paper: whether it is at the paper's size.
    published: the paper's difference, or in words. how: a remark.
    """

    what: str
    measured: str = "not measured yet"
    holds: float = 1.0
    fails: float = 1.0
    word: Word | Literal[""] = ""
    unit: str = ""
    at_paper: bool = False
    difference: Measured | None = None
    published: Half | str | None = None
    how: str = ""
    missing: Mapping[str, float] = field(default_factory=dict)
    hours: float | None = None


def word_of(difference: Measured, level: float = LEVEL) -> Word:
    """In the page's words: by the interval of 1 - level."""
    if 2 * difference.p_above(0.0) <= level:
        return "better"
    if 2 * difference.p_below(0.0) <= level:
        return "worse"
    return "no difference of a point" if 2 * difference.p_equivalent(MARGIN) <= level else "open"


@dataclass(frozen=True)
class Contrast:
    """A metric of one method minus that of another on the same seeds, in points.

    against None: the method's value, to be above 0. seeds: those frozen. places: values of the
    axes, averaged for each seed. changes: settings of each side that differ from the planned ones.
    metrics: of each side, a final metric; "" for the experiment's own; "stopped" for test accuracy
    at the first epoch with the largest accuracy on the meta images. rule: "better", or "not worse"
    by a point. unit: of what is not in points; such differences are shown and not judged.
    """

    what: str
    experiment: str
    preset: str
    method: str
    against: str | None
    seeds: tuple[int, ...]
    places: tuple[Place, ...] = ({},)
    rule: Rule = "better"
    metrics: tuple[str, str] = ("", "")
    changes: tuple[Place, Place] = ({}, {})
    published: Half | None = None
    unit: str = ""

    @property
    def title(self) -> str:
        title = load_experiment(self.experiment).title.split(" (")[0]
        return f"{title}: {self.what}"

    @property
    def sides(self) -> tuple[str, ...]:
        return (self.method,) if self.against is None else (self.method, self.against)

    def find(self, kept: Kept) -> Finding:
        grid = self._grid(kept)
        values = {
            seed: [[self._metric(runs.get(seed), side) for runs in row]
                   for side, row in enumerate(grid)]
            for seed in self.seeds
        }  # fmt: skip
        each = [self._run_hours(kept, method) for method in self.sides]
        missing = {
            f"{self.experiment} {seed} {self.sides[side]} {self.changes[side]} {place}": each[side]
            for seed, found in values.items()
            for side, row in enumerate(found)
            for place, value in zip(self.places, row, strict=True)
            if value is None
        }
        empty = Finding(self.what, missing=missing, published=self.published, unit=self.unit)
        whole = [seed for seed, found in values.items() if None not in chain(*found)]
        if not whole:
            return empty
        means = [[fmean(row) for row in values[seed]] for seed in whole]
        difference = Measured(tuple(mean[0] - sum(mean[1:]) for mean in means))
        shown = Number(difference.mean, difference.ci95, signed=self.against is not None)
        text = f"{shown}{self.unit}, {difference.n} seed{'s' * (difference.n > 1)}"
        if missing:
            text = f"so far {text} of {len(self.seeds)}"
            return replace(empty, measured=text, difference=difference)
        below = -MARGIN if self.rule == "not worse" else 0.0
        holds, fails = 2 * difference.p_above(below), 2 * difference.p_below(below)
        if self.unit and self.against is not None:
            holds = fails = 1.0
        elif self.rule == "better" and not self.unit:
            fails = min(fails, 2 * difference.p_equivalent(MARGIN))
        return replace(
            empty,
            measured=text + self._failures([[row[0][s] for s in whole] for row in grid]),
            holds=min(1.0, holds),
            fails=min(1.0, fails),
            word="" if self.unit or self.against is None else word_of(difference),
            at_paper=self.preset == "paper",
            difference=difference,
            hours=self._hours(difference, sum(each) * len(self.places)),
        )

    def own(self, kept: Kept, preset: str) -> Measured | None:
        """The difference on the seeds and places of which a preset has runs."""
        asked = replace(self, preset=preset)
        columns = zip(self.places, *asked._grid(kept), strict=True)
        there = {i: set.intersection(*map(set, c[1:])) for i, c in enumerate(columns)}
        seeds = sorted(set.union(*there.values()))
        places = tuple(self.places[i] for i, found in there.items() if found)
        return replace(asked, seeds=tuple(seeds), places=places).find(kept).difference

    def _grid(self, kept: Kept) -> list[list[dict[int, RunRecord]]]:
        """By side and place the runs by seed."""
        known = kept.known.get((self.experiment, self.preset), ())
        return [
            [
                {
                    run.seed: run
                    for run, at, differs in known
                    if run.method == method
                    and differs == self.changes[side]
                    and all(at.get(name) == value for name, value in place.items())
                }
                for place in self.places
            ]
            for side, method in enumerate(self.sides)
        ]

    def _metric(self, record: RunRecord | None, side: int) -> float | None:
        metric = self.metrics[side] or load_experiment(self.experiment).metric
        if record is None:
            return None
        if metric != "stopped":
            return record.final.get(metric)
        rows = [row for row in record.epochs if "meta_accuracy" in row]
        return max(rows, key=lambda row: row["meta_accuracy"])["accuracy"] if rows else None

    def _run_hours(self, kept: Kept, method: str) -> float:
        """Core-hours of a run like those of the method; of the preset, where it has none."""
        runs = kept.runs.get((self.experiment, self.preset), ())
        like = [r.provenance for r in runs if r.method == method] or [r.provenance for r in runs]
        taken = [p["wall_seconds"] * p["torch_threads"] for p in like]
        return fmean(taken) / 3600 if taken else 0.0

    def _hours(self, seen: Measured, each: float) -> float | None:
        """Core-hours of the seeds beyond these, were mean and spread those seen; each: of one."""
        distance = abs(seen.mean + MARGIN * (self.rule == "not worse"))
        if self.rule == "better" and not self.unit:  # above 0, or within a point of it
            distance = max(distance, MARGIN - distance)
        if seen.sd is None:
            return None
        needed = seeds_needed(seen.sd, distance, LEVEL / 2, POWER)
        return max(needed - seen.n, 1) * each if needed < MOST_SEEDS else None

    def _failures(self, sides: Sequence[Sequence[RunRecord]]) -> str:
        """How many label-noise runs of each side learned equal weights."""
        counts = [
            str(sum(abs(f["weight_right"] - f["weight_wrong"]) < FAILED for f in finals))
            for runs in sides
            for finals in [[run.final for run in runs]]
            if "hypergradient_norm" in finals[0] and "weight_right" in finals[0]
        ]
        return f", failed {' and '.join(counts)}" if counts else ""


@dataclass(frozen=True)
class Quoted:
    """A method at the paper's size against a published value that the paper quotes: Student's t
    with the published spread, sd sqrt(1/n + 1/n'), n - 1 degrees of freedom."""

    what: str
    experiment: str
    method: str
    seeds: tuple[int, ...]
    place: Place
    value: tuple[float, float]
    runs: int

    def find(self, kept: Kept) -> Finding:
        one = Contrast(
            self.what, self.experiment, "paper", self.method, None, self.seeds, (self.place,)
        )
        found = one.find(kept)
        mean, sd = self.value
        half = float(stats.t.ppf(0.975, self.runs - 1)) * sd / math.sqrt(self.runs)
        stated = replace(found, published=f"{Number(mean, half)}")
        if found.difference is None or found.missing:
            return stated
        error = sd * math.sqrt(1 / self.runs + 1 / found.difference.n)
        t = abs(found.difference.mean - mean) / error
        p = 2 * float(stats.t.sf(t, self.runs - 1))
        return replace(stated, holds=1.0, fails=p, at_paper=True, difference=None)


@dataclass(frozen=True)
class Trend:
    """A correlation over independent points of one run, tested by Fisher's z."""

    what: str
    experiment: str
    method: str
    metric: str
    points: str

    def find(self, kept: Kept) -> Finding:
        runs = [r for r in kept.runs.get((self.experiment, "paper"), ()) if r.method == self.method]
        if not runs:
            return Finding(self.what)
        value, points = runs[0].final[self.metric], runs[0].config[self.points]
        z, error = math.atanh(value), 1 / math.sqrt(points - 3)
        low, high = (math.tanh(z + side * 1.96 * error) for side in (-1, 1))
        holds, fails = (min(1.0, 2 * float(stats.norm.sf(s * z / error))) for s in (1, -1))
        text = f"{value:.2f} ({low:.2f} to {high:.2f}), {points} points"
        return Finding(self.what, text, holds, fails, at_paper=True)


Read = Callable[[Sequence[Measurement]], tuple[str, bool | None]]
"""What measurements say in words, and whether the claim holds for them; None: too close."""


@dataclass(frozen=True)
class Rows:
    """Rows of the cost study: at one size and device, each as place and key."""

    size: str
    device: str
    rows: tuple[tuple[str, str], ...]
    at_paper: bool = True


@dataclass(frozen=True)
class Cost:
    """Costs of a step, from the first of the choices that is measured or counted. machine: another
    machine may show otherwise, so that a claim that fails here does not transfer."""

    what: str
    experiment: str
    choices: tuple[Rows, ...]
    read: Read
    published: str | None = None
    machine: bool = False

    def find(self, kept: Kept) -> Finding:
        empty = Finding(self.what, published=self.published)
        for choice in self.choices:
            place = (self.experiment, choice.size, choice.device)
            found = {
                (m.x, m.key): m
                for m in kept.costs
                if (m.experiment, m.size, m.device) == place and m.known
            }
            if found.keys() >= {*choice.rows}:
                text, holds = self.read([found[row] for row in choice.rows])
                how = "counted" if choice.device == "counted" else "measured on a CPU"
                size = "the paper's" if choice.at_paper else "a small"
                return replace(
                    empty,
                    measured=text,
                    how=f"{how} at {size} size",
                    holds=0.0 if holds else 1.0,
                    fails=0.0 if holds is False else 1.0,
                    at_paper=choice.at_paper and not self.machine,
                )
        return empty


Comparison = Contrast | Quoted | Trend | Cost


def published_mean(experiment: str, *keys: str) -> Half:
    """A published mean over runs and half its 95 % interval by Student's t."""
    value = published_value(experiment, *keys)
    return value.mean, float(stats.t.ppf(0.975, value.n - 1)) * value.standard_error


def published_difference(experiment: str, first: Sequence[str], second: Sequence[str]) -> Half:
    """The paper's difference between two entries of its table and half the 95 % interval: paired
    over languages or domains; of two means with a standard deviation over runs, by Student's t with
    2n - 2 degrees of freedom (a population sd² / (n - 1), else sd² / n)."""
    table = published(experiment)

    def entry(keys: Sequence[str]) -> Any:
        value = table["values"]
        for key in keys:
            value = value[key]
        return value

    a, b = entry(first), entry(second)
    if isinstance(a, dict):
        means = [[v[0] if isinstance(v, list) else v for v in x.values()] for x in (a, b)]
        units = Measured(tuple(x - y for x, y in zip(*means, strict=True)))
        return units.mean, units.ci95
    spread = table["spread"]
    error = math.sqrt((a[1] ** 2 + b[1] ** 2) / (spread["n"] - spread.get("population", False)))
    return a[0] - b[0], float(stats.t.ppf(0.975, 2 * spread["n"] - 2)) * error
