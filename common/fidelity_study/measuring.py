"""How close each estimator gets to the exact one-step hypergradient, on a real problem.

At one snapshot of training every estimator is run several times on the same pairs of batches, and
compared with T1T2 in float64 (``agreement``). These vary one at a time from EvoGrad's setting
in the paper (K = 2, sigma = 1e-3, tau = 0.05, signs): K, sigma, tau, antithetic and Gaussian
candidates, differences of validation losses in place of a backward pass, the part that is
perturbed, the precision. Beside them stand the estimators that share EvoGrad's cost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from common.fidelity_study.cost import variant_costs
from common.fidelity_study.metrics import (
    effective_dimension,
    predicted_cosine,
    predicted_norm_ratio,
    predicted_sign_agreement,
)
from common.fidelity_study.settings import TAU, Options, Setting, settings
from common.fidelity_study.snapshots import Pair, PlannedSnapshot, Snapshot
from common.hypergrad import T1T2, EvoGrad, EvoGradAlongGradient, EvoGradDifferences
from common.hypergrad.compare import (
    agreement,
    cast,
    cosine,
    expected_step,
    flat_gradient,
)
from common.hypergrad.problem import BilevelProblem

Row = dict[str, Any]


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
            self._rows[key] = self._compared(*key)
        place = {"series": setting.series, "x": setting.x, "reading": setting.reading}
        return place | self._rows[key]

    def _compared(self, estimator: Any, reading: str, draws: int) -> Row:
        samples = []
        for number, (pair, exact) in enumerate(
            zip(self.snapshot.readings[reading], self.exact, strict=True)
        ):
            found = [
                self.estimate(estimator, pair, "float32", 1000 * number + draw)
                for draw in range(draws)
            ]
            samples.append((torch.stack(found), exact))
        return agreement(samples, expected_step(estimator) / self.snapshot.inner_lr)


def precision_rows(bench: Bench, options: Options) -> list[Row]:
    """Estimates in float32 and bfloat16 against the same draws in float64: rounding alone."""
    snapshot, rows = bench.snapshot, []
    kinds: list[tuple[str, float | str, Any]]
    kinds = [("EvoGrad, sigma", s, EvoGrad(sigma=s)) for s in options.sigmas]
    kinds += [
        ("EvoGrad by differences, sigma", s, EvoGradDifferences(sigma=s)) for s in options.sigmas
    ]
    kinds += [("along g, radius", r, EvoGradAlongGradient(r, TAU)) for r in options.radii]
    kinds += [("T1-T2", "", T1T2(snapshot.inner_lr))]
    pairs = snapshot.readings[snapshot.noise_prediction]
    for name, x, estimator in kinds:
        draws = 4 if name.startswith("EvoGrad") else 1
        cases = [(pair, draw) for pair in pairs for draw in range(draws)]
        true = [bench.estimate(estimator, *case[:1], "float64", case[1]) for case in cases]
        for precision in ("float32", "bfloat16"):
            found = [bench.estimate(estimator, *case[:1], precision, case[1]) for case in cases]
            samples = [(f.unsqueeze(0), t) for f, t in zip(found, true, strict=True)]
            rows.append({"series": name, "x": x, "precision": precision, **agreement(samples, 1.0)})
    return rows


def predictions(bench: Bench, options: Options) -> Row:
    """The effective dimension in float64, and the noise it predicts for each K."""
    snapshot = bench.snapshot
    problem, dtype = bench.problems["float64"]
    params, hyper, pairs = cast(
        (snapshot.params, snapshot.hyper, tuple(snapshot.readings[snapshot.noise_prediction])),
        dtype,
    )
    generator = torch.Generator().manual_seed(0)
    dimensions = [
        effective_dimension(problem, params, hyper, inner, outer, options.probes, generator)
        for inner, outer in pairs
    ]

    def mean(function: Callable[..., float], *arguments: float) -> float:
        return sum(function(d, *arguments) for d in dimensions) / len(dimensions)

    return {"dimensions": dimensions} | {
        f"{count}": {
            "cosine": mean(predicted_cosine, count),
            "sign_agreement": mean(predicted_sign_agreement, count),
            "norm_ratio": mean(
                predicted_norm_ratio, count, EvoGrad(count).effective_inner_lr / snapshot.inner_lr
            ),
        }
        for count in sorted({*options.candidates, *options.brief_candidates})
    }


def staleness(bench: Bench, options: Options) -> list[Row]:
    """Cosine of the exact hypergradients now and m training steps later, on the same batches.

    With m = 0: on other batches at the same parameters, for comparison.
    """
    snapshot = bench.snapshot
    others = [*bench.exact[1:], bench.exact[0]]
    rows = [{"m": 0, "cosine": _mean_cosine(bench.exact, others)}]
    if snapshot.later is None:
        return rows
    problem, dtype = bench.problems["float64"]
    for count, (params, hyper) in zip(
        options.steps_later, snapshot.later(options.steps_later), strict=True
    ):
        later = [
            flat_gradient(
                T1T2(snapshot.inner_lr)(problem, *cast((params, hyper, *pair), dtype)).grads
            )
            for pair in snapshot.paper_pairs
        ]
        rows.append({"m": count, "cosine": _mean_cosine(bench.exact, later)})
    return rows


def _mean_cosine(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    found = [cosine(a, b) for a, b in zip(left, right, strict=True)]
    return sum(found) / len(found)


def measure_snapshot(
    planned: PlannedSnapshot, options: Options
) -> Iterator[tuple[str, float, Row | None]]:
    """Yields what comes next and the part that is done; at last the whole record."""
    yield "training", 0.0, None
    snapshot = planned.build()
    bench = Bench(snapshot)
    brief = planned.axis != "stage"
    rows, todo = [], settings(snapshot, options, brief)
    for number, setting in enumerate(todo):
        yield f"{setting.series} {setting.x}", 0.1 + 0.6 * number / len(todo), None
        rows.append(bench.row(setting))
    yield "predictions", 0.7, None
    record: Row = {
        "experiment": planned.experiment,
        "axis": planned.axis,
        "x": planned.x,
        "inner_lr": snapshot.inner_lr,
        "parameters": sum(t.numel() for t in snapshot.params.values()),
        "hyperparameters": sum(t.numel() for t in snapshot.hyper.values()),
        "readings": list(snapshot.readings),
        "noise_prediction": snapshot.noise_prediction,
        "options": {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(options).items()},
        "exact_norm": sum(e.norm().item() for e in bench.exact) / len(bench.exact),
        "rows": rows,
        "predictions": predictions(bench, options),
    }
    if not brief:
        yield "precision", 0.75, None
        record["precision"] = precision_rows(bench, options)
        yield "staleness", 0.9, None
        record["staleness"] = staleness(bench, options)
        if planned.x == "end":
            yield "cost", 0.95, None
            record["costs"], record["fidelity_of"] = variant_costs(snapshot, options.cost_rounds)
    yield "done", 1.0, record
