"""Inner steps: of plain SGD, or those of the training's optimiser, as differentiable functions.

Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing. Making Scalable Meta Learning Practical (SAMA).
NeurIPS 2023, arXiv:2310.05674: behind a step of Adam stands Adam's Jacobian, not the identity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Union

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .problem import Tensors, added, detached, gradients, leaves, moved_by

InnerLR = Union[float, Callable[[], float], "LearnedLR"]
"""The inner step size eta; a callable is asked at every call, so it can follow a schedule."""

InnerStep = float | Callable[[], float] | Optimizer
"""The step size of SGD, or the training's optimiser (SGD, Adam, AdamW or RMSprop), whose present
learning rates, momentum and moments are read at every call."""


@dataclass(frozen=True)
class LearnedLR:
    """Inner step sizes that are hyperparameters, for Unrolled and ForwardMode.

    rates: a function of lambda that gives one step size, a scalar tensor, or by name one for each
    parameter (the same tensor for those of a group), a scalar or of the parameter's shape (a rate
    per entry, Meta-SGD): ``LearnedLR(lambda hyper: hyper["log"].exp())``. Names of frozen
    parameters are left out. A list of such, one for each inner step, is a schedule:
    ``LearnedLR(lambda hyper: hyper["logs"].exp().unbind())``. It is asked once a step.
    optimizer: whose steps have these rates in place of its own (Unrolled); None is SGD.
    """

    rates: Callable[[Tensors], Tensor | Tensors | Sequence[Tensor | Tensors]]
    optimizer: Optimizer | None = None

    def by_name(self, hyper: Tensors, theta: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        """The rate of every parameter in a step, with a graph to ``hyper``. ValueError for a
        missing one, one of another shape, or a schedule of another length."""
        rates = self.rates(hyper)
        if not isinstance(rates, Tensor | Mapping):
            if len(rates) != steps:
                raise ValueError(f"LearnedLR gives rates of {len(rates)} steps, not of {steps}")
            rates = rates[step]
        if isinstance(rates, Tensor):
            rates = dict.fromkeys(theta, rates)
        if missing := [n for n in theta if n not in rates]:
            raise ValueError(f"LearnedLR gives no rate for the parameters {', '.join(missing)}")
        for n, t in theta.items():
            if rates[n].dim() and rates[n].shape != t.shape:
                raise ValueError(
                    f"LearnedLR gives {n} a rate of shape {tuple(rates[n].shape)}: it must be a "
                    f"scalar or have the parameter's, {tuple(t.shape)}"
                )
        return {n: rates[n] for n in theta}


def check_inner_step(
    inner_lr: InnerLR | InnerStep, optimizers: bool = False, learned: bool = False
) -> None:
    """ValueError or TypeError for what is no positive step size, nor an optimiser or a LearnedLR
    where they are allowed; functions are asked later."""
    if isinstance(inner_lr, LearnedLR):
        if not learned:
            raise ValueError("inner_lr may be a LearnedLR in Unrolled and ForwardMode only")
        if inner_lr.optimizer is not None:
            if not optimizers:
                raise ValueError("a LearnedLR may have an optimizer in Unrolled only")
            check_inner_step(inner_lr.optimizer, optimizers)
    elif optimizers and isinstance(inner_lr, Optimizer):
        if type(inner_lr) not in _RULES:
            known = "SGD, Adam, AdamW, RMSprop or a number"
            raise ValueError(f"inner_lr cannot be {type(inner_lr).__name__}: use {known}")
        if any(group.get("amsgrad") for group in inner_lr.param_groups):
            raise ValueError("inner_lr cannot be an optimiser with amsgrad=True")
    elif not callable(inner_lr) and not _number(inner_lr) > 0:
        raise ValueError(f"inner_lr must be positive, got {inner_lr}")


def current(inner_lr: float | Callable[[], float]) -> float:
    """The step size now; a schedule may come to 0."""
    if not callable(inner_lr):
        return inner_lr
    eta = _number(inner_lr())
    if not isinstance(eta, Tensor) and not eta >= 0:  # a tensor's value would be waited for
        raise ValueError(f"inner_lr must not be negative, got {eta}")
    return eta


def _number(inner_lr: Any) -> float:
    if isinstance(inner_lr, Tensor):
        if inner_lr.shape != () or inner_lr.requires_grad:
            raise ValueError(
                "inner_lr as a tensor must be a scalar without a gradient (a learned step size is "
                f"a hyperparameter: put it into the inner loss), got {inner_lr}"
            )
    elif not isinstance(inner_lr, Real) or isinstance(inner_lr, bool):
        raise TypeError(
            "inner_lr must be a number, or a function that returns one, such as "
            f"lambda: optimizer.param_groups[0]['lr']; got a {type(inner_lr).__name__}"
        )
    return inner_lr


Carried = dict[Any, Tensor]
"""What inner steps carry on: theta by name, and the optimiser's state by (name, key)."""


Group = Mapping[str, Any]
State = Callable[[str], Tensor | None]
Update = tuple[Tensor, dict[str, Tensor]]
Rule = Callable[[Group, State, Tensor, float], Update]
"""(group, state by key, gradient, number of the step) -> what the learning rate multiplies, and the
state after the step."""


class Steps:
    """Inner steps as functions of theta, dL_T/dtheta and the optimiser's state, differentiable by
    all of them; no optimiser is changed.

    They are SGD with ``momentum`` from m_0 = 0, or those that the training's optimiser would make
    now, from its present rates and buffers. params: theta as handed over by the caller, the very
    tensors that an optimiser holds; those that it does not hold stay where they are. ValueError if
    it holds none of them.
    """

    def __init__(self, inner_lr: InnerLR | InnerStep, params: Tensors, momentum: float = 0.0):
        self.learned = inner_lr if isinstance(inner_lr, LearnedLR) else None
        optimizer = inner_lr.optimizer if isinstance(inner_lr, LearnedLR) else inner_lr
        self.rule, self.counts = _RULES.get(type(optimizer), _sgd), dict.fromkeys(params, 0.0)
        self.state: Carried = {}
        if not isinstance(optimizer, Optimizer):
            eta = 0.0 if optimizer is None else current(optimizer)
            group = {"lr": eta, "momentum": momentum}
            self.groups: dict[str, Group] = dict.fromkeys(params, group)
            return
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self.groups = {n: groups[id(p)] for n, p in params.items() if id(p) in groups}
        if not self.groups:
            raise ValueError(
                "inner_lr is an optimiser that holds none of the parameters handed over: hand over "
                "dict(model.named_parameters()) of the model that it trains"
            )
        for n in self.groups:
            state = dict(optimizer.state.get(params[n], {}))
            self.counts[n] = float(state.pop("step", 0))
            self.state |= {(n, key): s.detach() for key, s in state.items() if s is not None}

    def after(
        self, at: Carried, grads: Tensors, step: int = 0, rates: Tensors | None = None
    ) -> Carried:
        """theta and state after the step from ``at`` with the gradients; rates: in place of the
        optimiser's own."""
        after = dict(at)
        for n, group in self.groups.items():

            def state(key: str, n: str = n) -> Tensor | None:
                return at.get((n, key))

            grad, start = -grads[n] if group.get("maximize") else grads[n], at[n]
            rate: Any = group["lr"] if rates is None else rates[n]
            if decay := group.get("weight_decay", 0.0):
                if group.get("decoupled_weight_decay"):
                    start = start * (1 - rate * decay)
                else:
                    grad = grad + decay * start
            count = self.counts[n] + step + 1
            update, new = self.rule(group, state, grad, count)
            after[n] = moved_by(start, update, -rate)
            after |= {(n, key): s for key, s in new.items()}
        return after


def _sgd(group: Group, state: State, grad: Tensor, count: float) -> Update:
    update, buffer, momentum = grad, state("momentum_buffer"), group["momentum"]
    if not momentum:
        return update, {}
    if buffer is not None:  # the first step takes the gradient itself for the buffer
        share = 1 - group.get("dampening", 0.0)
        update = torch.add(grad if share == 1 else share * grad, buffer, alpha=momentum)
    buffer = update
    if group.get("nesterov"):
        update = torch.add(grad, buffer, alpha=momentum)
    return update, {"momentum_buffer": buffer}


def _adam(group: Group, state: State, grad: Tensor, count: float) -> Update:
    """m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps), m and s the moments with ``grad``."""
    beta1, beta2 = group["betas"]
    m = _mean(beta1, state("exp_avg"), grad)
    s = _mean(beta2, state("exp_avg_sq"), grad.square())
    update = m / (1 - beta1**count) / (_root(s / (1 - beta2**count)) + group["eps"])
    return update, {"exp_avg": m, "exp_avg_sq": s}


def _rmsprop(group: Group, state: State, grad: Tensor, count: float) -> Update:
    """grad / (sqrt(s) + eps), s the mean of squares (centred: less that of the mean), summed up by
    the momentum."""
    after = {"square_avg": _mean(group["alpha"], state("square_avg"), grad.square())}
    variance = after["square_avg"]
    if group["centered"]:
        after["grad_avg"] = _mean(group["alpha"], state("grad_avg"), grad)
        variance = variance - after["grad_avg"].square()
    update = grad / (_root(variance) + group["eps"])
    if group["momentum"]:
        if (buffer := state("momentum_buffer")) is not None:
            update = update + group["momentum"] * buffer
        after["momentum_buffer"] = update
    return update, after


def _mean(keep: float, before: Tensor | None, new: Tensor) -> Tensor:
    return (1 - keep) * new if before is None else keep * before + (1 - keep) * new


def _root(square: Tensor) -> Tensor:
    """Whose derivative at 0 is 0."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


_RULES: dict[type, Rule] = {SGD: _sgd, Adam: _adam, AdamW: _adam, RMSprop: _rmsprop}


@dataclass(frozen=True)
class Stepped:
    """theta' of an inner step, and its derivative by dL_T/dtheta: ``factor`` times
    diag(``jacobian``), None standing for ones."""

    theta: dict[str, Tensor]
    factor: float
    jacobian: Mapping[str, Tensor] | None = None

    def pulled_back(self, vector: Tensors) -> Tensors:
        """diag(jacobian) times a vector, by name; ``factor`` is left to the caller."""
        if self.jacobian is None:
            return vector
        return {n: self.jacobian[n] * v for n, v in vector.items()}


def stepped(inner_lr: InnerStep, params: Tensors, theta: Tensors, grads: Tensors) -> Stepped:
    """The inner step from ``theta`` with gradients ``grads``; params as for ``Steps``."""
    if not isinstance(inner_lr, Optimizer):
        eta = current(inner_lr)
        return Stepped(added(theta, grads, -eta), -eta)
    steps, grads = Steps(inner_lr, params), leaves(grads)
    after = steps.after({**theta, **steps.state}, grads)
    moved = {n: after[n] for n in theta}
    ones = [torch.ones_like(t) for t in moved.values()]
    return Stepped(detached(moved), 1.0, gradients(list(moved.values()), grads, ones))
