"""``compare`` on a problem whose answers are known."""

import time

import pytest
import torch
from torch import nn

from common.hypergrad import T1T2, EvoGrad, FiniteDifference, compare
from common.hypergrad.compare import Rounds, agreement, in_turns

QUICK = Rounds(seconds=0.0, least=2)


def weighted(model, hyper, batch):
    inputs, targets = batch
    losses = (model(inputs) - targets).square().mean(1)
    return (hyper["weights"].sigmoid() * losses).mean()


def plain(model, hyper, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 2))
    batches = [(torch.randn(16, 6), torch.randn(16, 2)) for _ in range(2)]
    return model, {"weights": torch.zeros(16)}, weighted, plain, *batches


def test_costs_and_fidelity_of_each_estimator(problem):
    before = [p.detach().clone() for p in problem[0].parameters()]
    found = compare(*problem, inner_lr=0.1, draws=4, rounds=QUICK, progress=False)
    rows = found.rows
    assert rows["T1T2"]["cosine"] == pytest.approx(1) and rows["T1T2"]["gain"] == pytest.approx(1)
    assert rows["FiniteDifference"]["cosine"] > 0.999
    assert rows["EvoGrad"]["cosine"] < 0.999 and rows["EvoGrad"]["spread"] > 0
    assert rows["EvoGrad"]["draws"] == 4
    assert rows["T1T2"]["memory"] > rows["EvoGrad"]["memory"] > 0
    assert all(torch.equal(p, b) for p, b in zip(problem[0].parameters(), before, strict=True))
    assert all(p.grad is None for p in problem[0].parameters())
    cheapest = min((n for n in rows if rows[n]["cosine"] >= 0.99), key=lambda n: rows[n]["time"])
    assert found.recommend(0.99).startswith(f"{cheapest}: cosine ")
    assert "comes nearest" in found.recommend(1.1)
    assert str(found).count("\n") == len(rows)
    assert list(found.frame().index) == list(rows)


def test_an_estimator_that_does_not_apply_says_why(problem):
    found = compare(
        *problem, inner_lr=0.1, rounds=QUICK, progress=False,
        estimators={"a": T1T2(0.1), "b": EvoGrad(), "too small": FiniteDifference(0.1, 1e-30)},
    )  # fmt: skip
    assert list(found.rows) == ["a", "b", "too small"]
    model, hyper, _, *rest = problem
    unused = compare(model, hyper, plain, *rest, inner_lr=0.1, rounds=QUICK, progress=False)
    assert all("hyper" in row["note"] for row in unused.rows.values())
    assert unused.recommend() == "No estimator reaches a cosine of 0.9."


def test_steps_take_turns():
    order: list[str] = []
    steps = [lambda name=name: order.append(name) for name in "ab"]
    found = in_turns(steps, torch.device("cpu"), Rounds(0.0, 3, 3))
    assert [len(seconds) for seconds in found] == [3, 3]
    assert order[:2] == ["a", "b"] and order.index("b", 2) > order.index("a", 2)
    order.clear()
    long = [lambda name=name: (order.append(name), time.sleep(0.03)) for name in "ab"]
    assert [len(s) for s in in_turns(long, torch.device("cpu"), Rounds(0.0, 3, 3))] == [3, 3]
    assert order == list("ababab"), "a long step needs no trial"
    assert [Rounds(3.0, 3, 30).number(s) for s in (10.0, 0.5, 0.001)] == [3, 6, 30]


def test_agreement_leaves_out_what_is_zero():
    exact = torch.tensor([3.0, 0.0], dtype=torch.float64)
    found = agreement([(torch.tensor([[-1.0, 5.0]], dtype=torch.float64), exact)], 1.0)
    assert found["sign_agreement"] == 0 and found["gain"] == pytest.approx(-1 / 3)
    assert found["cosine_se"] is None
