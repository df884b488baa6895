"""Reversible: integers that come back bit for bit, and what their digits cost."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.hypergrad import Reversible
from common.hypergrad.reversible import ReversibleDecay
from tests.common.hypergrad.problems import Network, Quadratic

ratios = st.fractions(Fraction(1, 50), Fraction(999, 1000), max_denominator=1000)
integers = st.integers(-(2**60), 2**60)


def algorithm_3(buffer: int, value: int, n: int, d: int) -> tuple[int, int]:
    """The paper's, line by line, on integers without bound."""
    buffer *= d
    buffer += value % d
    value //= d
    value *= n
    value += buffer % n
    buffer //= n
    return buffer, value


@settings(max_examples=50, deadline=None)
@given(ratio=ratios, starts=st.lists(integers, min_size=1, max_size=5), steps=st.integers(1, 40))
def test_a_decay_is_algorithm_3_of_the_paper(ratio, starts, steps):
    """Within the first word, that is; the paper's buffer never ends."""
    values = torch.tensor(starts)
    decay = ReversibleDecay(ratio, values, steps)
    pairs = [(0, start) for start in starts]
    for _ in range(min(steps, decay.per_word)):
        before = values
        values = decay.multiply(values)
        pairs = [algorithm_3(*pair, ratio.numerator, ratio.denominator) for pair in pairs]
        assert values.tolist() == [value for _, value in pairs]
        assert decay.digits.tolist() == [buffer for buffer, _ in pairs]
        for old, new in zip(before.tolist(), values.tolist(), strict=True):
            assert abs(new - old * ratio) < ratio.numerator


@settings(max_examples=50, deadline=None)
@given(
    ratio=ratios,
    starts=st.lists(integers, min_size=1, max_size=5),
    steps=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
@example(ratio=Fraction(1, 50), starts=[2**60, -(2**60), -1, 0, 1], steps=300, seed=0)
@example(ratio=Fraction(999, 1000), starts=[2**60, -(2**60), -1, 0, 1], steps=300, seed=0)
def test_decays_are_undone_bit_for_bit(ratio, starts, steps, seed):
    torch.manual_seed(seed)
    values = torch.tensor(starts)
    decay = ReversibleDecay(ratio, values, steps)
    pushes = torch.randint(-(2**50), 2**50, (steps, len(starts)))
    seen = [values]
    for push in pushes:
        seen.append(decay.multiply(seen[-1]) + push)
        assert (decay.digits >= 0).all()
    for push, before, after in reversed(list(zip(pushes, seen[:-1], seen[1:], strict=True))):
        assert torch.equal(decay.divide(after - push), before)
    assert not decay.words and not decay.digits.any()


@pytest.mark.parametrize("ratio", [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)])
def test_a_word_holds_as_many_decays_as_their_bits_allow(ratio):
    """log2(d / n) bits each, of 63 less those that must stay free for one more digit."""
    steps = 20_000
    decay = ReversibleDecay(ratio, torch.zeros(1, dtype=torch.int64), steps)
    room = 63 - math.log2(ratio.denominator)
    held = decay.per_word * math.log2(1 / ratio)
    assert room - 7 < held <= room + 1
    value = torch.tensor([2**40])
    for _ in range(2_000):
        value = decay.multiply(value)
    assert len(decay.words) == (2_000 - 1) // decay.per_word


def recorded(problem):
    """The parameters of every evaluation of the inner loss, in turn."""
    seen, loss = [], problem.inner_loss

    def inner_loss(params, hyper, batch):
        seen.append(torch.cat([p.detach().reshape(-1) for p in params.values()]))
        return loss(params, hyper, batch)

    problem.inner_loss = inner_loss
    return seen


@pytest.mark.parametrize(("steps", "momentum"), [(1000, 0.9), (300, 0.5)])
def test_a_thousand_steps_come_back_bit_for_bit(steps, momentum):
    """Three words of digits for 0.9, five for 0.5; the hypergradient is the closed form's."""
    problem = Quadratic(convex=True)
    batches = problem.batches(steps)
    start = torch.cat([p.reshape(-1) for p in problem.params.values()])
    seen = recorded(problem)
    result = problem.run(Reversible(0.02, momentum, steps), batches)
    there, back = torch.stack(seen[-2 * steps : -steps]), torch.stack(seen[-steps:]).flip(0)
    assert torch.equal(there, back)
    assert torch.equal(there[0], (start * 2**44).round() / 2**44)
    assert len(there.unique(dim=0)) == steps
    expected = problem.unrolled_hypergradient(0.02, momentum, batches)
    assert (result.grads["la"] - expected).norm() < 1e-8 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_comes_back_bit_for_bit(dtype):
    """Batch norm, dropout, SiLU (whose derivative has other last bits without a graph)."""
    problem = Network("inside")
    problem.net.to(dtype)
    problem.params = {n: p.to(dtype) for n, p in problem.params.items()}
    problem.hyper = {n: h.to(dtype) for n, h in problem.hyper.items()}
    batches = [(images.to(dtype), labels) for images, labels in map(problem.batch, [12] * 8)]
    seen = recorded(problem)
    outer_batch = (problem.outer_batch[0].to(dtype), problem.outer_batch[1])
    result = Reversible(0.1, 0.9, 8)(problem, problem.params, problem.hyper, batches, outer_batch)
    assert torch.equal(torch.stack(seen[-16:-8]), torch.stack(seen[-8:]).flip(0))
    assert result.grads["scale"].dtype == dtype


def test_what_leaves_the_range_or_is_no_number_is_refused():
    problem = Quadratic()
    for scale in (1e6, float("nan"), float("inf")):
        params = {n: scale * p for n, p in problem.params.items()}
        with pytest.raises(ValueError, match="fraction_bits"):
            Reversible(0.1, 0.9, 2)(problem, params, problem.hyper, [None] * 2, None)
    with pytest.raises(ValueError, match="fraction_bits"):  # diverges on the way
        problem.run(Reversible(10.0, 0.9, 30), [None] * 30)
    params = {n: 1e6 * p for n, p in problem.params.items()}
    Reversible(0.1, 0.9, 2, fraction_bits=30)(problem, params, problem.hyper, [None] * 2, None)


def test_a_gradient_that_is_not_reproducible_is_noticed():
    problem = Quadratic()
    noise = torch.Generator().manual_seed(0)
    loss = problem.inner_loss

    def noisy(params, hyper, batch):
        factor = 1 + 1e-14 * torch.rand((), generator=noise, dtype=torch.float64)
        return factor * loss(params, hyper, batch)

    problem.inner_loss = noisy
    with pytest.raises(RuntimeError, match="deterministic"):
        problem.run(Reversible(0.1, 0.9, 3), [None] * 3)
