"""The cases of the cost study: shapes, memory by method at small size."""

import pytest
import torch

from common.cost_study.case import RELEASED
from common.hypergrad import T1T2, EvoGrad
from metaxl.studies import SHARED, Shape, build
from tests.experiments import hypergradient, peak

CPU = torch.device("cpu")
# Activations outweigh parameters, as at full size.
SMALL = Shape(layers=3, vocabulary=50, batch_size=12, length=48, hidden_size=64)


@pytest.fixture(scope="module")
def built():
    return build(SMALL, "eager", CPU)


def test_the_shared_step_needs_no_more_memory_than_joint_training(built):
    joint = peak(built.plain_step)
    assert peak(built.steps[SHARED]) <= 1.1 * joint
    # Three passes with a graph for two candidates and the meta loss, source and target.
    assert peak(built.steps[RELEASED[0]]) > 1.4 * joint


def test_t1t2_needs_much_more(built):
    def step() -> None:
        hypergradient(built, T1T2(built.inner_lr))
        built.base_step()

    assert peak(step) > 1.6 * peak(built.plain_step)


def test_more_candidates_cost_little_memory(built):
    def meta(count: int) -> int:
        estimator = EvoGrad(count, perturb=built.perturb)
        return peak(lambda: hypergradient(built, estimator))

    assert meta(8) < 1.2 * meta(2)


def test_steps_change_the_networks_but_hypergradients_do_not(built):
    def state():
        return {n: t.detach().clone() for n, t in (*built.params.items(), *built.hyper.items())}

    before = state()
    hypergradient(built, EvoGrad(perturb=built.perturb))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state().items())
    for step in (built.plain_step, built.base_step, *built.steps.values()):
        step()
        now = state()
        assert not torch.equal(now["head.weight"], before["head.weight"])
        before = now


def test_fused_attention_excludes_second_derivatives():
    fused = build(SMALL, "sdpa", CPU)
    assert {"t1t2", "t1t2_higher"} < set(fused.excluded)
    assert list(build(SMALL, "eager", CPU).excluded) == ["t1t2_forward"]
