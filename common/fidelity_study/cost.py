"""Time and memory of the cheaper variants, hypergradient and base step together."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from common.fidelity_study.settings import TAU
from common.fidelity_study.snapshots import Snapshot
from common.hypergrad import (
    T1T2,
    Anchor,
    AnchoredEvoGrad,
    EvoGrad,
    EvoGradAlongGradient,
    FiniteDifference,
)
from common.hypergrad.problem import detached, gradients, gradients_by_both, leaves
from common.training import measure

REFERENCE = "EvoGrad, K = 2"
Step = Callable[[], object]
Place = list[Any]
"""Series and x of the setting whose fidelity is a step's."""


def variant_costs(
    snapshot: Snapshot, rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, Place]]:
    """Name of the step -> one measurement per round (the steps take turns), and -> its place.

    On a CPU ``seconds`` is the process's own processor time, which other work on the machine
    hardly changes.
    """
    device = next(iter(snapshot.params.values())).device
    steps = _steps(snapshot)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            cost = asdict(measure(step, device, repeats=3, warm_up=1))
            if device.type == "cpu":
                start = time.process_time()
                step()
                cost["seconds"] = time.process_time() - start
            found[name].append(cost)
    return found, {name: place for name, (_, place) in steps.items() if place}


def _steps(snapshot: Snapshot) -> dict[str, tuple[Step, Place]]:
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

    estimators: dict[str, tuple[Any, Place]] = {
        REFERENCE: (EvoGrad(), ["K", 2]),
        "EvoGrad, K = 8": (EvoGrad(8), ["K", 8]),
        "one candidate at theta": (AnchoredEvoGrad(), ["kind", "one at theta"]),
        "along g": (EvoGradAlongGradient(temperature=TAU), ["along g", 0.01]),
        "finite difference": (FiniteDifference(eta), ["finite difference", 0.01]),
        "T1-T2": (T1T2(eta), []),
    }
    steps: dict[str, tuple[Step, Place]] = {"base step alone": (base, [])}
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
