"""Measures of fidelity and their predictions, against hand computation and simulation."""

import math

import pytest
import torch

from common.fidelity_study.metrics import effective_dimension, predicted
from common.hypergrad import EvoGrad
from common.hypergrad.compare import agreement
from tests.common.hypergrad.problems import Network, Quadratic


def test_agreement_by_hand():
    exact = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    estimates = torch.tensor([[3.0, -4.0, 1.0], [6.0, 8.0, 0.0]], dtype=torch.float64)
    found = agreement([(estimates, exact)], expected_ratio=2.0)
    cosines = [-7 / (5 * 26**0.5), 1.0]
    assert found["cosine"] == pytest.approx(sum(cosines) / 2)
    assert found["cosine_se"] == pytest.approx((cosines[1] - cosines[0]) / 2)
    assert found["sign_agreement"] == pytest.approx(0.75)  # the zero entry does not count
    assert found["norm_ratio"] == pytest.approx(((26 / 25 + 4) / 2) ** 0.5)
    assert found["gain"] == pytest.approx((-7 / 25 + 2) / 2 / 2)
    assert found["mean_cosine"] == pytest.approx((4.5 * 3 + 2 * 4) / (5 * math.hypot(4.5, 2, 0.5)))
    assert found["draws"] == 2


def one_dimensional_sizes(problem):
    """|M|_F^2, |g|^2 and |M g|^2 of the quadratic, from its closed forms."""
    theta = problem.vector(problem.params)
    mixed, g = problem.mixed(theta), theta - problem.t
    return mixed.square().sum(), g.square().sum(), (g @ mixed).square().sum()


def test_effective_dimension_of_a_quadratic():
    generator = torch.Generator().manual_seed(0)
    for hypers, tolerance in ((1, 1e-12), (3, 0.05)):
        problem = Quadratic(size=8, hypers=hypers)
        m, g, product = one_dimensional_sizes(problem)
        found = effective_dimension(
            problem, problem.params, problem.hyper, None, None, 4000, generator
        )
        assert found == pytest.approx((m * g / product).item(), rel=tolerance)


def test_effective_dimension_sees_hyperparameters_inside_a_network():
    """Against |M|_F and M g from the whole matrix, row by row."""
    problem = Network("inside", dropout=0.0)
    theta = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
    scale = problem.hyper["scale"].detach().requires_grad_()
    loss = problem.inner_loss(theta, {"scale": scale}, problem.inner_batch)
    (by_scale,) = torch.autograd.grad(loss, scale, create_graph=True)
    rows = [
        torch.cat(
            [
                r.reshape(-1)
                for r in torch.autograd.grad(
                    entry, list(theta.values()), retain_graph=True, materialize_grads=True
                )
            ]
        )
        for entry in by_scale
    ]
    outer = problem.outer_loss(theta, problem.hyper, problem.outer_batch)
    g = torch.cat([v.reshape(-1) for v in torch.autograd.grad(outer, list(theta.values()))])
    matrix = torch.stack(rows)
    expected = matrix.square().sum() * g.square().sum() / (matrix @ g).square().sum()
    found = effective_dimension(*problem.arguments(), 400, torch.Generator().manual_seed(0))
    assert found == pytest.approx(expected.item(), rel=0.1)


@pytest.mark.parametrize("count", [2, 5])
def test_predictions_meet_evograd_with_gaussian_candidates(count):
    """4,000 draws of EvoGrad on a quadratic: size of the noise, and for H = 1 the sign."""
    problem = Quadratic(size=8, hypers=1, direct=False)
    m, g, product = one_dimensional_sizes(problem)
    dimension = (m * g / product).item()
    estimator = EvoGrad(count, 1e-4, 0.05, "gaussian")
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            estimator(problem, problem.params, problem.hyper, None, None, generator).grads["la"]
            for _ in range(4000)
        ]
    )
    exact = problem.one_step_hypergradient(1.0, at_theta=True)
    found = agreement([(draws, exact)], estimator.effective_inner_lr)
    assert abs(found["gain"] - 1) < 4 * found["gain_se"]
    expected = predicted(dimension, count, estimator.effective_inner_lr)
    assert found["norm_ratio"] == pytest.approx(expected["norm_ratio"], rel=0.08)
    chance = expected["sign_agreement"]
    assert abs(found["sign_agreement"] - chance) < 4 * (chance * (1 - chance) / 4000) ** 0.5
    assert 0.5 < chance < 1


def test_predictions_in_closed_form():
    for dimension in (1.0, 2.0, 100.0):
        angle = math.acos(dimension**-0.5)
        assert predicted(dimension, 2, 1.0)["sign_agreement"] == pytest.approx(1 - angle / math.pi)
    assert predicted(99.0, 2, 1.0)["cosine"] == pytest.approx(101**-0.5)
    assert predicted(99.0, 101, 1.0)["cosine"] == pytest.approx(0.5**0.5)
