"""One candidate at theta, against EvoGrad given the same noise, and its mean."""

import itertools

import pytest
import torch

from common.hypergrad import Anchor, AnchoredEvoGrad, EvoGrad, EvoGradAlongGradient
from tests.common.hypergrad.problems import Network, Quadratic


def test_mean_over_all_signs_is_the_one_step_hypergradient():
    problem = Quadratic(size=4, hypers=3)
    errors = []
    for sigma in (1e-3, 1e-4):
        estimator, samples = AnchoredEvoGrad(sigma=sigma), []
        for signs in itertools.product([-sigma, sigma], repeat=4):
            eps = torch.tensor(signs, dtype=torch.float64)
            eps = torch.stack([torch.zeros_like(eps), eps])
            noise = {"left": eps[:, :2], "right": eps[:, 2:].reshape(2, 2, 1)}
            result = estimator(problem, problem.params, problem.hyper, None, None, noise=noise)
            samples.append(result.grads["la"] - problem.direct())
        eta = estimator.effective_inner_lr
        assert eta == pytest.approx(sigma**2 / 0.2)
        expected = problem.one_step_hypergradient(eta, at_theta=True) - problem.direct()
        mean = torch.stack(samples).mean(0)
        errors.append(((mean - expected).norm() / expected.norm()).item())
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 50  # second order in sigma


SHARING = {
    "streaming": lambda: EvoGrad(3, anchored=True),
    "forward": lambda: EvoGrad(2, anchored=True, mode="forward"),
    "differences": lambda: EvoGrad(2, anchored=True, mode="differences"),
    "one-sided": lambda: EvoGradAlongGradient(one_sided=True),
}


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("name", SHARING)
def test_a_base_step_that_hands_over_its_loss_gives_the_same_number(name, where):
    """With dropout: the base step's masks are those of the candidates. One forward is saved."""
    problem, estimator = Network(where), SHARING[name]()
    inner_loss, calls = problem.inner_loss, []
    problem.inner_loss = lambda *args: calls.append(1) or inner_loss(*args)

    def base_step() -> Anchor:
        hyper = {n: h.detach().requires_grad_() for n, h in problem.hyper.items()}
        params = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
        loss = inner_loss(params, hyper, problem.inner_batch)
        grads = torch.autograd.grad(loss, [*params.values(), *hyper.values()])
        return Anchor(loss.detach(), dict(zip(hyper, grads[len(params) :], strict=True)))

    seed = lambda: torch.Generator().manual_seed(2)  # noqa: E731
    estimator(*problem.arguments(), generator=seed())  # which also examines the problem
    calls.clear()
    expected = estimator(*problem.arguments(), generator=seed())
    unshared = len(calls)
    found = estimator(*problem.arguments(), generator=seed(), anchor=base_step)
    assert len(calls) == 2 * unshared - 1
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.outer_loss, expected.outer_loss)


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (EvoGrad(), "anchored=True"),
        (EvoGrad(anchored=True, mode="graph"), "another mode than graph"),
        (EvoGradAlongGradient(), "one_sided=True"),
    ],
)
def test_an_estimator_without_a_candidate_at_theta_refuses_the_base_steps_loss(estimator, named):
    anchor = Anchor(torch.zeros(()), {})
    with pytest.raises(ValueError, match=named):
        estimator(*Network("loss").arguments(), anchor=anchor)


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
    AnchoredEvoGrad(sigma=0.1, perturbation=perturbation)(Spy(), theta, hyper, None, None)
    second, first = (candidate - 0.25 for candidate in seen[-2:])
    assert torch.equal(first, torch.zeros_like(first))
    assert abs(second.mean()) < 4 * 0.1 / 50_000**0.5 and abs(second.std() - 0.1) < 0.002
    if perturbation == "sign":
        torch.testing.assert_close(second.abs(), torch.full_like(second, 0.1))
