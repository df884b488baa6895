"""The hypergradient of several steps of SGD, in reverse and in forward mode.

Domke. Generic Methods for Optimization-Based Modeling. AISTATS 2012.
Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter
Optimization. ICML 2017, arXiv:1703.01785 (there: Reverse-HG, Forward-HG).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .base import Estimate, InnerSGD, Point, Seeds, check_at_least
from .checks import BY_THETA
from .inner_step import Carried, LearnedLR, Steps
from .problem import (
    Grads,
    Hypergradient,
    Tensors,
    added,
    detached,
    gradients,
    gradients_by_both,
    gradients_or_none,
    leaves,
    moved_by,
    norm,
    split_like,
    sum_or_none,
    zeros_for_none,
)
from .randomness import draw_seeds


class SeveralSteps(InnerSGD):
    """An estimator of ``steps`` inner steps; inner_batch is a sequence of as many batches."""

    several_steps = True
    steps: int
    momentum: Any  # a number

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, steps=self.steps)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def __call__(
        self,
        problem: Any,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        *rest: Any,
        **given: Any,
    ) -> Hypergradient:
        wanted = f"inner_batch must be a sequence of one batch for each of steps = {self.steps}"
        if isinstance(inner_batch, tuple) and all(isinstance(b, Tensor) for b in inner_batch):
            raise ValueError(f"{wanted}; a tuple of tensors is taken for one batch: use a list")
        if not isinstance(inner_batch, Sequence) or len(inner_batch) != self.steps:
            got = len(inner_batch) if isinstance(inner_batch, Sequence) else type(inner_batch)
            raise ValueError(f"{wanted}, got {got}")
        return super().__call__(problem, params, hyper, inner_batch, *rest, **given)

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        *inner, outer = draw_seeds(self.steps + 1, generator)
        return Seeds(inner, outer)


@dataclass(frozen=True)
class Unrolled(SeveralSteps):
    """dL_V(theta_k)/dlambda through k = ``steps`` inner steps from theta_0 = theta.

        m_{t+1} = mu m_t + dL_T/dtheta(theta_t, lambda, batch_t),   m_0 = 0
        theta_{t+1} = theta_t - eta m_{t+1}

    by reverse mode: every step stays a graph, and dL_V/dtheta_k is carried back through them by
    double backward. Exact; ``steps=1`` is T1T2. What the inner loss detaches (Meta-Weight-Net's
    inputs) counts as constant, also where it depends on lambda through an earlier step. Cost: k + 1
    forwards, k + 1 backwards, k backwards through a backward; memory: k graphs of dL_T/dtheta.

    inner_lr: eta, one value for the k steps; a ``LearnedLR`` makes it a function of lambda; or the
    training's optimiser (SGD, Adam, AdamW, RMSprop), whose next k steps these then are, from its
    present rates and buffers. steps: k. momentum: mu, of plain SGD. inner_batch is a sequence of k
    batches, used in order.
    recompute: keeps theta_t and the optimiser's state, and computes each step's graph again on the
    way back: the memory of one graph, for k forwards and backwards more. (Reversible's memory
    hardly grows with k, ForwardMode's not at all.)
    start: a function of lambda that gives theta_0 by name, in place of the parameters' values
    where it has a name: ``start=lambda hyper: hyper`` learns initial parameters (MAML: Finn,
    Abbeel, Levine. ICML 2017, arXiv:1703.03400).

    outer_loss is L_V at theta_k; the result's ``params`` are theta_k. Diagnostics: ``inner_losses``
    L_T at theta_0 .. theta_{k-1}, (k,), ``outer_grad_norm`` |dL_V/dtheta_k|.
    """

    learns_rates = takes_optimizers = True
    steps: int
    momentum: float = 0.0
    recompute: bool = False
    start: Callable[[Tensors], Tensors] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = getattr(self.inner_lr, "optimizer", self.inner_lr)
        if self.momentum and isinstance(own, Optimizer):
            raise ValueError("inner_lr is an optimiser with a momentum of its own: leave it out")

    @property
    def acts_on_steps(self) -> bool:
        return super().acts_on_steps or self.start is not None

    def estimate(self, at: Point) -> Estimate:
        at.examination.need(BY_THETA)
        steps = Steps(self.inner_lr, at.params, self.momentum)
        begin = self._begin(at)
        carried: Carried = {**begin, **steps.state}
        kept: list[Carried] = []
        inner_losses = []
        for step in range(self.steps):
            if self.recompute:
                kept.append(carried)
            loss, carried = self._step(at, steps, step, carried, graph=not self.recompute)
            inner_losses.append(loss)
        theta = detached({n: carried[n] for n in begin})
        outer_loss, v, direct = at.outer_step(theta)
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        found: Grads = {}
        for step in reversed(range(len(kept))):
            before = leaves(kept.pop())
            _, carried = self._step(at, steps, step, before)
            wanted = before if step or self.start else {}
            outputs = [carried[n] for n in v]
            back, mixed = gradients_by_both(outputs, wanted, at.hyper, list(v.values()))
            v = {n: grad for n, grad in back.items() if grad is not None}
            found = sum_or_none(found, mixed)
            carried = begin
        first = {n: grad for n, grad in v.items() if n in carried}
        rest = gradients_or_none([carried[n] for n in first], at.hyper, list(first.values()))
        return Estimate(outer_loss, sum_or_none(found, rest), direct, diagnostics, theta)

    def _begin(self, at: Point) -> dict[str, Tensor]:
        """theta_0, with a graph to lambda where ``start`` gives it."""
        theta = leaves(at.theta)
        given = {} if self.start is None else self.start(at.hyper)
        if self.start is not None and not set(given) & set(theta):
            raise ValueError(f"start gives none of the parameters {', '.join(theta)}")
        for n in theta:
            if n in given:
                if given[n].shape != theta[n].shape:
                    raise ValueError(
                        f"start gives {n} the shape {tuple(given[n].shape)}, "
                        f"not the parameter's, {tuple(theta[n].shape)}"
                    )
                # Apart from lambda's own tensor, by which the losses may have derivatives too.
                theta[n] = given[n].view_as(theta[n])
        return theta

    def _step(
        self, at: Point, steps: Steps, step: int, before: Carried, graph: bool = True
    ) -> tuple[Tensor, Carried]:
        """L_T, and what is carried on from the step, with a graph to ``before`` and lambda."""
        theta = {n: before[n] for n in at.theta}
        if not graph:
            theta = leaves(theta)
        loss = at.inner_loss(theta, step=step)
        grads = gradients(loss, theta, create_graph=graph)
        if graph:
            at.examination.check_twice_differentiable(grads)
        rates = None
        if steps.learned is not None:
            held = {n: theta[n] for n in steps.groups}
            rates = steps.learned.by_name(at.hyper, held, step, self.steps)
        after = steps.after(before, grads, step, rates)
        return loss.detach(), after if graph else detached(after)


@dataclass(frozen=True)
class ForwardMode(SeveralSteps):
    """Unrolled's of SGD, with the Jacobian Z_t = dtheta_t/dlambda carried along the steps.

        W_{t+1} = mu W_t + d2L_T/dtheta2 Z_t + d2L_T/(dtheta dlambda),   W_0 = 0
        Z_{t+1} = Z_t - eta W_{t+1},   Z_0 = 0,   indirect term = dL_V/dtheta_k . Z_k

    theta_t as in Unrolled. Column i, of hyperparameter entry i with unit vector e_i, is one
    derivative of dL_T/dtheta along (z_i, e_i), taken, since second derivatives are symmetric, as

        d/dtheta ( <dL_T/dtheta, z_i> + <dL_T/dlambda, e_i> )

    by double backward: right wherever T1T2 is (torch lacks the forward-mode derivative of many
    backward passes). Cost for H entries of lambda: k + 1 forwards, k + 1 backwards, k H backwards
    through a backward; memory: one graph of the first derivatives and H vectors of theta's size
    (2 H with momentum), whatever k.

    inner_lr, steps, momentum and what is returned as Unrolled; of a ``LearnedLR`` -m deta/dlambda
    is added to every step.
    """

    learns_rates = True
    steps: int
    momentum: float = 0.0

    def estimate(self, at: Point) -> Estimate:
        at.examination.need(BY_THETA)
        theta = at.theta
        momentum = {n: torch.zeros_like(t) for n, t in theta.items()}
        tangents = _Tangents(at, self.momentum)
        fixed = {} if self.acts_on_steps else dict.fromkeys(theta, self.eta)
        learned: Tensors = {}
        inner_losses = []
        for step in range(self.steps):
            if isinstance(self.inner_lr, LearnedLR):
                learned = self.inner_lr.by_name(at.hyper, theta, step, self.steps)
            rates = fixed or detached(learned)
            loss, inner_grads = tangents.step(step, leaves(theta), rates)
            inner_losses.append(loss)
            momentum = added(inner_grads, momentum, self.momentum)
            tangents.step_rates(learned, momentum)
            theta = {n: moved_by(t, momentum[n], -rates[n]) for n, t in theta.items()}
        outer_loss, v, direct = at.outer_step(theta)
        diagnostics = {"inner_losses": torch.stack(inner_losses), "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, tangents.along(v), direct, diagnostics, theta)


class _Tangents:
    """Z, and W if there is momentum: by parameter, (H, *shape), a row per entry of lambda."""

    def __init__(self, at: Point, momentum: float) -> None:
        self.at, self.momentum = at, momentum
        self.entries = [(n, i) for n, h in at.hyper.items() for i in range(h.numel())]
        self.z = {n: t.new_zeros(len(self.entries), *t.shape) for n, t in at.theta.items()}
        self.w = {n: torch.zeros_like(z) for n, z in self.z.items()} if momentum else None
        self.started = False

    def step(
        self, step: int, theta: Tensors, rates: Mapping[str, float | Tensor]
    ) -> tuple[Tensor, Tensors]:
        """Through an SGD step from the leaves ``theta``; L_T and dL_T/dtheta without a graph."""
        loss = self.at.inner_loss(theta, step=step)
        found, hyper_grads = gradients_by_both(loss, theta, self.at.hyper, create_graph=True)
        loss, inner_grads = loss.detach(), zeros_for_none(found, theta)
        self.at.examination.check_twice_differentiable(inner_grads)
        for row, (name, index) in enumerate(self.entries):
            outputs: list[Tensor] = []
            vectors: list[Tensor] = []
            if self.started:  # before, z is zero
                outputs += inner_grads.values()
                vectors += [self.z[n][row] for n in inner_grads]
            if (grad := hyper_grads[name]) is not None:
                unit = torch.zeros_like(grad, memory_format=torch.contiguous_format)
                unit.view(-1)[index] = 1
                outputs.append(grad)
                vectors.append(unit)
            for n, change in gradients(outputs, theta, vectors, retain_graph=True).items():
                if self.w is not None:
                    change = self.w[n][row].mul_(self.momentum).add_(change)
                if isinstance(rate := rates[n], Tensor):
                    self.z[n][row].sub_(rate * change)
                else:
                    self.z[n][row].sub_(change, alpha=rate)
        self.started = True
        return loss, detached(inner_grads)

    def step_rates(self, learned: Tensors, momentum: Tensors) -> None:
        """-m deta/dlambda of one step, where the rates are functions of lambda."""
        for n, rate in learned.items():
            if rate.dim():
                self._step_entries(n, rate, momentum[n])
                continue
            for name, slope in gradients_or_none(rate, self.at.hyper, retain_graph=True).items():
                if slope is not None:
                    rows = [row for row, (other, _) in enumerate(self.entries) if other == name]
                    change = slope.reshape(-1, *[1] * momentum[n].dim()) * momentum[n]
                    self.z[n][rows[0] : rows[-1] + 1].sub_(change)

    def _step_entries(self, name: str, rate: Tensor, move: Tensor) -> None:
        """The same for a rate per entry: column i of its Jacobian is the derivative by u of the
        i-th entry of u . drate/dlambda."""
        u = torch.zeros_like(rate, requires_grad=True)
        products = gradients_or_none(rate, self.at.hyper, [u], create_graph=True)
        for row, (other, index) in enumerate(self.entries):
            if (product := products[other]) is not None:
                entry = product.reshape(-1)[index]
                (column,) = torch.autograd.grad(entry, u, retain_graph=True)
                self.z[name][row].sub_(column * move)

    def along(self, v: Tensors) -> dict[str, Tensor]:
        """v . Z by hyperparameter."""
        rows = len(self.entries)
        parts = (self.z[n].reshape(rows, t.numel()) @ t.reshape(-1) for n, t in v.items())
        return split_like(functools.reduce(torch.add, parts), self.at.hyper)
