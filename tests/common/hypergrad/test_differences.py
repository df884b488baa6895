"""EvoGrad from forward passes alone, against the slopes by backward and against closed forms."""

import pytest
import torch

from common.hypergrad import (
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    EvoGrad,
    EvoGradDifferences,
)
from tests.common.hypergrad.problems import Network, Quadratic, relative, seeded


def kinds(anchored: bool):
    """EvoGrad by backward, and by forwards."""
    if anchored:
        return AnchoredEvoGrad, AnchoredEvoGradDifferences
    return EvoGrad, EvoGradDifferences


def noise_for(problem, count: int, sigma: float, anchored: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    noise = {n: sigma * torch.randn(count, *p.shape).to(p) for n, p in problem.params.items()}
    if anchored:
        for eps in noise.values():
            eps[0] = 0
    return noise


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_tends_to_evograds_number_as_sigma_shrinks(where, anchored, count):
    """The same perturbations: the indirect terms differ by a part that falls with sigma."""
    problem, errors = Network(where, dropout=0.0), []
    for sigma in (1e-3, 1e-5):
        noise = noise_for(problem, count, sigma, anchored)
        by_backward, by_forwards = (
            kind(count)(*problem.arguments(), noise=noise) for kind in kinds(anchored)
        )
        torch.testing.assert_close(
            by_forwards.diagnostics["weights"], by_backward.diagnostics["weights"]
        )
        torch.testing.assert_close(
            by_forwards.outer_loss, by_backward.outer_loss, rtol=10 * sigma, atol=0
        )
        slopes = [r.diagnostics["coefficients"] for r in (by_forwards, by_backward)]
        errors.append(((slopes[0] - slopes[1]).norm() / slopes[1].norm()).item())
        assert relative(by_forwards.grads, by_backward.grads) <= max(2 * errors[-1], 1e-6)
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 30


@pytest.mark.parametrize("anchored", [False, True])
def test_where_the_outer_loss_is_linear_it_is_evograd_exactly(anchored):
    problem = Quadratic()
    slope = torch.linspace(-1, 2, 6, dtype=torch.float64)

    class Linear:
        inner_loss = problem.inner_loss

        def outer_loss(self, params, hyper, batch=None):
            return slope @ problem.vector(params) + hyper["la"].square().sum()

    noise = noise_for(problem, 3, 0.1, anchored)
    arguments = (Linear(), problem.params, problem.hyper, None, None)
    expected, found = (kind(3)(*arguments, noise=noise) for kind in kinds(anchored))
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.outer_loss, expected.outer_loss)


@pytest.mark.parametrize("anchored", [False, True])
def test_problems_with_shared_work_give_the_same_number(anchored):
    problem = Network("loss", dropout=0.0)
    estimator = kinds(anchored)[1](3)
    alone = estimator(*problem.arguments(), generator=seeded(4))

    class AtOnce:
        inner_loss, outer_loss = problem.inner_loss, problem.outer_loss

        def inner_losses(self, candidates, hyper, batch):
            one_by_one = [{n: t[k] for n, t in candidates.items()} for k in range(3)]
            return torch.stack([problem.inner_loss(c, hyper, batch) for c in one_by_one])

    _, *rest = problem.arguments()
    together = estimator(AtOnce(), *rest, generator=seeded(4))
    torch.testing.assert_close(together.grads, alone.grads, rtol=1e-9, atol=1e-12)
