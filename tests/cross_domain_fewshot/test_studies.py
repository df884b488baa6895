"""What the experiment hands to the cost study."""

import pytest
import torch

from common.hypergrad import T1T2, EvoGrad, T1T2Forward
from cross_domain_fewshot import studies
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.studies import cases
from tests.experiments import hypergradient

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    config = Config(width=4, image_size=64, n_query=2, aux_batch_size=4)
    monkeypatch.setattr(studies, "configurations", lambda size: [config])
    return config


def test_a_case_can_be_measured(tiny):
    (case,) = cases("small")
    built = case.build(CPU)
    assert built.inner_batch.query.shape == (5, 2, 3, 64, 64)
    assert not torch.equal(built.inner_batch.query, built.outer_batch.query)
    start = {n: p.detach().clone() for n, p in built.params.items()}
    for estimator in (EvoGrad(perturb=built.perturb), T1T2(built.inner_lr)):
        assert sum(g.abs().sum() for g in hypergradient(built, estimator).values()) > 0
    assert all(torch.equal(p, start[n]) for n, p in built.params.items())
    built.base_step()
    assert not any(torch.equal(p, start[n]) for n, p in built.params.items())
    assert len(built.plain_step()) == 2  # episode loss and auxiliary loss


def test_what_is_left_out_is_what_refuses(tiny):
    built = cases("small")[0].build(CPU)
    assert list(built.excluded) == ["t1t2_forward"]
    with pytest.raises(ValueError, match="T1T2Forward cannot be used here"):
        hypergradient(built, T1T2Forward(built.inner_lr))
