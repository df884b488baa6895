"""What every estimator promises: it leaves no trace, holds no memory, and fails clearly."""

import copy

import pytest
import torch

import common.hypergrad
from common.hypergrad import T1T2, Estimator, EvoGrad, Hypergradient, T1T2Forward
from common.hypergrad.registry import ESTIMATORS as REGISTRY
from common.training.cost import TensorMemory
from tests.common.hypergrad.problems import Network, Quadratic, Wide, inner_batch_for, small

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
    result = ESTIMATORS[name](*arguments(name, problem), generator=torch.Generator().manual_seed(0))
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
        ESTIMATORS[name](*arguments(name, problem), generator=torch.Generator().manual_seed(0))
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
def test_hyperparameters_that_nothing_depends_on_are_refused(name):
    problem = Network("loss")
    loss = problem.inner_loss
    held = dict(problem.hyper)
    problem.inner_loss = lambda params, hyper, batch: loss(params, held, batch)
    with pytest.raises(ValueError, match="depends on any hyperparameter"):
        ESTIMATORS[name](*arguments(name, problem))


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
    expected = ESTIMATORS[name](
        problem,
        problem.params,
        problem.hyper,
        inner(name, None),
        None,
        torch.Generator().manual_seed(1),
    ).grads["la"]

    class Renamed:
        def inner_loss(self, params, hyper, batch):
            return problem.inner_loss(params, {"la": hyper["left"]}, batch)

        def outer_loss(self, params, hyper, batch):
            return problem.outer_loss(params, {"la": hyper["left"]}, batch)

    result = ESTIMATORS[name](
        Renamed(),
        problem.params,
        {"left": problem.hyper["la"]},
        inner(name, None),
        None,
        torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(result.grads["left"], expected, rtol=1e-12, atol=0)


@every_estimator
def test_memory_does_not_grow_over_many_steps(name):
    """A training loop of 30 meta-steps and base steps ends with what it held after the fifth.

    Five seeds in turn: each subset of layers that LayerSampled draws has a peak of its own.
    """
    problem = Network("loss")
    hyper = dict(problem.hyper)
    with TensorMemory() as memory:
        for step in range(30):
            result = ESTIMATORS[name](
                problem,
                problem.params,
                hyper,
                inner(name, problem.inner_batch),
                problem.outer_batch,
                torch.Generator().manual_seed(step % 5),
            )
            hyper = {n: h - 0.1 * result.grads[n] for n, h in hyper.items()}
            if step == 4:
                settled, peak = memory.current, memory.peak
        assert memory.current == settled
        assert memory.peak == peak


def test_streaming_peak_does_not_grow_with_candidates():
    """Up to what is inherent: K losses, K gradients of lambda's size."""
    problem = Wide()
    hyper_bytes = 4 * 32
    few, many = problem.peak(EvoGrad(2)), problem.peak(EvoGrad(16))
    assert many - few <= 14 * 4 * hyper_bytes
    assert many < 1.001 * few


def test_forward_saves_no_activations_whatever_the_number_of_candidates():
    problem = Wide()
    streaming = problem.saved(EvoGrad(2))
    few, many = (problem.saved(EvoGrad(count, mode="forward")) for count in (2, 16))
    assert few < streaming / 1000
    assert many <= 8 * few  # K small vectors after the network, nothing inside it
    peaks = [problem.peak(EvoGrad(count, mode="forward")) for count in (2, 16)]
    assert peaks[1] < 1.01 * peaks[0]


def test_a_plain_steps_memory_bounds_streaming():
    problem = Wide()

    def plain():
        theta = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
        torch.autograd.grad(problem.outer_loss(theta, {}, problem.batch), list(theta.values()))

    with TensorMemory() as memory:
        plain()
    assert problem.peak(EvoGrad(4)) < 1.05 * memory.peak
    assert problem.peak(T1T2(0.1)) > 1.5 * memory.peak


def test_forward_peak_does_not_grow_with_depth():
    """The memory of inference: streaming's peak grows by the activations of eight more blocks."""
    forward = [Wide(depth).peak(EvoGrad(2, mode="forward")) for depth in (4, 12)]
    streaming = [Wide(depth).peak(EvoGrad(2)) for depth in (4, 12)]
    assert forward[1] < 1.02 * forward[0]
    assert streaming[1] > 2 * streaming[0]
    assert forward[1] < 0.5 * streaming[1]


def test_forward_differentiates_without_double_backward_memory():
    problem = Wide()
    exact, lean = T1T2(0.1), T1T2Forward(0.1)
    assert problem.peak(lean) < 0.7 * problem.peak(exact)
