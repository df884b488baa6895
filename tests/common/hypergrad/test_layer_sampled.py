"""LayerSampled: what it leaves out, and that its mean is T1-T2."""

import itertools

import pytest
import torch

from common.hypergrad import T1T2, LayerSampled
from tests.common.hypergrad.problems import Network, Quadratic, relative, seeded

LAYERS = ["0", "1", "4", "5", "9"]  # of Network: two convolutions, two batch norms, a linear one


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("layers", [5, LAYERS, lambda layer: True])
def test_all_layers_are_t1t2_with_batch_norm_and_dropout(where, layers):
    problem = Network(where, smooth=False)
    reference = T1T2(0.1)(*problem.arguments(), seeded())
    result = LayerSampled(0.1, layers)(*problem.arguments(), seeded())
    torch.testing.assert_close(result.outer_loss, reference.outer_loss)
    assert result.diagnostics["sampled"].tolist() == [True] * 5
    for name, grad in reference.grads.items():
        assert relative(result.grads[name], grad) < 1e-12


@pytest.mark.parametrize("where", ["inside", "direct"])
@pytest.mark.parametrize("count", [1, 2])
def test_mean_over_all_subsets_is_t1t2(where, count):
    """Every subset that can be drawn, each once."""
    problem = Network(where, dropout=0.0)
    estimates = {}
    subsets = set(itertools.combinations(LAYERS, count))
    for seed in range(200):
        result = LayerSampled(0.1, count)(*problem.arguments(), seeded(seed))
        drawn = result.diagnostics["sampled"].tolist()
        subset = tuple(itertools.compress(LAYERS, drawn))
        estimates[subset] = next(iter(result.grads.values()))
        if len(estimates) == len(subsets):
            break
    assert set(estimates) == subsets
    mean = torch.stack(list(estimates.values())).mean(dim=0)
    (expected,) = problem.run(T1T2(0.1)).grads.values()
    assert (mean - expected).norm() < 1e-12 * expected.norm()
    assert all((e - expected).norm() > 1e-6 * expected.norm() for e in estimates.values())


class FourLayers:
    def __init__(self) -> None:
        self.params = {f"body.{i}.weight": torch.ones(()) for i in range(4)}
        self.hyper = {"la": torch.ones(())}

    def inner_loss(self, params, hyper, batch):
        return hyper["la"] * sum(params.values())

    def outer_loss(self, params, hyper, batch):
        return sum(params.values())


def test_layers_are_drawn_uniformly():
    problem, noise = FourLayers(), seeded()
    draws = torch.stack(
        [
            LayerSampled(0.1, 2)(problem, problem.params, problem.hyper, None, None, noise)
            .diagnostics["sampled"]
            .double()
            for _ in range(600)
        ]
    )
    assert (draws.sum(dim=1) == 2).all()
    together = draws.T @ draws / len(draws)  # each layer in 1/2 of the draws, each pair in 1/6
    expected = torch.full((4, 4), 1 / 6, dtype=torch.float64).fill_diagonal_(1 / 2)
    assert ((together - expected).abs() < 4 * 0.5 / 600**0.5).all()


@pytest.mark.parametrize("layers", [["left"], lambda layer: layer == "left", {"left"}])
def test_a_fixed_choice_is_the_closed_form_of_its_part(layers):
    """-eta v_S . mixed_S + direct term, v at theta' after the step of all parameters."""
    problem = Quadratic()
    result = problem.run(LayerSampled(0.1, layers))
    theta = problem.vector(problem.params)
    v = theta - 0.1 * problem.inner_grad(theta) - problem.t
    expected = -0.1 * v[:2] @ problem.mixed(theta)[:2] + problem.direct()
    torch.testing.assert_close(result.grads["la"], expected, rtol=1e-12, atol=1e-14)
    assert result.diagnostics["sampled"].tolist() == [True, False]


@pytest.mark.parametrize("layers", [3, ["left", "middle"], [], lambda layer: False])
def test_layers_that_make_no_sense_are_refused_by_name(layers):
    problem = Quadratic()
    with pytest.raises(ValueError, match="layers"):
        problem.run(LayerSampled(0.1, layers))
