"""EvoGrad against its closed form, its modes against each other, its mean against T1-T2."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, vmap
from torch.nn import functional as F

from common.hypergrad import T1T2, AnchoredEvoGrad, EvoGrad, EvoGradGraph
from tests.common.hypergrad.problems import EVOGRADS, Network, PartOf, Quadratic, relative, seeded


class OneDimensional:
    """The paper's illustration: L_T = (x - 1)^2 + lambda x^2, L_V = (x - 1/2)^2."""

    def inner_loss(self, params, hyper, batch=None):
        return (params["x"] - 1) ** 2 + hyper["lambda"] * params["x"] ** 2

    def outer_loss(self, params, hyper, batch=None):
        return (params["x"] - 0.5) ** 2


class OneDimensionalBatched(OneDimensional):
    def inner_losses(self, candidates, hyper, batch=None):
        return self.inner_loss(candidates, hyper)


def closed_form(x, la, eps, tau):
    """By hand: dw_k/dla = -(w_k / tau) (x_k^2 - sum_j w_j x_j^2), dL_V/dw_k = 2 (x* - 1/2) x_k."""
    xs = [x + e for e in eps]
    scores = [-((xk - 1) ** 2 + la * xk**2) / tau for xk in xs]
    top = max(scores)
    ws = [math.exp(s - top) for s in scores]
    ws = [w / sum(ws) for w in ws]
    star = sum(w * xk for w, xk in zip(ws, xs, strict=True))
    mean = sum(w * xk**2 for w, xk in zip(ws, xs, strict=True))
    return sum(
        2 * (star - 0.5) * xk * (-w / tau) * (xk**2 - mean) for w, xk in zip(ws, xs, strict=True)
    )


finite = st.floats(-2, 2)


@pytest.mark.parametrize("problem", [OneDimensional(), OneDimensionalBatched()])
@pytest.mark.parametrize("mode", EVOGRADS)
@settings(max_examples=25, deadline=None)
@given(
    x=finite,
    la=st.floats(0, 2),
    eps=st.lists(finite, min_size=2, max_size=7),
    tau=st.floats(0.05, 2),
)
def test_closed_form_of_the_one_dimensional_problem(problem, mode, x, la, eps, tau):
    estimator = EVOGRADS[mode](num_candidates=len(eps), temperature=tau)
    tensors = {n: torch.tensor(v, dtype=torch.float64) for n, v in (("x", x), ("lambda", la))}
    noise = {"x": torch.tensor(eps, dtype=torch.float64)}
    result = estimator(
        problem, {"x": tensors["x"]}, {"lambda": tensors["lambda"]}, None, None, noise=noise
    )
    expected = closed_form(x, la, eps, tau)
    assert result.grads["lambda"].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("common_noise", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"num_candidates": 2},
        {"num_candidates": 5, "perturbation": "gaussian"},
        {"num_candidates": 4, "antithetic": True},
        {"num_candidates": 3, "perturb": lambda name: name.startswith("9.")},
    ],
    ids=["sign", "gaussian", "antithetic", "head-only"],
)
def test_modes_agree_with_batch_norm_and_dropout(where, common_noise, options):
    problem = Network(where, smooth=False)
    results = {}
    for mode in EVOGRADS:
        estimator = EVOGRADS[mode](sigma=1e-2, common_noise=common_noise, **options)
        results[mode] = estimator(*problem.arguments(), generator=seeded(7))
    reference = results["graph"]
    for mode in ("backward", "forward"):
        torch.testing.assert_close(
            results[mode].outer_loss, reference.outer_loss, rtol=1e-12, atol=1e-12
        )
        for name, grad in reference.grads.items():
            assert relative(results[mode].grads[name], grad) < 1e-9


@pytest.mark.parametrize(
    ("settings_", "share"), [({}, 0.5), ({"antithetic": True}, 1.0), ("anchored", 0.25)]
)
def test_mean_over_all_sign_patterns_is_the_one_step_hypergradient(settings_, share):
    """E[EvoGrad] -> T1-T2 with step sigma^2 (1 - 1/K) / tau, exactly, by enumeration (K = 2)."""
    problem = Quadratic(size=4, hypers=3)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    if "antithetic" in settings_:
        pairs = torch.stack([signs, -signs], dim=1)
    elif settings_ == "anchored":
        pairs = torch.stack([torch.zeros_like(signs), signs], dim=1)
    else:
        pairs = torch.stack([torch.stack([a, b]) for a, b in itertools.product(signs, signs)])
    errors = []
    for sigma in (1e-3, 1e-4):
        shown = AnchoredEvoGrad if settings_ == "anchored" else EvoGrad
        shown = shown(2, sigma, 0.05, antithetic="antithetic" in settings_)
        estimator = EvoGradGraph(2, sigma, 0.05)
        eps = sigma * pairs
        noise = {"left": eps[..., :2], "right": eps[..., 2:].reshape(*eps.shape[:2], 2, 1)}

        def grads(noise, estimator=estimator):
            return problem.run(estimator, noise=noise).grads["la"]

        mean = vmap(grads, randomness="same")(noise).mean(dim=0) - problem.direct()
        eta = shown.effective_inner_lr
        assert eta == pytest.approx(sigma**2 / 0.05 * share)
        expected = problem.one_step_hypergradient(eta, at_theta=True) - problem.direct()
        errors.append(relative(mean, expected))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 50  # second order in sigma


def test_mean_over_gaussian_noise_is_the_one_step_hypergradient():
    problem = Quadratic(size=4, hypers=3, direct=False)
    estimator = EvoGradGraph(8, 1e-3, 0.05, perturbation="gaussian")
    torch.manual_seed(0)
    eps = 1e-3 * torch.randn(40_000, 8, 4, dtype=torch.float64)
    noise = {"left": eps[..., :2], "right": eps[..., 2:].reshape(*eps.shape[:2], 2, 1)}

    def grads(noise):
        return problem.run(estimator, noise=noise).grads["la"]

    samples = vmap(grads, randomness="same")(noise)
    expected = problem.one_step_hypergradient(estimator.effective_inner_lr, at_theta=True)
    standard_error = samples.std(dim=0) / len(samples) ** 0.5
    assert ((samples.mean(dim=0) - expected).abs() < 4 * standard_error).all()
    assert (standard_error < 0.05 * expected.abs().max()).all()


@pytest.mark.parametrize("kind", [*EVOGRADS.values(), AnchoredEvoGrad])
@pytest.mark.parametrize("perturbation", ["sign", "gaussian"])
def test_drawn_noise_has_the_stated_distribution(kind, perturbation):
    """Through the estimator's own draw: the candidates that the inner loss is given."""
    seen = []

    class Spy:
        def inner_loss(self, params, hyper, batch):
            seen.append(params["w"].detach().clone())
            return (hyper["a"] * params["w"]).mean()

        def outer_loss(self, params, hyper, batch):
            return params["w"].mean()

    theta = {"w": torch.full((50_000,), 0.25, dtype=torch.float64)}
    kind(3, 0.1, 0.05, perturbation)(
        Spy(), theta, {"a": torch.tensor(1.0, dtype=torch.float64)}, None, None
    )
    eps = torch.stack(seen[-3:]) - 0.25
    if kind is AnchoredEvoGrad:
        at_theta = eps.abs().amax(dim=1) == 0
        assert at_theta.sum() == 1
        eps = eps[~at_theta]
    if perturbation == "sign":
        torch.testing.assert_close(eps.abs(), torch.full_like(eps, 0.1))
    assert eps.mean(dim=1).abs().max() < 4 * 0.1 / 50_000**0.5
    assert (eps.std(dim=1) - 0.1).abs().max() < 0.002
    assert torch.corrcoef(eps).fill_diagonal_(0).abs().max() < 0.02


def test_antithetic_candidates_come_in_mirrored_pairs():
    seen = []

    class Spy(Quadratic):
        def inner_loss(self, params, hyper, batch=None):
            seen.append(self.vector(params) - self.vector(self.params))
            return super().inner_loss(params, hyper)

    problem = Spy()
    problem.run(EvoGrad(4, 0.1, antithetic=True))
    first, second, third, fourth = seen[-4:]
    torch.testing.assert_close(first, -second)
    torch.testing.assert_close(third, -fourth)
    assert not torch.equal(first, third)


def test_unperturbed_parameters_stay_where_they_are():
    seen = []

    class Spy(Quadratic):
        def inner_loss(self, params, hyper, batch=None):
            seen.append(params)
            return super().inner_loss(params, hyper)

        def outer_loss(self, params, hyper, batch=None):
            assert torch.equal(params["left"], self.params["left"])
            return super().outer_loss(params, hyper)

    problem = Spy()
    for kind in EVOGRADS.values():
        estimator = kind(3, perturb=lambda name: name == "right")
        problem.run(estimator)
        for params in seen[-3:]:
            assert torch.equal(params["left"], problem.params["left"])
            assert not torch.equal(params["right"], problem.params["right"])


@pytest.mark.parametrize("mode", EVOGRADS)
def test_candidates_in_one_vmapped_pass_equal_a_loop(mode):
    """The hook, with batch-norm buffers stacked to (K, ...), against inner_loss K times."""

    class Vmapped(Network):
        def inner_losses(self, candidates, hyper, batch):
            count = len(next(iter(candidates.values())))
            buffers = {n: torch.stack([b] * count) for n, b in self.net.named_buffers()}
            images = batch[0] * hyper["scale"].view(1, 3, 1, 1)

            def loss(params, buffers):
                logits = functional_call(self.net, (params, buffers), (images,))
                return F.cross_entropy(logits, batch[1])

            return vmap(loss)(candidates, buffers)

    results = [
        EVOGRADS[mode](4, 1e-2)(*kind("inside", dropout=0.0).arguments(), generator=seeded(3))
        for kind in (Network, Vmapped)
    ]
    torch.testing.assert_close(results[0].grads, results[1].grads, rtol=1e-9, atol=1e-12)


def test_common_noise_leaves_the_mean_and_lowers_the_variance():
    problem = Network("inside", dropout=0.5)
    spread = {}
    for common_noise in (True, False):
        estimator = EvoGrad(2, common_noise=common_noise)
        grads = torch.stack(
            [estimator(*problem.arguments(), seeded(s)).grads["scale"] for s in range(30)]
        )
        spread[common_noise] = grads.std(dim=0).norm()
    assert spread[True] < 0.1 * spread[False]


def test_mean_on_a_network_is_the_second_order_hypergradient():
    """Batch norm, hyperparameters inside; all sign patterns of the last layer's bias."""
    problem, last = Network("inside", dropout=0.0), "9.bias"
    estimator = EvoGrad(2, 1e-4, 0.05, antithetic=True, perturb=lambda name: name == last)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), dtype=torch.float64)
    samples = [
        estimator(*problem.arguments(), noise={last: 1e-4 * torch.stack([s, -s])}).grads["scale"]
        for s in signs
    ]
    alone = PartOf("inside", [last])
    exact = alone.run(T1T2(estimator.effective_inner_lr)).grads["scale"]
    assert (torch.stack(samples).mean(dim=0) - exact).norm() < 1e-4 * exact.norm()
