"""What every estimator promises: it leaves no trace, holds no memory, and fails clearly."""

import copy
import math
from fractions import Fraction

import pytest
import torch

import common.hypergrad
from common.estimators import ESTIMATORS as REGISTRY
from common.estimators import ONE_BATCH
from common.hypergrad import (
    AnchoredEvoGrad,
    Estimator,
    EvoGrad,
    EvoGradAlongGradient,
    EvoGradForward,
    FiniteDifference,
    Hypergradient,
    ImplicitCG,
    LayerSampled,
    Neumann,
    Reversible,
)
from common.hypergrad.compare import expected_step
from common.hypergrad.implicit import Implicit
from common.training.cost import TensorMemory
from tests.common.hypergrad.problems import (
    Network,
    Quadratic,
    Wide,
    inner_batch_for,
    seeded,
    small,
)

ESTIMATORS = {name: small(entry) for name, entry in REGISTRY.items()}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def test_the_registry_has_every_public_estimator():
    public = {getattr(common.hypergrad, name) for name in common.hypergrad.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Estimator)}
    abstract = {kind for kind in kinds if kind.__abstractmethods__}
    assert kinds - abstract == {entry.kind for entry in REGISTRY.values()}
    assert all(name == entry.name for name, entry in REGISTRY.items())


def inner(name, batch):
    return inner_batch_for(ESTIMATORS[name], batch)


def arguments(name, problem):
    problem, params, hyper, inner_batch, outer_batch = problem.arguments()
    return problem, params, hyper, inner(name, inner_batch), outer_batch


@every_estimator
def test_leaves_parameters_buffers_grad_and_random_state_alone(name):
    problem = Network("loss")
    for p in problem.net.parameters():
        p.grad = torch.ones_like(p)
    for h in problem.hyper.values():
        h.requires_grad_()
    before = copy.deepcopy(problem.net.state_dict())
    hyper = {n: h.detach().clone() for n, h in problem.hyper.items()}
    state = torch.get_rng_state()
    result = ESTIMATORS[name](*arguments(name, problem), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in problem.net.state_dict().items():
        assert torch.equal(value, before[key])
    for p in problem.net.parameters():
        assert p.requires_grad and torch.equal(p.grad, torch.ones_like(p))
    for n, h in problem.hyper.items():
        assert h.grad is None and torch.equal(h, hyper[n])
        assert result.grads[n].shape == h.shape and result.grads[n].dtype == h.dtype
        assert not result.grads[n].requires_grad
    assert isinstance(result, Hypergradient) and result.outer_loss.shape == ()
    assert not any(t.requires_grad for t in [result.outer_loss, *result.diagnostics.values()])


@every_estimator
def test_restores_the_random_state_after_an_error(name):
    problem = Network("loss")
    problem.outer_loss = lambda *_: 1 / 0
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        ESTIMATORS[name](*arguments(name, problem), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


@every_estimator
def test_one_seed_gives_the_same_numbers_and_another_different_ones(name):
    problem = Network("loss")
    estimator = ESTIMATORS[name]
    torch.manual_seed(3)
    first = estimator(*arguments(name, problem)).grads["out"]
    second = estimator(*arguments(name, problem)).grads["out"]
    torch.manual_seed(3)
    again = estimator(*arguments(name, problem)).grads["out"]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)  # dropout, and perturbations, are drawn anew


@every_estimator
def test_a_hyperparameter_out_of_use_gets_zeros(name):
    problem = Network("loss")
    problem.hyper["unused"] = torch.ones(2, 3, dtype=torch.float64)
    grads = ESTIMATORS[name](*arguments(name, problem)).grads
    assert torch.equal(grads["unused"], torch.zeros(2, 3, dtype=torch.float64))
    assert grads["out"].abs().max() > 0


@every_estimator
def test_parameters_and_hyperparameters_may_share_names(name):
    problem = Quadratic()
    expected = problem.run(ESTIMATORS[name], inner(name, None), seeded()).grads["la"]

    class Renamed:
        def inner_loss(self, params, hyper, batch):
            return problem.inner_loss(params, {"la": hyper["left"]}, batch)

        def outer_loss(self, params, hyper, batch):
            return problem.outer_loss(params, {"la": hyper["left"]}, batch)

    hyper = {"left": problem.hyper["la"]}
    result = ESTIMATORS[name](Renamed(), problem.params, hyper, inner(name, None), None, seeded())
    torch.testing.assert_close(result.grads["left"], expected, rtol=1e-12, atol=0)


@every_estimator
def test_memory_does_not_grow_over_many_steps(name):
    """A training loop of 8 meta-steps ends with what it held after the fourth.

    Two seeds in turn: each subset of layers that LayerSampled draws has a peak of its own.
    """
    problem = Network("direct", width=2)
    hyper = dict(problem.hyper)
    with TensorMemory() as memory:
        for step in range(8):
            result = ESTIMATORS[name](
                problem,
                problem.params,
                hyper,
                inner(name, problem.inner_batch),
                problem.outer_batch,
                torch.Generator().manual_seed(step % 2),
            )
            hyper = {n: h - 0.1 * result.grads[n] for n, h in hyper.items()}
            if step == 3:
                settled, peak = memory.current, memory.peak
        assert (memory.current, memory.peak) == (settled, peak)


@every_estimator
def test_an_outer_loss_of_lambda_alone_leaves_the_direct_term(name):
    problem = Quadratic(convex=True)
    problem.outer_loss = lambda params, hyper, batch=None: hyper["la"].square().sum()
    result = problem.run(ESTIMATORS[name], inner(name, None))
    torch.testing.assert_close(result.grads["la"], 2 * problem.hyper["la"])


@every_estimator
def test_mean_over_draws_has_sign_and_size_of_the_exact_hypergradient(name):
    # At a small inner step theta' and a second step do not matter; noise is 8 % of the mean here.
    problem, estimator = Quadratic(convex=True, direct=False), small(REGISTRY[name], inner_lr=1e-3)
    exact, generator = problem.one_step_hypergradient(1e-3), seeded()
    draws = [problem.run(estimator, inner(name, None), generator).grads["la"] for _ in range(2)]
    while not draws[0].equal(draws[1]) and len(draws) < 200:
        draws.append(problem.run(estimator, inner(name, None), generator).grads["la"])
    mean = torch.stack(draws).mean(0)
    assert torch.cosine_similarity(mean, exact, 0) > 0.9
    if name in ONE_BATCH and not isinstance(estimator, Implicit):
        gain = mean @ exact / (exact @ exact) * 1e-3 / expected_step(estimator)
        assert gain == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("name", [n for n, e in REGISTRY.items() if "inner_lr" in e.options])
def test_inner_lr_may_follow_a_schedule(name):
    problem, rate = Quadratic(), [0.1]
    followed = small(REGISTRY[name], inner_lr=lambda: rate[0])
    for rate[0] in (0.1, 0.01):
        fixed = small(REGISTRY[name], inner_lr=rate[0])
        found, expected = (problem.run(e, inner(name, None), seeded()) for e in (followed, fixed))
        torch.testing.assert_close(found.grads["la"], expected.grads["la"], rtol=1e-7, atol=1e-9)


NAN = float("nan")
REFUSED = [
    *((EvoGrad, settings, named) for settings, named in (
        ({"num_candidates": 1}, "num_candidates"),
        ({"num_candidates": 3, "antithetic": True}, "antithetic"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": NAN}, "sigma"),
        ({"temperature": -1.0}, "temperature"),
        ({"perturbation": "uniform"}, "perturbation"),
    )),
    (AnchoredEvoGrad, {"sigma": 0.0}, "sigma"),
    (AnchoredEvoGrad, {"temperature": -1.0}, "temperature"),
    (AnchoredEvoGrad, {"perturbation": "uniform"}, "perturbation"),
    (AnchoredEvoGrad, {"antithetic": True}, "antithetic"),
    (EvoGradAlongGradient, {"radius": 0.0}, "radius"),
    (EvoGradAlongGradient, {"temperature": -1.0}, "temperature"),
    (EvoGradAlongGradient, {"temperature": 1.0, "inner_lr": 0.1}, "temperature .* inner_lr"),
    (EvoGradAlongGradient, {"inner_lr": 0.0}, "inner_lr"),
    (FiniteDifference, {"inner_lr": 0.1, "radius": 0.0}, "radius"),
    (ImplicitCG, {"iterations": 0}, "iterations"),
    (ImplicitCG, {"iterations": 1, "damping": -1.0}, "damping"),
    (ImplicitCG, {"iterations": 1, "damping": NAN}, "damping"),
    (ImplicitCG, {"iterations": 1, "tolerance": -1.0}, "tolerance"),
    (Neumann, {"inner_lr": 0.1, "terms": 0}, "terms"),
    *((kind, {"inner_lr": 0.1, "steps": 2, **settings}, named)
      for kind in dict.fromkeys(e.kind for n, e in REGISTRY.items() if n not in ONE_BATCH)
      for settings, named in (
        ({"momentum": 0.9, "steps": 0}, "steps"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": NAN}, "momentum"),
    )),
    *((Reversible, {"inner_lr": 0.1, "momentum": 0.9, "steps": 2, **settings}, named)
      for settings, named in (
        ({"momentum": 0.0}, "momentum"),
        ({"momentum": math.pi / 4}, r"momentum .* Fraction\("),
        ({"momentum": Fraction(1000, 1001)}, "momentum"),
        ({"fraction_bits": 0}, "fraction_bits"),
        ({"fraction_bits": 62}, "fraction_bits"),
    )),
    *((LayerSampled, {"inner_lr": 0.1, "layers": layers}, "layers") for layers in (0, -1, "left")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "named"), REFUSED)
def test_settings_that_make_no_sense_are_refused_by_name(kind, settings, named):
    with pytest.raises(ValueError, match=named):
        kind(**settings)


PEAKS = [  # (estimator, its settings, at most, at least), in peaks of a plain step
    ("evograd", {"num_candidates": 2}, 1.02, 0.9),
    ("evograd", {"num_candidates": 12}, 1.02, 0.9),
    ("evograd_forward", {"num_candidates": 2}, 1.2, 0.9),  # two tensors where a plain step has one
    ("evograd_forward", {"num_candidates": 12}, 1.2, 0.9),
    ("differences", {}, 0.4, 0.1),
    ("along_gradient", {}, 1.02, 0.9),
    ("t1t2_forward", {}, 1.2, 0.9),
    ("t1t2_mixed", {}, 1.2, 0.9),
    ("layer_sampled", {"layers": ["9"]}, 1.02, 0.9),
    ("layer_sampled", {"layers": ["0"]}, 2.6, 1.5),
    ("t1t2", {}, 3.0, 1.5),
]


@pytest.mark.parametrize(("name", "settings", "most", "least"), PEAKS)
def test_peak_memory_in_those_of_a_plain_step(name, settings, most, least):
    """Loss weights after the network: first derivatives take a plain step's, and no more with more
    candidates; forward passes alone (and forward mode) that of inference."""
    problem = Wide(depth=2, images=8)

    def plain():
        theta = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
        torch.autograd.grad(problem.outer_loss(theta, {}, problem.batch), list(theta.values()))

    with TensorMemory() as memory:
        plain()
    peak = problem.peak(small(REGISTRY[name], **settings))
    assert least * memory.peak < peak < most * memory.peak


def test_forward_mode_saves_no_activations_and_needs_no_more_for_a_deeper_network():
    shallow, deep = Wide(depth=2, images=8), Wide(depth=4, images=8)
    assert shallow.saved(EvoGradForward(2)) < shallow.saved(EvoGrad(2)) / 100
    assert deep.peak(EvoGradForward(2)) < 1.05 * shallow.peak(EvoGradForward(2))
    assert deep.peak(EvoGrad(2)) > 1.3 * shallow.peak(EvoGrad(2))
