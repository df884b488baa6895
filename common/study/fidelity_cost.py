"""Time and memory of the cheaper variants, hypergradient and base step together."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from common.hypergrad import (
    T1T2,
    Anchor,
    AnchoredEvoGrad,
    EvoGrad,
    EvoGradAlongGradient,
    FiniteDifference,
)
from common.hypergrad.problem import detached, gradients, gradients_or_none, leaves
from common.study.moments import Moment
from common.training import measure

Row = dict[str, Any]
REFERENCE = "EvoGrad, K = 2"


def variant_costs(moment: Moment, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Name of the step -> one measurement per round; the steps take turns.

    On a CPU ``seconds`` is the process's own processor time, which other work on the machine
    hardly changes.
    """
    device = next(iter(moment.params.values())).device
    steps = _steps(moment)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            cost = measure(step, device, repeats=3, warm_up=1).as_dict()
            if device.type == "cpu":
                start = time.process_time()
                step()
                cost["seconds"] = time.process_time() - start
            found[name].append(cost)
    return found


def _steps(moment: Moment) -> dict[str, Callable[[], object]]:
    eta = moment.inner_lr
    problem = moment.problem(torch.float32)
    (inner, outer), point = moment.paper_pairs[0], (moment.params, moment.hyper)

    def base() -> object:
        """A base step's gradient."""
        theta = leaves(moment.params)
        return gradients(problem.inner_loss(theta, detached(moment.hyper), inner), theta)

    def hypergradient(estimator: Any, problem: Any = problem) -> None:
        estimator(problem, *point, inner, outer)
        base()

    def anchored() -> None:
        """The base step first, which gives dL_T/dlambda at theta along with its own gradient."""
        theta, hyper = leaves(moment.params), leaves(moment.hyper)
        loss = problem.inner_loss(theta, hyper, inner)
        both = {("theta", n): t for n, t in theta.items()}
        both |= {("lambda", n): t for n, t in hyper.items()}
        found = gradients_or_none(loss, both)
        anchor = Anchor(loss.detach(), {n: found["lambda", n] for n in hyper})
        AnchoredEvoGrad()(problem, *point, inner, outer, anchor=anchor)

    estimators = {
        REFERENCE: EvoGrad(),
        "EvoGrad, K = 8": EvoGrad(8),
        "one candidate at theta": AnchoredEvoGrad(),
        "along g": EvoGradAlongGradient(),
        "finite difference": FiniteDifference(eta),
        "T1-T2": T1T2(eta),
    }
    steps: dict[str, Callable[[], object]] = {"base step alone": base}
    steps |= {name: partial(hypergradient, e) for name, e in estimators.items()}
    steps["one candidate at theta, shared with the base step"] = anchored
    for name, part in moment.parts.items():
        steps[f"{name} perturbed"] = partial(hypergradient, EvoGrad(perturb=part))
    for name, (hooked, part) in moment.hooks.items():
        for count in (2, 8):
            estimator = EvoGrad(count, perturb=part)
            steps[f"{name}, K = {count}"] = partial(hypergradient, estimator, hooked)
    return steps
