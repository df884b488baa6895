"""Candidates along g, against EvoGrad given the same noise, differences, and closed forms."""

import pytest
import torch

from common.hypergrad import T1T2, EvoGrad, EvoGradAlongGradient
from tests.common.hypergrad.problems import Network, Quadratic


def test_tends_to_the_one_step_hypergradient_in_closed_form():
    problem = Quadratic()
    direct, errors = problem.direct(), []
    for radius in (1e-3, 1e-4):
        estimator = EvoGradAlongGradient(radius, temperature=0.05)
        assert estimator.effective_inner_lr == pytest.approx(radius**2 / 0.05)
        found = estimator(problem, problem.params, problem.hyper, None, None).grads["la"] - direct
        exact = problem.one_step_hypergradient(estimator.effective_inner_lr, at_theta=True) - direct
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 50  # second order in the radius, as the softmax


def test_equals_the_difference_quotient_times_the_softmax_factor():
    """On a quadratic the central difference is exact at any radius; only 4 w1 w2 is left."""
    problem = Quadratic(seed=3, direct=False)
    radius, temperature = 0.3, 0.5
    result = EvoGradAlongGradient(radius, temperature)(
        problem, problem.params, problem.hyper, None, None
    )
    theta = problem.vector(problem.params)
    g = theta - problem.t
    sides = []
    for sign in (1, -1):
        point = theta + sign * radius * g / g.norm()
        loss = problem.inner_loss({"left": point[:2], "right": point[2:]}, problem.hyper)
        sides.append(loss.item())
    w = torch.softmax(-torch.tensor(sides, dtype=torch.float64) / temperature, 0)
    eta = (4 * w[0] * w[1] * radius**2 / temperature).item()
    assert 0.01 < 4 * w[0] * w[1] < 0.99
    expected = problem.one_step_hypergradient(eta, at_theta=True)
    torch.testing.assert_close(result.grads["la"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
def test_is_evograd_with_that_noise_up_to_where_g_is_taken(where):
    """EvoGrad given eps = +-r g / |g| takes g at theta*, which is theta up to O(r^2)."""
    problem = Network(where, dropout=0.0)
    theta = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
    loss = problem.outer_loss(theta, problem.hyper, problem.outer_batch)
    g = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    length = torch.cat([v.reshape(-1) for v in g.values()]).norm()
    radius = 1e-4
    noise = {n: radius / length * torch.stack([v, -v]) for n, v in g.items()}
    expected = EvoGrad(2)(*problem.arguments(), noise=noise).grads
    found = EvoGradAlongGradient(radius)(*problem.arguments()).grads
    for name, grad in expected.items():
        assert (found[name] - grad).norm() < 1e-3 * grad.norm()


def test_is_the_second_order_hypergradient_on_a_smooth_network():
    problem = Network("inside")
    seed = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    estimator = EvoGradAlongGradient(1e-3)
    exact = T1T2(estimator.effective_inner_lr)(*problem.arguments(), generator=seed())
    found = estimator(*problem.arguments(), generator=seed())
    error = (found.grads["scale"] - exact.grads["scale"]).norm() / exact.grads["scale"].norm()
    assert error < 1e-3


@pytest.mark.parametrize(
    ("settings", "named"), [({"radius": 0.0}, "radius"), ({"temperature": -1.0}, "temperature")]
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        EvoGradAlongGradient(**settings)
