"""Training steps as the authors' code makes them, for what those keep in memory.

A step as released differs from this project's in what is alive at once, not in its numbers: the
candidates' graphs stand until one backward frees them all, gradients are accumulated into every
parameter that requires one, and zero_grad leaves zeros in their place (torch's way in 2021).
"""

from collections.abc import Callable

import torch

from common.cost_study.case import CostProblem, Step
from common.hypergrad.problem import Tensors, leaves

SIGMA, TAU = 1e-3, 0.05
RELEASED = ("evograd num_candidates=2 released", "t1t2 released")
"""Keys of the rows."""


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
    after: Callable[[], object] = lambda: None,
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
