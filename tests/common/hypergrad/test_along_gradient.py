"""Candidates along g, against EvoGrad given the same noise, differences, and closed forms."""

import pytest
import torch

from common.hypergrad import T1T2, EvoGrad, EvoGradAlongGradient
from tests.common.hypergrad.problems import Network, Quadratic, relative, seeded


def test_tends_to_the_one_step_hypergradient_in_closed_form():
    problem = Quadratic()
    direct, errors = problem.direct(), []
    for radius in (1e-3, 1e-4):
        estimator = EvoGradAlongGradient(radius, temperature=0.05)
        assert estimator.effective_inner_lr == pytest.approx(radius**2 / 0.05)
        found = problem.run(estimator).grads["la"] - direct
        exact = problem.one_step_hypergradient(estimator.effective_inner_lr, at_theta=True) - direct
        errors.append(relative(found, exact))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 50  # second order in the radius, as the softmax


def test_equals_the_difference_quotient_times_the_softmax_factor():
    """On a quadratic the central difference is exact at any radius; only 4 w1 w2 is left."""
    problem = Quadratic(seed=3, direct=False)
    radius, temperature = 0.3, 0.5
    result = problem.run(EvoGradAlongGradient(radius, temperature))
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
    difference = torch.tensor(sides[0] - sides[1], dtype=torch.float64)
    torch.testing.assert_close(
        4 * w[0] * w[1], 1 - torch.tanh(difference / (2 * temperature)).square()
    )
    expected = problem.one_step_hypergradient(eta, at_theta=True)
    torch.testing.assert_close(result.grads["la"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("radius", [None, 0.1, 10.0])
@pytest.mark.parametrize("inner_lr", [None, 0.3, lambda: 0.3])
@pytest.mark.parametrize("one_sided", [False, True])
def test_by_default_it_is_exact_on_a_quadratic_at_any_radius(radius, inner_lr, one_sided):
    """dL_T/dlambda is quadratic in theta, so one side alone is off by O(r), 2 r of two radii."""
    problem = Quadratic()
    estimators = [
        EvoGradAlongGradient(*given, one_sided=one_sided, inner_lr=inner_lr)
        for given in ([] if radius is None else [radius], [2 * (radius or 1e-2)])
    ]
    eta = 1.0 if inner_lr is None else 0.3
    assert estimators[0].effective_inner_lr == eta
    single, double = (problem.run(e).grads["la"] for e in estimators)
    found = 2 * single - double if one_sided else single  # extrapolated to r = 0
    expected = problem.one_step_hypergradient(eta, at_theta=True)
    assert relative(found, expected) < 1e-9
    assert (relative(single, expected) > 1e-4) == one_sided


@pytest.mark.parametrize(
    ("radius", "temperature", "error"), [(0.01, 0.05, 0.94), (0.01, 1.0, 0.011), (0.1, 0.05, 1.0)]
)
def test_a_low_temperature_shrinks_it_where_the_losses_differ_by_more(radius, temperature, error):
    """The numbers of docs/estimators.md."""
    problem, estimator = Quadratic(direct=False), EvoGradAlongGradient(radius, temperature)
    expected = problem.one_step_hypergradient(estimator.effective_inner_lr, at_theta=True)
    found = relative(problem.run(estimator).grads["la"], expected)
    assert found == pytest.approx(error, rel=0.02)


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
    found = problem.run(EvoGradAlongGradient(radius, temperature=0.05)).grads
    for name, grad in expected.items():
        assert relative(found[name], grad) < 1e-3


@pytest.mark.parametrize(("one_sided", "falls"), [(False, 50), (True, 5)])
def test_by_default_the_error_on_a_network_is_that_of_a_difference(one_sided, falls):
    """O(r^2), one-sided O(r). T1T2's number per unit of a step so small that g is that at theta."""
    problem, errors = Network("inside"), []
    arguments = (*problem.arguments(), seeded())
    exact = T1T2(1e-9)(*arguments).grads["scale"] / 1e-9
    for radius in (1e-1, 1e-2, 1e-3):
        arguments[-1].manual_seed(5)
        found = EvoGradAlongGradient(radius, one_sided=one_sided)(*arguments).grads["scale"]
        errors.append(relative(found, exact))
    assert errors[1] < errors[0] / falls and errors[2] < errors[1] / falls
