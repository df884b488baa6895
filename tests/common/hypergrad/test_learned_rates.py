"""Inner learning rates as hyperparameters, against autograd through steps written out by hand."""

import pytest
import torch

from common.hypergrad import ForwardMode, LayerSampled, LearnedLR, Reversible, Unrolled
from tests.common.hypergrad.problems import Quadratic

RATES = {
    "one": lambda hyper: hyper["log_lr"][0].exp(),
    "entries": lambda hyper: {
        "left": (hyper["log_lr"] + hyper["la"][:2]).exp(),
        "right": hyper["log_lr"][1].exp() * torch.tensor([[1.0, 0.5], [0.2, 2.0]]).double(),
        "frozen": hyper["log_lr"][0],
    },
    "groups": lambda hyper: {"left": hyper["log_lr"][0].exp(), "right": hyper["log_lr"][1].exp()},
}


@pytest.mark.parametrize("kind", [Unrolled, ForwardMode])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_derivative_by_the_rates_is_that_of_the_steps_written_out(kind, momentum, name, steps):
    problem, rates = Quadratic(), RATES[name]
    log_lr = torch.tensor([-3.0, -2.0], dtype=torch.float64)
    hyper = {"la": problem.hyper["la"], "log_lr": log_lr}
    batches = problem.batches(steps)
    found = kind(LearnedLR(rates), steps, momentum)(problem, problem.params, hyper, batches, None)

    leaves = {n: h.clone().requires_grad_() for n, h in hyper.items()}
    eta = rates(leaves)
    eta = eta if isinstance(eta, dict) else dict.fromkeys(problem.params, eta)
    theta = {n: p.clone().requires_grad_() for n, p in problem.params.items()}
    move = {n: torch.zeros_like(p) for n, p in theta.items()}
    for batch in batches:
        loss = problem.inner_loss(theta, leaves, batch)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        move = {n: momentum * move[n] + g for n, g in zip(theta, grads, strict=True)}
        theta = {n: t - eta[n] * move[n] for n, t in theta.items()}
    outer = problem.outer_loss(theta, leaves)
    expected = dict(zip(hyper, torch.autograd.grad(outer, list(leaves.values())), strict=True))
    assert expected["log_lr"][0] != 0
    torch.testing.assert_close(found.grads, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.outer_loss, outer.detach())


@pytest.mark.parametrize("kind", [Unrolled, ForwardMode])
def test_step_sizes_may_be_the_only_hyperparameters(kind):
    """One step, losses without lambda: -exp(log) dL_V(theta').dL_T(theta)."""
    problem, log = Quadratic(direct=False), torch.tensor(-2.0, dtype=torch.float64)
    la = problem.hyper["la"]

    class Fixed:
        def inner_loss(self, params, hyper, batch):
            return problem.inner_loss(params, {"la": la})

        def outer_loss(self, params, hyper, batch):
            return problem.outer_loss(params, {"la": la})

    estimator = kind(LearnedLR(lambda hyper: hyper["log"].exp()), 1)
    grads = estimator(Fixed(), problem.params, {"log": log}, [None], None).grads
    theta = problem.vector(problem.params)
    slope = problem.inner_grad(theta)
    after = theta - log.exp() * slope
    torch.testing.assert_close(grads["log"], -log.exp() * (after - problem.t) @ slope)


@pytest.mark.parametrize("kind", [Unrolled, ForwardMode, lambda *a: Unrolled(*a, recompute=True)])
def test_a_schedule_with_rates_by_step_and_by_entry(kind):
    """Two steps written out: the first with a rate for each entry, the second with one for all."""
    problem, log = Quadratic(), torch.linspace(-4, -2, 7, dtype=torch.float64)
    hyper = {"la": problem.hyper["la"], "log": log}

    def rates(hyper):
        left, right, last = hyper["log"].exp().split([2, 4, 1])
        return [{"left": left, "right": right.view(2, 2)}, last[0]]

    found = kind(LearnedLR(rates), 2)(problem, problem.params, hyper, [None] * 2, None).grads

    leaves = {n: h.clone().requires_grad_() for n, h in hyper.items()}
    theta = problem.vector(problem.params).requires_grad_()
    for eta in (leaves["log"][:6].exp(), leaves["log"][6].exp()):
        split = {"left": theta[:2], "right": theta[2:].view(2, 2)}
        loss = problem.inner_loss(split, leaves)
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - eta * slope
    outer = problem.outer_loss({"left": theta[:2], "right": theta[2:].view(2, 2)}, leaves)
    expected = dict(zip(hyper, torch.autograd.grad(outer, list(leaves.values())), strict=True))
    assert expected["log"].abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="rates of 2 steps, not of 3"):
        kind(LearnedLR(rates), 3)(problem, problem.params, hyper, [None] * 3, None)


def test_other_estimators_refuse_learned_rates():
    rate = LearnedLR(lambda hyper: hyper["lr"])
    for make in (lambda: LayerSampled(rate, 1), lambda: Reversible(rate, 0.9, 2)):
        with pytest.raises(ValueError, match="Unrolled and ForwardMode only"):
            make()


def test_missing_and_misshapen_rates_are_named():
    problem = Quadratic()
    hyper = {"la": problem.hyper["la"]}
    for rates, said in (
        (lambda hyper: {"left": hyper["la"][0]}, "no rate for the parameters right"),
        (lambda hyper: {"left": hyper["la"], "right": hyper["la"][0]}, r"left a rate of shape"),
    ):
        with pytest.raises(ValueError, match=said):
            Unrolled(LearnedLR(rates), 1)(problem, problem.params, hyper, [None], None)
