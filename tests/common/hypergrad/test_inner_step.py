"""One step of the training's own optimiser: against torch's step, and against autograd through a
step written out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from common.hypergrad import (
    T1T2,
    EvoGradAlongGradient,
    FiniteDifference,
    ForwardMode,
    LayerSampled,
    LearnedLR,
    T1T2Forward,
    T1T2MixedMode,
    Unrolled,
)
from common.hypergrad.inner_step import stepped
from tests.common.hypergrad.problems import central_differences

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, 0.1),
    "decayed": lambda p: SGD(p, 0.1, weight_decay=0.3),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.2),
    "nesterov": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "maximize": lambda p: SGD(p, 0.1, momentum=0.9, maximize=True),
    # Adam's first step is all but the sign of the gradient: a large eps gives it a derivative.
    "adam": lambda p: Adam(p, 0.1, weight_decay=0.2, eps=0.1),
    "adamw": lambda p: AdamW(p, 0.1, weight_decay=0.2, betas=(0.8, 0.95), eps=0.1),
    "rmsprop": lambda p: RMSprop(p, 0.1, 0.8, eps=0.1, weight_decay=0.1),
    "centred": lambda p: RMSprop(p, 0.1, 0.8, eps=0.1, momentum=0.5, centered=True),
    "groups": lambda p: SGD([{"params": [p[0]], "lr": 0.5}, {"params": p[1:]}], 0.1, momentum=0.5),
}


def every_estimator(optimizer):
    return (
        T1T2(optimizer),
        T1T2Forward(optimizer),
        T1T2MixedMode(optimizer),
        LayerSampled(optimizer, 2),
        FiniteDifference(optimizer, radius=1e-3),
        EvoGradAlongGradient(1e-3, inner_lr=optimizer),
    )


class Weighted:
    """A smooth network; lambda weights the samples of the inner loss, after the network."""

    def __init__(self, net):
        self.net = net

    def losses(self, params, batch):
        x, y = batch
        return (torch.func.functional_call(self.net, dict(params), (x,))[:, 0] - y).square()

    def inner_loss(self, params, hyper, batch):
        return (hyper["weights"].sigmoid() * self.losses(params, batch)).mean()

    def outer_loss(self, params, hyper, batch):
        return self.losses(params, batch).mean()


class OuterSlope(Weighted):
    """L_V linear in theta, so that its gradient is the same at theta and at theta'."""

    def outer_loss(self, params, hyper, batch):
        slopes = (torch.linspace(-1, 2, p.numel()).to(p).view_as(p) for p in params.values())
        return sum((slope * p).sum() for slope, p in zip(slopes, params.values(), strict=True))


@pytest.fixture
def training():
    """Network, problem, weights and two batches; makes an optimiser that has taken ``steps``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    batches = [(torch.randn(6, 3).double(), torch.randn(6).double()) for _ in range(2)]
    problem, hyper = Weighted(net), {"weights": torch.randn(6).double()}

    def make(name, steps):
        optimizer = OPTIMIZERS[name](list(net.parameters()))
        for _ in range(steps):
            optimizer.zero_grad()
            problem.losses(dict(net.named_parameters()), batches[0]).mean().backward()
            optimizer.step()
        return optimizer

    return net, problem, hyper, batches, make


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_step_is_the_optimisers_own_and_leaves_it_alone(training, name, steps):
    net, _, _, _, make = training
    optimizer = make(name, steps)
    params = dict(net.named_parameters())
    grads = {n: torch.randn_like(p) for n, p in params.items()}
    before = copy.deepcopy(optimizer.state_dict())
    found = stepped(optimizer, params, {n: p.detach() for n, p in params.items()}, grads).theta
    assert str(optimizer.state_dict()) == str(before)
    for n, p in params.items():
        p.grad = grads[n]
    optimizer.step()
    for n, p in params.items():
        torch.testing.assert_close(found[n], p.detach())


@pytest.mark.parametrize("kind", [Weighted, OuterSlope])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_every_one_step_estimator_differentiates_the_optimisers_step(training, kind, name, steps):
    """L_V after the optimiser's real step on the weighted loss, as a function of lambda, by central
    differences. EvoGradAlongGradient, whose g is that at theta, only where L_V is linear."""
    net, _, hyper, (inner, outer), make = training
    optimizer = make(name, steps)
    params = dict(net.named_parameters())

    def validation_loss(hyper):
        clone, state = copy.deepcopy(net), copy.deepcopy(optimizer.state_dict())
        other = OPTIMIZERS[name](list(clone.parameters()))
        other.load_state_dict(state)
        kind(clone).inner_loss(dict(clone.named_parameters()), hyper, inner).backward()
        other.step()
        return kind(clone).outer_loss(dict(clone.named_parameters()), {}, outer).item()

    expected = central_differences(validation_loss, hyper)["weights"]
    assert expected.abs().max() > 1e-4
    for estimator in every_estimator(optimizer)[: None if kind is OuterSlope else -1]:
        found = estimator(kind(net), params, hyper, inner, outer).grads["weights"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def sgd_by_hand(group, state, x, grad, lr):
    grad = (-grad if group["maximize"] else grad) + group["weight_decay"] * x
    if mu := group["momentum"]:
        buffer = state.get("momentum_buffer")
        new = grad if buffer is None else mu * buffer + (1 - group["dampening"]) * grad
        state["momentum_buffer"] = new
        grad = grad + mu * new if group["nesterov"] else new
    return x - lr * grad


def adam_by_hand(group, state, x, grad, lr):
    (b1, b2), decay = group["betas"], group["weight_decay"]
    grad, start = (grad, x - lr * decay * x) if group["decoupled_weight_decay"] else (
        grad + decay * x, x)  # fmt: skip
    t = state["step"] = float(state.get("step", 0)) + 1  # from a float32
    m = state["exp_avg"] = b1 * state.get("exp_avg", 0) + (1 - b1) * grad
    s = state["exp_avg_sq"] = b2 * state.get("exp_avg_sq", 0) + (1 - b2) * grad**2
    return start - lr * m / (1 - b1**t) / ((s / (1 - b2**t)).sqrt() + group["eps"])


def rmsprop_by_hand(group, state, x, grad, lr):
    alpha, grad = group["alpha"], grad + group["weight_decay"] * x
    s = state["square_avg"] = alpha * state.get("square_avg", 0) + (1 - alpha) * grad**2
    if group["centered"]:
        g = state["grad_avg"] = alpha * state.get("grad_avg", 0) + (1 - alpha) * grad
        s = s - g**2
    step = grad / (s.sqrt() + group["eps"])
    step = state["buffer"] = group["momentum"] * state.get("momentum_buffer", 0) + step
    state["momentum_buffer"] = step
    return x - lr * step


BY_HAND = {SGD: sgd_by_hand, Adam: adam_by_hand, AdamW: adam_by_hand, RMSprop: rmsprop_by_hand}


def steps_by_hand(optimizer, params, theta, loss_at, steps, rates=None):
    """theta after the optimiser's next steps, written out with autograd."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    states = {n: dict(optimizer.state.get(p, {})) for n, p in params.items()}
    for step in range(steps):
        grads = torch.autograd.grad(loss_at(theta, step), list(theta.values()), create_graph=True)
        moved = {}
        for (n, x), grad in zip(theta.items(), grads, strict=True):
            group = groups[id(params[n])]
            lr = group["lr"] if rates is None else rates[step]
            moved[n] = BY_HAND[type(optimizer)](group, states[n], x, grad, lr)
        theta = moved
    return theta


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("learned", ["nothing", "rates", "start"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 2])
def test_several_steps_of_the_optimiser_by_autograd_through_them(
    training, name, before, learned, recompute
):
    """From its present buffers, and with its rates, or theta_0, as functions of lambda."""
    net, problem, hyper, batches, make = training
    optimizer, params, steps = make(name, before), dict(net.named_parameters()), 3
    copied, inner = copy.deepcopy(optimizer.state_dict()), [batches[i % 2] for i in range(steps)]
    hyper["log"] = torch.tensor([-3.0, -2.0, -2.5]).double()
    hyper["0.bias"] = torch.randn(4).double()
    rates = (lambda h: h["log"].exp().unbind()) if learned == "rates" else None
    start = (lambda h: {"0.bias": 2 * h["0.bias"]}) if learned == "start" else None
    inner_lr = LearnedLR(rates, optimizer) if rates else optimizer
    estimator = Unrolled(inner_lr, steps, recompute=recompute, start=start)
    found = estimator(problem, params, hyper, inner, batches[1])
    assert str(optimizer.state_dict()) == str(copied)

    leaves = {n: h.clone().requires_grad_() for n, h in hyper.items()}
    theta = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    theta |= start(leaves) if start else {}
    theta = steps_by_hand(
        optimizer, params, theta, lambda theta, t: problem.inner_loss(theta, leaves, inner[t]),
        steps, rates and rates(leaves),
    )  # fmt: skip
    outer = problem.outer_loss(theta, leaves, batches[1])
    expected = torch.autograd.grad(outer, list(leaves.values()), allow_unused=True)
    assert (expected[1] is None) == (rates is None) and (expected[2] is None) == (start is None)
    for (n, h), grad in zip(hyper.items(), expected, strict=True):
        grad = torch.zeros_like(h) if grad is None else grad
        torch.testing.assert_close(found.grads[n], grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.outer_loss, outer.detach())
    for n, t in theta.items():
        torch.testing.assert_close(found.params[n], t.detach())


def test_an_optimiser_that_cannot_be_followed_is_refused(training):
    net, problem, hyper, (inner, outer), _ = training
    for kind in (T1T2, lambda optimizer: Unrolled(optimizer, 2)):
        with pytest.raises(ValueError, match="Adagrad: use SGD, Adam, AdamW, RMSprop"):
            kind(Adagrad(net.parameters()))
    own = SGD(net.parameters(), 0.1)
    for estimator, said in (
        (lambda: Unrolled(own, 2, momentum=0.9), "momentum of its own"),
        (lambda: ForwardMode(LearnedLR(lambda hyper: hyper["lr"], own), 2), "Unrolled only"),
        (lambda: ForwardMode(own, 2), "must be a number"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            estimator()
    with pytest.raises(ValueError, match="amsgrad"):
        T1T2(Adam(net.parameters(), amsgrad=True))
    others = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    with pytest.raises(ValueError, match="holds none of the parameters"):
        T1T2(others)(problem, dict(net.named_parameters()), hyper, inner, outer)


def test_a_parameter_that_the_optimiser_does_not_hold_stays(training):
    net, problem, hyper, (inner, outer), _ = training
    params = dict(net.named_parameters())
    last = [p for n, p in params.items() if n.startswith("2")]
    found = T1T2(SGD(last, 0.1))(problem, params, hyper, inner, outer).grads["weights"]
    frozen = {n: p for n, p in params.items() if n.startswith("2")}
    expected = T1T2(0.1)(problem, frozen, hyper, inner, outer).grads["weights"]
    torch.testing.assert_close(found, expected)
