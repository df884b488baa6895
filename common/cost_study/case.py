"""What an experiment hands to the cost study: a bilevel problem at real shapes, and training steps
as the authors' code makes them.

A step as released differs from this project's in what is alive at once, not in its numbers: the
candidates' graphs stand until one backward frees them all, gradients are accumulated into every
parameter that requires one, and zero_grad leaves zeros in their place (torch's way in 2021).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from common.hypergrad.problem import BilevelProblem, Tensors, leaves

Size = Literal["small", "paper"]
"""small: what two CPU cores measure in minutes; paper: everything the paper's figures show."""
Step = Callable[[], object]
"""A whole training step, always on the same tensors."""
SIGMA, TAU = 1e-3, 0.05
RELEASED = ("evograd num_candidates=2 released", "t1t2 released")
"""Keys of the rows as released."""


@dataclass(frozen=True)
class CostProblem:
    """A case on its device, ready to be measured.

    plain_step: an ordinary training step of the network, forward, backward and update, without
        meta-learning: what every cost is divided by.
    base_step: the training step that follows (or precedes) the meta step in a meta-learning
        iteration; a method's step is its hypergradient and this.
    optimizer: that of the base step, where an estimator may take the base step's loss; such a step
        is forward and backward of ``problem.inner_loss`` and this optimizer's step.
    inner_lr: T1-T2's inner step size, as a number.
    perturb: EvoGrad's ``perturb``.
    excluded: estimator -> why it does not apply here, in a few words for the table.
    steps: key of a row -> whole step, for what "hypergradient, then base_step" does not describe.
    """

    problem: BilevelProblem
    params: Tensors
    hyper: Tensors
    inner_batch: Any
    outer_batch: Any
    plain_step: Step
    base_step: Step
    inner_lr: float
    optimizer: torch.optim.Optimizer | None = None
    perturb: Callable[[str], bool] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)


@dataclass(frozen=True)
class CostCase:
    """One point of a figure: built only when its turn comes, on synthetic tensors.

    figure: the figure or table it belongs to ("ResNet-32 by width"); x: its place there
    ("width 2"). all_methods: whether every method is measured here, or the main ones only.
    own: keys of the built problem's ``steps``. shared: whether estimators take the base step's
    loss, so that there are rows for that.
    """

    figure: str
    x: str
    build: Callable[[torch.device], CostProblem]
    all_methods: bool = True
    own: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class PublishedCost:
    """What the paper measured at one point (figure, x) of its figure ``where``.

    costs: key of a row here -> (gigabytes in use, seconds), for whatever amount of work the paper
    took, since only ratios between methods are compared; in the order plain (if there), EvoGrad,
    T1-T2.
    """

    figure: str
    x: str
    costs: Mapping[str, tuple[float, float]]
    where: str


def released_evograd(
    case: CostProblem,
    meta_optimizer: torch.optim.Optimizer,
    perturb: Callable[[str], bool] = lambda name: True,
    detach: bool = True,
) -> Step:
    """Two perturbed copies of the parameters, an inner loss for each, the parameters merged by
    softmax, the outer loss, one backward; then the base step.

    perturb: which parameters. detach: whether the copies are cut off from the parameters; without,
    the backward passes on to those.
    """

    def step() -> None:
        hyper = leaves(case.hyper)
        start = {n: p.detach() if detach else p for n, p in case.params.items()}
        perturbed = [n for n in start if perturb(n)]
        candidates = [
            start | {n: start[n] + SIGMA * torch.randn_like(start[n]).sign() for n in perturbed}
            for _ in range(2)
        ]
        losses = [case.problem.inner_loss(c, hyper, case.inner_batch) for c in candidates]
        weights = torch.softmax(-torch.stack(losses) / TAU, 0)
        merged = start | {
            n: sum((w * c[n] for w, c in zip(weights, candidates, strict=True)), torch.tensor(0.0))
            for n in perturbed
        }
        outer_loss = case.problem.outer_loss(merged, hyper, case.outer_batch)
        outer_loss.backward()
        _update(case, hyper, meta_optimizer)
        case.base_step()

    return step


def released_t1t2(
    case: CostProblem,
    meta_optimizer: torch.optim.Optimizer,
    before: Callable[[Tensors], object] = lambda grads: None,
    after: Step = lambda: None,
) -> Step:
    """One inner step with a graph, the outer loss at its end, one backward into everything.

    before: what is done before that backward, handed dL_T/dtheta by name; after: what comes last.
    One of them is the base step.
    """
    params = dict(case.params)

    def step() -> None:
        hyper = leaves(case.hyper)
        loss = case.problem.inner_loss(params, hyper, case.inner_batch)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        fast = {n: p - case.inner_lr * g for (n, p), g in zip(params.items(), grads, strict=True)}
        outer_loss = case.problem.outer_loss(fast, hyper, case.outer_batch)
        # The update is in place, as torch let it be in 2021 before the backward.
        with torch.autograd._unsafe_preserve_version_counter(tuple(params.values())):
            before(dict(zip(params, grads, strict=True)))
        outer_loss.backward()
        _update(case, hyper, meta_optimizer)
        after()

    return step


def _update(case: CostProblem, hyper: Tensors, optimizer: torch.optim.Optimizer) -> None:
    for name, tensor in case.hyper.items():
        tensor.grad = hyper[name].grad
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
