"""What estimators cost and how right they are, on one problem: the only way to measure here."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, pstdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .along_gradient import EvoGradAlongGradient, FiniteDifference
from .base import Estimator
from .evograd import EvoGrad
from .hyper_optimizer import Hyper, Loss, ModuleProblem
from .memory import peak_memory
from .problem import Tensors, detached, gradients, leaves
from .t1t2 import T1T2, T1T2Forward, T1T2MixedMode

Step = Callable[[], object]
Metrics = dict[str, float | None]
TURN_SECONDS = 0.02  # a turn repeats steps that are shorter


@dataclass(frozen=True)
class Rounds:
    """How often steps take turns: as often as fit into ``seconds``, within ``least`` and
    ``most``."""

    seconds: float = 3.0
    least: int = 3
    most: int = 30

    def number(self, round_seconds: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / round_seconds)))


def timed(
    step: Step,
    device: torch.device,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Mean seconds of one of ``repeats`` steps, the device's work included."""
    _wait_for(device)
    start = clock()
    for _ in range(repeats):
        step()
    _wait_for(device)
    return (clock() - start) / repeats


def in_turns(steps: Sequence[Step], device: torch.device, rounds: Rounds) -> list[list[float]]:
    """Seconds of every step in every round. The steps take turns, so that whatever else the machine
    does falls on all of them."""
    once = [timed(step, device) for step in steps]
    repeats = [math.ceil(TURN_SECONDS / seconds) for seconds in once]
    # Long steps, three of which take minutes, need no trial beforehand.
    counts = max(repeats) == 1
    found: list[list[float]] = [[seconds] if counts else [] for seconds in once]
    for _ in range(rounds.number(sum(once)) - counts):
        for step, count, seconds in zip(steps, repeats, found, strict=True):
            seconds.append(timed(step, device, count))
    return found


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flat_gradient(grads: Tensors) -> Tensor:
    """All entries as one float64 vector on the CPU."""
    return torch.cat([grad.detach().reshape(-1).double().cpu() for grad in grads.values()])


def cosine(left: Tensor, right: Tensor) -> float:
    """Cosine of two vectors; 0 if either is zero."""
    length = (left.norm() * right.norm()).item()
    return (left @ right).item() / length if length else 0.0


def agreement(samples: Sequence[tuple[Tensor, Tensor]], expected_ratio: float) -> Metrics:
    """Estimates against exact hypergradients.

    samples: for each pair of batches the estimates (R, H) of R draws, and the exact one (H,).
    expected_ratio: rho, the ratio of the inner steps behind them. Returns, over all draws,

    cosine, cosine_se: mean of cos(x, e) and its standard error; one entry per estimate
    sign_agreement: share of the entries of e that are not zero in which x has the same sign
    norm_ratio: root mean square of |x| / |e|; expected_ratio: rho, to set beside it
    gain, gain_se: mean of <x, e> / |e|^2 / rho: 1 if the mean is right along e
    mean_cosine: cosine of the mean over draws with e, mean over pairs
    draws: R times the number of pairs
    """
    cosines, signs, norms, gains, means = [], [], [], [], []
    for estimates, exact in samples:
        length = exact.norm()
        unit, known = exact / length, exact != 0
        for estimate in estimates:
            cosines.append(cosine(estimate, exact))
            agreeing = estimate[known].sign() == exact[known].sign()
            signs.append(agreeing.double().mean().item())
            norms.append((estimate.norm() / length).item())
            gains.append((estimate @ unit / length).item() / expected_ratio)
        means.append(cosine(estimates.mean(0), exact))
    return {
        **_mean_and_error("cosine", cosines),
        **_mean_and_error("sign_agreement", signs),
        "norm_ratio": math.sqrt(sum(norm**2 for norm in norms) / len(norms)),
        "expected_ratio": expected_ratio,
        **_mean_and_error("gain", gains),
        "mean_cosine": sum(means) / len(means),
        "draws": len(cosines),
    }


def _mean_and_error(name: str, values: Sequence[float]) -> Metrics:
    tensor = torch.tensor(values, dtype=torch.float64)
    error = (tensor.std() / len(values) ** 0.5).item() if len(values) > 1 else None
    return {name: tensor.mean().item(), f"{name}_se": error}


def expected_step(estimator: Any) -> float:
    """The inner step whose hypergradient the estimator's mean is."""
    return getattr(estimator, "effective_inner_lr", None) or estimator.inner_lr


def cast(item: Any, dtype: torch.dtype) -> Any:
    """The floating tensors of a batch, or of tensors by name, in another type."""
    return tree_map_only(
        Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, item
    )


@dataclass(frozen=True)
class Comparison:
    """One row for every estimator, its values by name:

    time: of hypergradient and base step, in plain steps (median of rounds in turn)
    memory: peak bytes beyond what was in use before, in those of a plain step
    cosine, cosine_se, sign_agreement, gain: see ``agreement``; missing without an exact number
    spread: standard deviation of the cosine over draws
    note: why the estimator does not apply, in its own words; it then has no numbers
    """

    rows: Mapping[str, Mapping[str, Any]]

    def frame(self) -> Any:
        """As a pandas DataFrame, if pandas is installed."""
        import pandas as pd

        return pd.DataFrame.from_dict(self.rows, orient="index")

    def __str__(self) -> str:
        names = ("time", "memory", "cosine", "sign_agreement", "gain", "spread")
        lines: list[tuple[str, ...]] = [("estimator", *names)]
        for name, row in self.rows.items():
            cells = ("–" if row.get(n) is None else f"{row[n]:.3g}" for n in names)
            lines.append((name, str(row["note"])) if row.get("note") else (name, *cells))
        width = max(len(line[0]) for line in lines)
        return "\n".join(
            f"{line[0]:{width}}  " + "".join(f"{c:>16}" if len(line) > 2 else c for c in line[1:])
            for line in lines
        )

    def recommend(self, least_cosine: float = 0.9) -> str:
        """In words: the cheapest estimator whose mean cosine is at least ``least_cosine``."""
        measured = {n: r for n, r in self.rows.items() if r.get("cosine") is not None}
        good = {n: r for n, r in measured.items() if r["cosine"] >= least_cosine}
        if not good:
            best = max(measured, key=lambda name: measured[name]["cosine"], default=None)
            reached = f"; {best} comes nearest ({measured[best]['cosine']:.2f})" if best else ""
            return f"No estimator reaches a cosine of {least_cosine}{reached}."
        name = min(good, key=lambda name: good[name]["time"])
        row = good[name]
        return (
            f"{name}: cosine {row['cosine']:.2f} with the exact one-step hypergradient for "
            f"{row['time']:.1f} times the time and {row['memory']:.1f} times the memory of a plain "
            "step, the cheapest of those that reach "
            f"{least_cosine}."
        )


def usual_estimators(inner_lr: float) -> dict[str, Estimator]:
    """Those that take one batch of each kind, at their usual settings."""
    return {
        "EvoGrad": EvoGrad(),
        "EvoGradAlongGradient": EvoGradAlongGradient(inner_lr=inner_lr),
        "EvoGradAlongGradient, one-sided": EvoGradAlongGradient(inner_lr=inner_lr, one_sided=True),
        "FiniteDifference": FiniteDifference(inner_lr),
        "T1T2": T1T2(inner_lr),
        "T1T2Forward": T1T2Forward(inner_lr),
        "T1T2MixedMode": T1T2MixedMode(inner_lr),
    }


def compare(
    model: nn.Module,
    hyper: Hyper,
    train_loss: Loss,
    valid_loss: Loss,
    train_batch: Any,
    valid_batch: Any,
    inner_lr: float,
    estimators: Mapping[str, Estimator] | None = None,
    draws: int = 8,
    rounds: Rounds | None = None,
    progress: bool = True,
) -> Comparison:
    """Which estimator for this problem? Cost and fidelity of each, on one pair of batches.

    The first four arguments are those of ``HyperOptimizer``; inner_lr is the training's step size.
    estimators: by name; None takes ``usual_estimators``. An estimator that does not apply is a row
    that says why. A plain step is forward and backward of train_loss; the parameters stay as they
    are. The exact hypergradient is T1T2's in float64 (in the model's own type where the losses do
    not take float64; none where they have no second derivative). draws: estimates behind a cosine.
    progress: a bar, if tqdm is installed.
    """
    problem = ModuleProblem(model, hyper, train_loss, valid_loss)
    params, device = problem.params(), next(model.parameters()).device
    batches = train_batch, valid_batch

    def estimate(estimator: Estimator, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return flat_gradient(estimator(problem, params, problem.hyper, *batches, generator).grads)

    def plain_step() -> None:
        theta = leaves(params)
        gradients(problem.inner_loss(theta, detached(problem.hyper), train_batch), theta)

    exact = _exact(problem, batches, inner_lr)
    plain_step()
    plain_peak, _ = peak_memory(plain_step, device)
    rows: dict[str, dict[str, Any]] = {}
    chosen = usual_estimators(inner_lr) if estimators is None else estimators
    for name, estimator in _shown(chosen, progress):

        def step(estimator: Estimator = estimator) -> Tensor:
            found = estimate(estimator, 1)
            plain_step()
            return found

        try:
            step()
        except _ERRORS as error:
            rows[name] = {"note": str(error).splitlines()[0]}
            continue
        row = rows[name] = {"memory": peak_memory(step, device)[0] / max(plain_peak, 1)}
        plain, seconds = in_turns((plain_step, step), device, rounds or Rounds())
        row["time"] = median(s / p for s, p in zip(seconds, plain, strict=True))
        if exact is not None:
            found = torch.stack([estimate(estimator, seed) for seed in range(draws)])
            row |= agreement([(found, exact)], expected_step(estimator) / inner_lr)
            row["spread"] = pstdev(cosine(one, exact) for one in found)
    return Comparison(rows)


def _shown(chosen: Mapping[str, Estimator], progress: bool) -> Any:
    """The estimators, with a progress bar if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return chosen.items()
    return tqdm(chosen.items(), desc="estimators", disable=not progress)


_ERRORS = (ValueError, TypeError, RuntimeError, NotImplementedError)


def _exact(problem: ModuleProblem, batches: tuple[Any, Any], inner_lr: float) -> Tensor | None:
    """The one-step hypergradient by double backward, in float64 if the losses take it."""
    for dtype in (torch.float64, None):
        try:
            own, own_batches = problem, batches
            if dtype is not None:  # the same losses on copies of the modules
                given = problem.module or dict(problem.given)
                model, hyper = copy.deepcopy((problem.model, given))
                hyper = hyper.to(dtype) if isinstance(hyper, nn.Module) else cast(hyper, dtype)
                own = ModuleProblem(
                    model.to(dtype),
                    hyper,
                    problem.losses["train_loss"],
                    problem.losses["valid_loss"],
                )
                own_batches = cast(batches, dtype)
            at = own, own.params(), own.hyper, *own_batches, torch.Generator().manual_seed(0)
            return flat_gradient(T1T2(inner_lr)(*at).grads)
        except _ERRORS:
            continue
    return None
