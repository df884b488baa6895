"""``check`` passes right problems for every estimator, and finds what shows in no graph."""

import pytest
import torch
from torch import nn

from common.estimators import ESTIMATORS
from common.hypergrad import T1T2, EvoGradAlongGradient, HyperOptimizer, check
from tests.common.hypergrad.problems import inner_batch_for, small


def problem(estimator, train=None, valid=None, layer=None, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), layer or nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    hyper = {"logits": torch.randn(8, dtype=dtype), "shift": torch.zeros((), dtype=dtype)}
    pair = torch.randn(8, 3, dtype=dtype), torch.randn(8, 1, dtype=dtype)

    def train_loss(model, hyper, batch):
        losses = (model(batch[0]) + hyper["shift"] - batch[1]).square().mean(1)
        return torch.softmax(hyper["logits"], 0) @ losses

    def valid_loss(model, hyper, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    optimizer = torch.optim.SGD(hyper.values(), lr=0.1)
    losses = train or train_loss, valid or valid_loss
    return HyperOptimizer(model, hyper, *losses, estimator, optimizer), pair, losses


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_right_problems_pass_and_nothing_moves(name, dtype):
    estimator = small(ESTIMATORS[name])
    hyper_optimizer, pair, _ = problem(estimator, dtype=dtype)
    before = {n: h.clone() for n, h in hyper_optimizer.hyper.items()}
    state = torch.get_rng_state()
    report = check(hyper_optimizer, inner_batch_for(estimator, pair), pair)
    assert report.passed, str(report)
    assert torch.equal(torch.get_rng_state(), state)
    for n, h in hyper_optimizer.hyper.items():
        assert torch.equal(h, before[n]) and h.grad is None


class Hidden(torch.autograd.Function):
    """Its derivative is kept on ctx, where a second derivative does not see it."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 3 * x.detach().square()
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


class HiddenCube(nn.Module):
    def forward(self, x):
        return Hidden.apply(x)


def test_a_second_derivative_that_is_missing_is_found():
    def train_loss(model, hyper, batch):
        return (model(batch[0] * hyper["shift"].exp()) - batch[1]).square().mean()

    hyper_optimizer, pair, _ = problem(T1T2(0.1), train_loss, layer=HiddenCube())
    report = check(hyper_optimizer, pair, pair)
    assert not report.passed and "second derivatives" in str(report)


def test_one_hyperparameter_of_two_that_is_closed_over_is_found():
    held = {}

    def train_loss(model, hyper, batch):
        losses = (model(batch[0]) + held["shift"] - batch[1]).square().mean(1)
        return torch.softmax(hyper["logits"], 0) @ losses

    hyper_optimizer, pair, _ = problem(EvoGradAlongGradient(), train_loss)
    held.update(hyper_optimizer.hyper)
    report = check(hyper_optimizer, pair, pair)
    assert not report.passed and "past its arguments" in str(report)


def test_what_an_estimator_refuses_is_the_report():
    def train_loss(model, hyper, batch):
        batch[0].sub_(1)
        return hyper["logits"].exp().mean() * model(batch[0]).square().mean()

    hyper_optimizer, pair, _ = problem(EvoGradAlongGradient(), train_loss)
    report = check(hyper_optimizer, pair, pair)
    assert not report.passed and "train_loss changes a batch in place" in str(report)
