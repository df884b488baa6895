"""T1-T2 and its relatives against closed forms, differences, and one another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.hypergrad import T1T2, FiniteDifference, HigherT1T2, T1T2Forward
from tests.common.hypergrad.problems import Network, Quadratic

EXACT = [T1T2, HigherT1T2, T1T2Forward, FiniteDifference]


@pytest.mark.parametrize("method", EXACT)
@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from([4, 6, 10]),
    hypers=st.integers(1, 5),
    eta=st.floats(1e-3, 1.0),
    direct=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_closed_form_on_quadratics(method, size, hypers, eta, direct, seed):
    problem = Quadratic(size, hypers, seed, direct)
    result = method(eta)(problem, problem.params, problem.hyper, None, None)
    expected = problem.one_step_hypergradient(eta)
    scale = problem.one_step_hypergradient(eta).norm() + 1
    assert (result.grads["la"] - expected).norm() < 1e-8 * scale


@pytest.mark.parametrize("method", [T1T2, HigherT1T2, T1T2Forward])
@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
def test_equals_a_central_difference_of_the_validation_loss(method, where):
    """dL_V(theta - eta grad L_T(theta, lambda), lambda)/dlambda entry by entry, by differences."""
    if method is T1T2Forward and where == "inside":
        pytest.skip("refused there, see below")
    eta = 0.3
    problem = Network(where, dropout=0.0)
    grads = method(eta)(*problem.arguments()).grads

    def validation_loss(hyper):
        theta = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
        loss = problem.inner_loss(theta, hyper, problem.inner_batch)
        steps = torch.autograd.grad(loss, list(theta.values()))
        moved = {n: t - eta * s for (n, t), s in zip(theta.items(), steps, strict=True)}
        return problem.outer_loss(moved, hyper, problem.outer_batch).item()

    radius = 1e-5
    for name, value in problem.hyper.items():
        for index in range(value.numel()):
            sides = []
            for sign in (1, -1):
                shifted = value.clone()
                shifted.view(-1)[index] += sign * radius
                sides.append(validation_loss(problem.hyper | {name: shifted}))
            expected = (sides[0] - sides[1]) / (2 * radius)
            assert grads[name].view(-1)[index].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("method", [HigherT1T2, T1T2Forward])
def test_agree_with_batch_norm_and_dropout(where, method):
    if method is T1T2Forward and where == "inside":
        pytest.skip("refused there, see below")
    problem = Network(where, smooth=False)
    seed = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    reference = T1T2(0.1)(*problem.arguments(), generator=seed())
    result = method(0.1)(*problem.arguments(), generator=seed())
    torch.testing.assert_close(result.outer_loss, reference.outer_loss)
    for name, grad in reference.grads.items():
        assert grad.norm() > 0
        assert (result.grads[name] - grad).norm() < 1e-10 * grad.norm()


def test_finite_difference_converges_quadratically_on_a_smooth_network():
    problem = Network("inside")
    seed = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    exact = T1T2(0.1)(*problem.arguments(), generator=seed()).grads["scale"]
    errors = []
    for radius in (1e-1, 1e-2, 1e-3):
        estimate = FiniteDifference(0.1, radius)(*problem.arguments(), generator=seed())
        errors.append(((estimate.grads["scale"] - exact).norm() / exact.norm()).item())
    assert errors[1] < errors[0] / 50
    assert errors[2] < errors[1] / 50


def test_forward_refuses_hyperparameters_in_front_of_a_normalisation():
    for problem in (Network("inside"), LayerNormed()):
        with pytest.raises(ValueError, match="derivative is wrong; use T1T2"):
            T1T2Forward(0.1)(*problem.arguments())


def test_forward_refuses_hyperparameters_in_front_of_log_softmax():
    """torch's tangent of it is written in place, so the backward pass over it raises."""
    problem = LayerNormed(normalise=False)
    with pytest.raises(ValueError, match="cannot differentiate; use T1T2"):
        T1T2Forward(0.1)(*problem.arguments())


def test_forward_is_right_inside_a_network_without_normalisation():
    """Squared error: reverse over forward of log_softmax raises in torch (it writes in place)."""

    class SquaredError(LayerNormed):
        def inner_loss(self, params, hyper, batch):
            images, labels = batch
            logits = self.logits(params, images * hyper["scale"].view(1, 3, 1, 1))
            return (logits - F.one_hot(labels, 5)).square().mean()

    problem = SquaredError(normalise=False)
    exact = T1T2(0.1)(*problem.arguments()).grads["scale"]
    torch.testing.assert_close(
        T1T2Forward(0.1)(*problem.arguments()).grads["scale"], exact, rtol=1e-10, atol=1e-14
    )


class LayerNormed(Network):
    def __init__(self, normalise: bool = True) -> None:
        super().__init__("inside")
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 16),
            nn.LayerNorm(16) if normalise else nn.Identity(),
            nn.Tanh(),
            nn.Linear(16, 5),
        ).double()
        self.params = dict(self.net.named_parameters())
