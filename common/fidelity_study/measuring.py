"""How close each estimator gets to the exact one-step hypergradient, on a real problem.

At one snapshot of training every estimator is run several times on the same pairs of batches, and
compared with T1T2 in float64 (``agreement``). These vary one at a time from EvoGrad's setting
in the paper (K = 2, sigma = 1e-3, tau = 0.05, signs): K, sigma, tau, antithetic and Gaussian
candidates, differences of validation losses in place of a backward pass, the part that is
perturbed, the precision. Beside them stand the estimators that share EvoGrad's cost.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.fidelity_study.metrics import effective_dimension, predicted
from common.fidelity_study.records import Agreement, FidelityRecord
from common.fidelity_study.snapshots import Pair, PlannedSnapshot, Snapshot
from common.hypergrad import (
    T1T2,
    Anchor,
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    EvoGrad,
    EvoGradAlongGradient,
    EvoGradDifferences,
    FiniteDifference,
)
from common.hypergrad.compare import agreement, cast, cosine, expected_step, flat_gradient
from common.hypergrad.problem import BilevelProblem, detached, gradients, gradients_by_both, leaves
from common.training import measure

TAU = EvoGrad().temperature
"""The paper's temperature, of all variants."""
REFERENCE = "EvoGrad, K = 2"
"""The step that the costs of others are divided by."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How much is measured at each snapshot."""

    pairs: int = 3
    """Pairs of batches."""
    draws: int = 12
    """Draws per pair with two candidates; fewer, at least 4, with more."""
    probes: int = 8
    """Random vectors behind the effective dimension."""
    candidates: tuple[int, ...] = (2, 4, 8, 16, 32)
    brief_candidates: tuple[int, ...] = (2, 8)
    """K for networks of other sizes and for antithetic candidates."""
    sigmas: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    temperatures: tuple[float, ...] = (0.005, 0.05, 0.5)
    radii: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    steps_later: tuple[int, ...] = (1, 2, 5, 10, 20)
    """After how many training steps the hypergradient is taken again."""
    cost_rounds: int = 5
    """How often each cheaper variant has its turn at being timed."""


OPTIONS = {
    "quick": Options(),
    "smoke": Options(
        pairs=2, draws=4, probes=2, candidates=(2, 4), sigmas=(1e-3, 1e-2), temperatures=(0.05,),
        radii=(1e-2,), steps_later=(1, 2), cost_rounds=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One row: an estimator at one setting. series and x: its place in the figures."""

    series: str
    x: float | str
    estimator: Any
    reading: str
    draws: int = 1


def _add(
    found: list[Setting], reading: str, series: str, estimators: dict[Any, Any], draws: int = 1
) -> None:
    """Settings by x. draws: with two candidates; fewer, at least 4, where x is their number."""
    for x, estimator in estimators.items():
        of_more = max(4, 2 * draws // x) if series.endswith("K") else draws
        found.append(Setting(series, x, estimator, reading, of_more))


def settings(snapshot: Snapshot, options: Options, brief: bool) -> list[Setting]:
    """What is compared. brief: K, and the estimators without noise."""
    found: list[Setting] = []
    readings = [snapshot.noise_prediction] if brief else list(snapshot.readings)
    counts = options.brief_candidates if brief else options.candidates
    eta, radii, paper, draws = snapshot.inner_lr, options.radii, EvoGrad(), options.draws
    for reading in readings:
        add = partial(_add, found, reading)
        add("K", {n: EvoGrad(n) for n in counts}, draws)
        add("along g", {r: EvoGradAlongGradient(r, TAU) for r in radii})
        add("finite difference", {r: FiniteDifference(eta, r) for r in radii})
        if brief:
            continue
        one_sided = {r: EvoGradAlongGradient(r, TAU, one_sided=True) for r in radii}
        add("along g, one-sided", one_sided)
        if reading != readings[0]:
            continue  # the rest in the paper's reading only
        add("one step, g at theta", {"T1-T2": T1T2(paper.effective_inner_lr)})
        add("sigma", {s: replace(paper, sigma=s) for s in options.sigmas}, draws)
        add("tau", {t: replace(paper, temperature=t) for t in options.temperatures}, draws)
        kinds = {
            "antithetic": replace(paper, antithetic=True),
            "gaussian": replace(paper, perturbation="gaussian"),
            "one at theta": AnchoredEvoGrad(),
            "by differences": EvoGradDifferences(),
            "one at theta, by differences": AnchoredEvoGradDifferences(),
        } | {name: replace(paper, perturb=which) for name, which in snapshot.parts.items()}
        add("kind", kinds, draws)
        mirrored = {n: EvoGrad(n, antithetic=True) for n in options.brief_candidates}
        add("antithetic K", mirrored, draws)
    return found


class Autocast:
    """A problem whose losses are computed in mixed precision, bfloat16."""

    def __init__(self, problem: BilevelProblem, device: torch.device) -> None:
        self.problem, self.device = problem, device

    def inner_loss(self, *arguments: Any) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.problem.inner_loss(*arguments)

    def outer_loss(self, *arguments: Any) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.problem.outer_loss(*arguments)


class Bench:
    """Runs estimators at one snapshot: the same draws for the same number, in any precision."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.device = next(iter(snapshot.params.values())).device
        problem = {d: snapshot.problem(d) for d in (torch.float32, torch.float64)}
        self.problems = {
            "float64": (problem[torch.float64], torch.float64),
            "float32": (problem[torch.float32], torch.float32),
            "bfloat16": (Autocast(problem[torch.float32], self.device), torch.float32),
        }
        exact = T1T2(snapshot.inner_lr)
        self._rows: dict[tuple[Any, str, int], Row] = {}
        self.exact = [self.estimate(exact, pair, "float64") for pair in snapshot.paper_pairs]

    def estimate(self, estimator: Any, pair: Pair, precision: str, draw: int = 0) -> Tensor:
        """The hypergradient as one float64 vector (H,)."""
        problem, dtype = self.problems[precision]
        tensors = (self.snapshot.params, self.snapshot.hyper, *pair)
        generator = torch.Generator().manual_seed(draw)
        return flat_gradient(estimator(problem, *cast(tensors, dtype), generator).grads)

    def row(self, setting: Setting) -> Row:
        """A setting's estimates in float32 against the exact hypergradients."""
        key = setting.estimator, setting.reading, setting.draws
        if key not in self._rows:
            estimator, pairs = setting.estimator, self.snapshot.readings[setting.reading]
            samples = []
            for number, (pair, exact) in enumerate(zip(pairs, self.exact, strict=True)):
                found = [
                    self.estimate(estimator, pair, "float32", 1000 * number + draw)
                    for draw in range(setting.draws)
                ]
                samples.append((torch.stack(found), exact))
            ratio = expected_step(estimator) / self.snapshot.inner_lr
            self._rows[key] = agreement(samples, ratio)
        place = {"series": setting.series, "x": setting.x, "reading": setting.reading}
        return place | self._rows[key]


def precision_rows(bench: Bench, options: Options) -> list[Row]:
    """Estimates in float32 and bfloat16 against the same draws in float64: rounding alone."""
    snapshot, rows = bench.snapshot, []
    sigmas, radii = options.sigmas, options.radii
    kinds: list[tuple[str, float | str, Any]] = [
        *(("EvoGrad, sigma", s, EvoGrad(sigma=s)) for s in sigmas),
        *(("EvoGrad by differences, sigma", s, EvoGradDifferences(sigma=s)) for s in sigmas),
        *(("along g, radius", r, EvoGradAlongGradient(r, TAU)) for r in radii),
        ("T1-T2", "", T1T2(snapshot.inner_lr)),
    ]
    pairs = snapshot.readings[snapshot.noise_prediction]
    for name, x, estimator in kinds:
        draws = range(4 if name.startswith("EvoGrad") else 1)
        found = {
            precision: [
                bench.estimate(estimator, pair, precision, draw) for pair in pairs for draw in draws
            ]
            for precision in ("float64", "float32", "bfloat16")
        }
        true = found.pop("float64")
        for precision, estimates in found.items():
            samples = [(f.unsqueeze(0), t) for f, t in zip(estimates, true, strict=True)]
            rows.append({"series": name, "x": x, "precision": precision, **agreement(samples, 1.0)})
    return rows


def predictions(bench: Bench, options: Options) -> Row:
    """The effective dimension in float64, and the noise it predicts for each K."""
    snapshot = bench.snapshot
    problem, dtype = bench.problems["float64"]
    params, hyper = cast((snapshot.params, snapshot.hyper), dtype)
    generator = torch.Generator().manual_seed(0)
    dimensions = [
        effective_dimension(problem, params, hyper, inner, outer, options.probes, generator)
        for inner, outer in cast(list(snapshot.readings[snapshot.noise_prediction]), dtype)
    ]
    found: Row = {"dimensions": dimensions}
    for count in sorted({*options.candidates, *options.brief_candidates}):
        ratio = EvoGrad(count).effective_inner_lr / snapshot.inner_lr
        each = [predicted(dimension, count, ratio) for dimension in dimensions]
        found[f"{count}"] = {n: sum(p[n] for p in each) / len(each) for n in each[0]}
    return found


def staleness(bench: Bench, options: Options) -> list[Row]:
    """Cosine of the exact hypergradients now and m training steps later, on the same batches.

    With m = 0: on other batches at the same parameters, for comparison.
    """
    snapshot, (problem, dtype) = bench.snapshot, bench.problems["float64"]
    exact, later = T1T2(snapshot.inner_lr), {0: [*bench.exact[1:], bench.exact[0]]}
    if snapshot.later is not None:
        states = snapshot.later(options.steps_later)
        for count, state in zip(options.steps_later, states, strict=True):
            points = (cast((*state, *pair), dtype) for pair in snapshot.paper_pairs)
            later[count] = [flat_gradient(exact(problem, *at).grads) for at in points]
    rows = []
    for count, found in later.items():
        cosines = [cosine(a, b) for a, b in zip(bench.exact, found, strict=True)]
        rows.append({"m": count, "cosine": sum(cosines) / len(cosines)})
    return rows


def variant_costs(snapshot: Snapshot, rounds: int) -> tuple[Row, Row]:
    """Time and memory of the cheaper variants, hypergradient and base step together: name of the
    step -> one measurement per round (the steps take turns), and -> series and x of the setting
    whose fidelity is the step's.

    On a CPU ``seconds`` is the process's own processor time, which other work on the machine
    hardly changes.
    """
    device = next(iter(snapshot.params.values())).device
    steps = _steps(snapshot)
    found: dict[str, list[Row]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            cost = asdict(measure(step, device, repeats=3, warm_up=1))
            if device.type == "cpu":
                start = time.process_time()
                step()
                cost["seconds"] = time.process_time() - start
            found[name].append(cost)
    return found, {name: place for name, (_, place) in steps.items() if place}


def _steps(snapshot: Snapshot) -> dict[str, tuple[Callable[[], object], list[Any]]]:
    eta = snapshot.inner_lr
    problem = snapshot.problem(torch.float32)
    (inner, outer), point = snapshot.paper_pairs[0], (snapshot.params, snapshot.hyper)

    def base() -> object:
        """A base step's gradient."""
        theta = leaves(snapshot.params)
        return gradients(problem.inner_loss(theta, detached(snapshot.hyper), inner), theta)

    def hypergradient(estimator: Any, problem: Any = problem) -> None:
        estimator(problem, *point, inner, outer)
        base()

    def anchored() -> None:
        """The base step first, which gives dL_T/dlambda at theta along with its own gradient."""
        theta, hyper = leaves(snapshot.params), leaves(snapshot.hyper)
        loss = problem.inner_loss(theta, hyper, inner)
        anchor = Anchor(loss.detach(), gradients_by_both(loss, theta, hyper)[1])
        AnchoredEvoGrad()(problem, *point, inner, outer, anchor=anchor)

    estimators: dict[str, tuple[Any, list[Any]]] = {
        REFERENCE: (EvoGrad(), ["K", 2]),
        "EvoGrad, K = 8": (EvoGrad(8), ["K", 8]),
        "one candidate at theta": (AnchoredEvoGrad(), ["kind", "one at theta"]),
        "along g": (EvoGradAlongGradient(temperature=TAU), ["along g", 0.01]),
        "finite difference": (FiniteDifference(eta), ["finite difference", 0.01]),
        "T1-T2": (T1T2(eta), []),
    }
    steps: dict[str, tuple[Callable[[], object], list[Any]]] = {"base step alone": (base, [])}
    steps |= {name: (partial(hypergradient, e), place) for name, (e, place) in estimators.items()}
    steps["one candidate at theta, shared with the base step"] = anchored, ["kind", "one at theta"]
    for name, part in snapshot.parts.items():
        step = partial(hypergradient, EvoGrad(perturb=part))
        steps[f"{name} perturbed"] = step, ["kind", name]
    names = {part: name for name, part in snapshot.parts.items()}
    for name, (hooked, part) in snapshot.hooks.items():
        for count in (2, 8):
            step = partial(hypergradient, EvoGrad(count, perturb=part), hooked)
            known = ["kind", names[part]] if part in names and count == 2 else []
            steps[f"{name}, K = {count}"] = step, known if part else ["K", count]
    return steps


def measure_snapshot(
    planned: PlannedSnapshot, options: Options, say: Callable[[str, float], None], **fields: Any
) -> FidelityRecord:
    """The record of a snapshot. say: told what comes next, and the part that is done. fields: the
    record's preset and provenance."""
    say("training", 0.0)
    snapshot = planned.build()
    bench, brief = Bench(snapshot), planned.axis != "stage"
    rows, todo = [], settings(snapshot, options, brief)
    for number, setting in enumerate(todo):
        say(f"{setting.series} {setting.x}", 0.1 + 0.6 * number / len(todo))
        rows.append(bench.row(setting))
    say("predictions", 0.7)
    fields["predictions"] = predictions(bench, options)
    if not brief:
        say("precision", 0.75)
        fields["precision"] = precision_rows(bench, options)
        say("staleness", 0.9)
        fields["staleness"] = staleness(bench, options)
    if planned.name == f"{planned.experiment}-stage-end":
        say("cost", 0.95)
        fields["costs"], fields["fidelity_of"] = variant_costs(snapshot, options.cost_rounds)
    say("done", 1.0)
    return FidelityRecord(
        experiment=planned.experiment,
        axis=planned.axis,
        x=planned.x,
        inner_lr=snapshot.inner_lr,
        parameters=sum(t.numel() for t in snapshot.params.values()),
        hyperparameters=sum(t.numel() for t in snapshot.hyper.values()),
        readings=list(snapshot.readings),
        noise_prediction=snapshot.noise_prediction,
        options={n: list(v) if isinstance(v, tuple) else v for n, v in asdict(options).items()},
        exact_norm=sum(e.norm().item() for e in bench.exact) / len(bench.exact),
        rows=[Agreement(**row) for row in rows],
        **fields,
    )
