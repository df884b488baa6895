"""Unrolled, ForwardMode and Reversible against closed forms, differences, and one another."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from common.hypergrad import T1T2, ForwardMode, Reversible, Unrolled
from tests.common.hypergrad.problems import (
    Network,
    Quadratic,
    Wide,
    central_differences,
    relative,
    seeded,
)

METHODS = {
    "unrolled": lambda eta, steps, momentum=0.9: Unrolled(eta, steps, momentum),
    "forward-mode": lambda eta, steps, momentum=0.9: ForwardMode(eta, steps, momentum),
    "reversible": lambda eta, steps, momentum=0.9: Reversible(eta, momentum, steps),
}
every_method = pytest.mark.parametrize("method", METHODS)
momenta = st.fractions(Fraction(1, 10), Fraction(19, 20), max_denominator=200)


@every_method
@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from([4, 6, 10]),
    hypers=st.integers(1, 4),
    steps=st.integers(1, 6),
    eta=st.floats(1e-3, 0.1),
    momentum=momenta,
    direct=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_closed_form_on_quadratics(method, size, hypers, steps, eta, momentum, direct, seed):
    problem = Quadratic(size, hypers, seed, direct)
    batches = problem.batches(steps)
    estimator = METHODS[method](eta, steps, float(momentum))
    grads = problem.run(estimator, batches).grads["la"]
    expected = problem.unrolled_hypergradient(eta, float(momentum), batches)
    assert (grads - expected).norm() < 1e-8 * (expected.norm() + 1)


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@every_method
def test_one_step_is_t1t2_with_batch_norm_and_dropout(method, where):
    """Momentum, which starts at zero, does not matter in a single step."""
    problem = Network(where)
    reference = T1T2(0.1)(*problem.arguments(), seeded())
    problem_, params, hyper, inner_batch, outer_batch = problem.arguments()
    estimator = METHODS[method](0.1, 1)
    result = estimator(problem_, params, hyper, [inner_batch], outer_batch, seeded())
    tolerance = 1e-8 if method == "reversible" else 1e-12  # theta_0 is rounded
    torch.testing.assert_close(result.outer_loss, reference.outer_loss, rtol=tolerance, atol=0)
    for name, grad in reference.grads.items():
        assert relative(result.grads[name], grad) < tolerance


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
def test_agree_with_batch_norm_and_dropout(where):
    problem = Network(where)
    batches = [problem.batch(size) for size in (12, 9, 7, 12)]
    unrolled, *others = (
        make(0.1, 4)(problem, problem.params, problem.hyper, batches, problem.outer_batch, seeded())
        for make in METHODS.values()
    )
    for result in others:
        torch.testing.assert_close(result.outer_loss, unrolled.outer_loss, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            result.diagnostics["inner_losses"],
            unrolled.diagnostics["inner_losses"],
            rtol=1e-9,
            atol=0,
        )
        for name, grad in unrolled.grads.items():
            assert relative(result.grads[name], grad) < 1e-8


class SampleWeights(Network):
    """Hyperparameters after the network and nothing detached, so that differences are the truth."""

    def __init__(self) -> None:
        super().__init__("direct", dropout=0.0)
        self.hyper = {"logits": torch.randn(12, dtype=torch.float64)}

    def inner_loss(self, params, hyper, batch):
        losses = F.cross_entropy(self.logits(params, batch[0]), batch[1], reduction="none")
        return torch.softmax(hyper["logits"], 0) @ losses

    def outer_loss(self, params, hyper, batch):
        return F.cross_entropy(self.logits(params, batch[0]), batch[1])


def run_sgd(problem, hyper, batches, eta, momentum):
    """The inner steps by torch's own optimiser: the inner losses, and the parameters reached."""
    theta = {n: p.detach().clone().requires_grad_() for n, p in problem.params.items()}
    optimiser = torch.optim.SGD(theta.values(), lr=eta, momentum=momentum)
    losses = []
    for batch in batches:
        optimiser.zero_grad()
        loss = problem.inner_loss(theta, hyper, batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, theta


@pytest.mark.parametrize(
    "problem",
    [Network("inside", dropout=0.0), Network("direct", dropout=0.0), SampleWeights()],
    ids=["inside", "direct", "sample-weights"],
)
def test_equal_a_central_difference_over_the_trajectory(problem):
    """dL_V(theta_3(lambda), lambda)/dlambda entry by entry, through batch norm in training mode."""
    eta, momentum = 0.1, 0.9
    batches = [problem.batch(12) for _ in range(3)]

    def validation_loss(hyper):
        _, theta = run_sgd(problem, hyper, batches, eta, momentum)
        return problem.outer_loss(theta, hyper, problem.outer_batch).item()

    expected = central_differences(validation_loss, problem.hyper)
    losses, theta = run_sgd(problem, problem.hyper, batches, eta, momentum)
    for make in METHODS.values():
        result = make(eta, 3, momentum)(
            problem, problem.params, problem.hyper, batches, problem.outer_batch
        )
        torch.testing.assert_close(result.grads, expected, rtol=1e-5, atol=1e-8)
        assert result.diagnostics["inner_losses"].tolist() == pytest.approx(losses, rel=1e-9)
        reached = problem.outer_loss(theta, problem.hyper, problem.outer_batch).item()
        assert result.outer_loss.item() == pytest.approx(reached, rel=1e-9)
        for n, t in result.params.items():
            torch.testing.assert_close(t, theta[n].detach(), rtol=1e-9, atol=1e-12)


def test_peak_memory_over_the_number_of_steps():
    """Unrolled's grows by a graph a step; the others' by the k losses they report, 4 bytes each."""
    problem = Wide(depth=1, images=2)
    problem.hyper = {"scale": torch.ones(())}
    problem.inner_loss = lambda params, hyper, batch: (
        hyper["scale"] * problem.losses(params, batch).mean()
    )

    peaks = {
        name: [problem.peak(make(0.01, steps)) for steps in (4, 8, 12)]
        for name, make in METHODS.items()
    }
    graphs = peaks["unrolled"][1] - peaks["unrolled"][0]
    assert peaks["unrolled"][2] - peaks["unrolled"][1] == pytest.approx(graphs, rel=0.01)
    assert peaks["unrolled"][2] > 2 * peaks["unrolled"][0]
    for name in ("forward-mode", "reversible"):
        assert 0 <= peaks[name][2] - peaks[name][0] <= 4 * 8
        assert peaks[name][1] < peaks["unrolled"][0]
    single = problem.peak(T1T2(0.01))
    assert problem.peak(Unrolled(0.01, 1)) < 1.05 * single
    again = [problem.peak(Unrolled(0.01, steps, recompute=True)) for steps in (4, 8)]
    theta = sum(4 * p.numel() for p in problem.params.values())
    assert again[0] < 1.2 * single and again[1] - again[0] == pytest.approx(4 * theta, rel=0.1)
    assert peaks["reversible"][2] < 1.2 * single  # one graph at a time


@every_method
@pytest.mark.parametrize("inner_batch", [[None] * 2, [None] * 4, [], None, torch.zeros(3)])
def test_inner_batch_must_be_a_sequence_of_as_many_as_steps(method, inner_batch):
    problem = Quadratic()
    estimator = METHODS[method](0.1, 3)
    with pytest.raises(ValueError, match=r"inner_batch .* steps = 3"):
        problem.run(estimator, inner_batch)
