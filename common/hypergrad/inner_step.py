"""The inner step of one-step estimators: plain SGD, or a step of the training optimiser itself.

Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing. Making Scalable Meta Learning Practical (SAMA).
NeurIPS 2023, arXiv:2310.05674: behind a step of Adam stands Adam's Jacobian, not the identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Union

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from .problem import Tensors, added

InnerLR = Union[float, Callable[[], float], "LearnedLR"]
"""The inner step size eta; a callable is asked at every call, so it can follow a schedule."""

InnerStep = float | Callable[[], float] | Optimizer
"""The step size of SGD, or the training's optimiser (SGD, Adam or AdamW), whose present learning
rates, momentum and moments are read at every call."""


@dataclass(frozen=True)
class LearnedLR:
    """Inner step sizes that are hyperparameters, for Unrolled and ForwardMode.

    rates: a function of lambda that gives one step size, a scalar tensor, or by name one for each
    parameter (the same tensor for those of a group), a scalar or of the parameter's shape (a rate
    per entry, Meta-SGD): ``LearnedLR(lambda hyper: hyper["log"].exp())``. Names of frozen
    parameters are left out.
    """

    rates: Callable[[Tensors], Tensor | Tensors]

    def by_name(self, hyper: Tensors, theta: Tensors) -> dict[str, Tensor]:
        """The step size of every parameter, with a graph to ``hyper``. ValueError for a missing
        one, or one of another shape."""
        rates = self.rates(hyper)
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
    elif optimizers and isinstance(inner_lr, Optimizer):
        if type(inner_lr) not in (SGD, Adam, AdamW):
            known = "SGD, Adam, AdamW or a number"
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
    """The inner step from ``theta`` with gradients ``grads``; no optimiser is changed.

    params: theta as handed over by the caller, the very tensors that an optimiser holds; those that
    it does not hold stay where they are. Raises ValueError if it holds none of them.
    """
    if not isinstance(inner_lr, Optimizer):
        eta = current(inner_lr)
        return Stepped(added(theta, grads, -eta), -eta)
    groups = {id(p): group for group in inner_lr.param_groups for p in group["params"]}
    moved, jacobian = dict(theta), {n: torch.zeros_like(t) for n, t in theta.items()}
    held = [n for n, p in params.items() if id(p) in groups]
    if not held:
        raise ValueError(
            "inner_lr is an optimiser that holds none of the parameters handed over: hand over "
            "dict(model.named_parameters()) of the model that it trains"
        )
    rule = _sgd if isinstance(inner_lr, SGD) else _adam
    for n in held:
        group, state = groups[id(params[n])], inner_lr.state.get(params[n], {})
        sign = -1.0 if group.get("maximize") else 1.0
        decoupled = isinstance(inner_lr, AdamW) or group.get("decoupled_weight_decay", False)
        decay, start, grad = group["weight_decay"], theta[n], sign * grads[n]
        if decoupled:
            start = start * (1 - group["lr"] * decay)
        elif decay:
            grad = grad + decay * theta[n]
        update, slope = rule(group, state, grad)
        moved[n] = start - group["lr"] * update
        jacobian[n] = -group["lr"] * sign * slope
    return Stepped(moved, 1.0, jacobian)


Update = tuple[Tensor, Tensor]
"""What the learning rate multiplies, and its derivative by the gradient, entry by entry."""


def _sgd(group: Mapping[str, Any], state: Mapping[str, Any], grad: Tensor) -> Update:
    momentum, buffer = group["momentum"], state.get("momentum_buffer")
    update, slope = grad, 1.0
    if momentum:
        if buffer is not None:  # the first step takes the gradient itself for the buffer
            update = momentum * buffer + (1 - group["dampening"]) * grad
            slope = 1 - group["dampening"]
        if group["nesterov"]:
            update, slope = grad + momentum * update, 1 + momentum * slope
    return update, torch.full_like(grad, slope)


def _adam(group: Mapping[str, Any], state: Mapping[str, Any], grad: Tensor) -> Update:
    """m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps), m and s the moments with ``grad``."""
    (beta1, beta2), eps = group["betas"], group["eps"]
    zero = torch.zeros_like(grad)
    t = float(state.get("step", 0)) + 1
    m = beta1 * state.get("exp_avg", zero) + (1 - beta1) * grad
    s = beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * grad.square()
    root = (s / (1 - beta2**t)).sqrt()
    below = root + eps
    # d root / d grad = (1 - beta2) grad / ((1 - beta2^t) root), 0 where the root is.
    bend = (1 - beta2) * grad / ((1 - beta2**t) * root.clamp_min(torch.finfo(grad.dtype).tiny))
    slope = ((1 - beta1) - m * bend / below) / below
    return m / (1 - beta1**t) / below, slope / (1 - beta1**t)
