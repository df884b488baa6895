"""What the fidelity study varies, and how much of it."""

from dataclasses import dataclass, replace
from typing import Any

from common.fidelity_study.snapshots import Snapshot
from common.hypergrad import (
    T1T2,
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    EvoGrad,
    EvoGradAlongGradient,
    EvoGradDifferences,
    FiniteDifference,
)

TAU = EvoGrad().temperature
"""The paper's temperature, of all variants."""


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


def settings(snapshot: Snapshot, options: Options, brief: bool) -> list[Setting]:
    """What is compared. brief: K, and the estimators without noise."""
    found, eta = [], snapshot.inner_lr
    readings = [snapshot.noise_prediction] if brief else snapshot.readings
    for number, reading in enumerate(readings):
        for count in options.brief_candidates if brief else options.candidates:
            draws = max(4, 2 * options.draws // count)
            found.append(Setting("K", count, EvoGrad(count), reading, draws))
        found += [
            Setting("along g", r, EvoGradAlongGradient(r, TAU), reading) for r in options.radii
        ]
        found += [
            Setting("finite difference", r, FiniteDifference(eta, r), reading)
            for r in options.radii
        ]
        if brief:
            continue
        found += [
            Setting("along g, one-sided", r, EvoGradAlongGradient(r, TAU, one_sided=True), reading)
            for r in options.radii
        ]
        if number:
            continue  # the rest in the paper's reading only
        paper, draws = EvoGrad(), options.draws
        own = EvoGrad().effective_inner_lr
        found.append(Setting("one step, g at theta", "T1-T2", T1T2(own), reading))
        found += [
            Setting("sigma", s, replace(paper, sigma=s), reading, draws) for s in options.sigmas
        ]
        found += [
            Setting("tau", t, replace(paper, temperature=t), reading, draws)
            for t in options.temperatures
        ]
        kinds = {
            "antithetic": replace(paper, antithetic=True),
            "gaussian": replace(paper, perturbation="gaussian"),
            "one at theta": AnchoredEvoGrad(),
            "by differences": EvoGradDifferences(),
            "one at theta, by differences": AnchoredEvoGradDifferences(),
        } | {name: replace(paper, perturb=which) for name, which in snapshot.parts.items()}
        found += [Setting("kind", n, e, reading, draws) for n, e in kinds.items()]
        for count in options.brief_candidates:
            mirrored = EvoGrad(count, antithetic=True)
            draws = max(4, 2 * options.draws // count)
            found.append(Setting("antithetic K", count, mirrored, reading, draws))
    return found
