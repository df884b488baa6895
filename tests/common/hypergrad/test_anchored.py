"""One candidate at theta, against EvoGrad given the same noise, and its mean."""

import itertools

import pytest
import torch

from common.hypergrad import Anchor, AnchoredEvoGrad, EvoGrad
from tests.common.hypergrad.problems import Network, Quadratic


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
def test_is_evograd_with_the_first_perturbation_zero(where):
    problem = Network(where, dropout=0.0)
    torch.manual_seed(1)
    noise = {n: 1e-2 * torch.randn_like(p) for n, p in problem.params.items()}
    pairs = {n: torch.stack([torch.zeros_like(e), e]) for n, e in noise.items()}
    expected = EvoGrad(2)(*problem.arguments(), noise=pairs)
    found = AnchoredEvoGrad()(*problem.arguments(), noise=noise)
    torch.testing.assert_close(found.outer_loss, expected.outer_loss)
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)


def test_mean_over_all_signs_is_the_one_step_hypergradient():
    problem = Quadratic(size=4, hypers=3)
    errors = []
    for sigma in (1e-3, 1e-4):
        estimator, samples = AnchoredEvoGrad(sigma), []
        for signs in itertools.product([-sigma, sigma], repeat=4):
            eps = torch.tensor(signs, dtype=torch.float64)
            noise = {"left": eps[:2], "right": eps[2:].reshape(2, 1)}
            result = estimator(problem, problem.params, problem.hyper, None, None, noise=noise)
            samples.append(result.grads["la"] - problem.direct())
        eta = estimator.effective_inner_lr
        assert eta == pytest.approx(sigma**2 / 0.2)
        expected = problem.one_step_hypergradient(eta, at_theta=True) - problem.direct()
        mean = torch.stack(samples).mean(0)
        errors.append(((mean - expected).norm() / expected.norm()).item())
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 50  # second order in sigma


@pytest.mark.parametrize("where", ["inside", "loss"])
def test_the_base_steps_loss_may_be_given(where):
    problem = Network(where, dropout=0.0)
    hyper = {n: h.detach().requires_grad_() for n, h in problem.hyper.items()}
    loss = problem.inner_loss(problem.params, hyper, problem.inner_batch)
    grads = torch.autograd.grad(loss, list(hyper.values()))
    anchor = Anchor(loss.detach(), dict(zip(hyper, grads, strict=True)))
    seed = lambda: torch.Generator().manual_seed(2)  # noqa: E731
    calls = []
    inner_loss = problem.inner_loss
    expected = AnchoredEvoGrad()(*problem.arguments(), generator=seed())
    problem.inner_loss = lambda *args: calls.append(1) or inner_loss(*args)
    found = AnchoredEvoGrad()(*problem.arguments(), generator=seed(), anchor=anchor)
    assert len(calls) == 1
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("perturbation", ["sign", "gaussian"])
def test_drawn_noise_has_the_stated_distribution(perturbation):
    seen = []

    class Spy:
        def inner_loss(self, params, hyper, batch):
            seen.append(params["w"].detach().clone())
            return (hyper["a"] * params["w"]).mean()

        def outer_loss(self, params, hyper, batch):
            return params["w"].mean()

    theta = {"w": torch.full((50_000,), 0.25, dtype=torch.float64)}
    hyper = {"a": torch.tensor(1.0, dtype=torch.float64)}
    AnchoredEvoGrad(0.1, perturbation=perturbation)(Spy(), theta, hyper, None, None)
    first, second = (candidate - 0.25 for candidate in seen)
    assert torch.equal(first, torch.zeros_like(first))
    assert abs(second.mean()) < 4 * 0.1 / 50_000**0.5 and abs(second.std() - 0.1) < 0.002
    if perturbation == "sign":
        torch.testing.assert_close(second.abs(), torch.full_like(second, 0.1))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"temperature": -1.0}, "temperature"),
        ({"perturbation": "uniform"}, "perturbation"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        AnchoredEvoGrad(**settings)
