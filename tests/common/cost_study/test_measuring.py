"""What the cost study counts and records, on problems whose costs are known."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from common.cost_study.case import CostCase, CostProblem
from common.cost_study.measuring import (
    CaseMeter,
    Job,
    estimator_of,
    is_memory_error,
    measure_case,
    reason_to_exclude,
    step_of,
)
from common.cost_study.records import (
    ALL,
    BY_KEY,
    COMPILED,
    MAIN,
    PLAIN,
    T1T2,
    Measurement,
    Row,
    named,
    read_measurements,
)
from common.errors import UserError
from common.estimators import ESTIMATORS
from common.hypergrad.compare import Rounds
from common.reporting.records import save

CPU = torch.device("cpu")
QUICK = Rounds(seconds=0.0, least=2)


class Weighted:
    """A network on samples with learned weights: lambda after the network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def inner_loss(self, params, hyper, batch):
        return (hyper["weights"] * self._losses(params, batch)).mean()

    def outer_loss(self, params, hyper, batch):
        return self._losses(params, batch).mean()

    def _losses(self, params, batch):
        inputs, targets = batch
        return (functional_call(self.network, dict(params), (inputs,)) - targets).square().sum(1)


def build(device: torch.device, **changes) -> CostProblem:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = torch.randn(64, 30), torch.randn(64, 2)

    def train() -> None:
        optimizer.zero_grad()
        (network(batch[0]) - batch[1]).square().sum(1).mean().backward()
        optimizer.step()

    case = CostProblem(
        problem=Weighted(network),
        params=dict(network.named_parameters()),
        hyper={"weights": torch.ones(64)},
        inner_batch=batch,
        outer_batch=batch,
        plain_step=train,
        base_step=train,
        optimizer=optimizer,
        inner_lr=0.1,
        steps={"t1t2 released": lambda: (train(), train())},
    )
    return replace(case, **changes)


def build_deadly(device: torch.device) -> CostProblem:
    """Whose own step is what the system does to a process that takes too much memory."""
    return build(device, steps={"t1t2 released": lambda: os.kill(os.getpid(), signal.SIGKILL)})


def build_too_large(device: torch.device) -> CostProblem:
    return build(device, plain_step=lambda: torch.empty(2**55, dtype=torch.int8))


def cases(size):
    return [
        CostCase("A figure", "one place", build, own=("t1t2 released",), shared=True),
        CostCase("A figure", "deadly", build_deadly, own=("t1t2 released",)),
        CostCase("A figure", "too large", build_too_large),
        CostCase("A figure", "main", build, all_methods=False),
    ]


WORDS = ("t1t2", "t1t2_")  # a whole key stands for itself, a part for all that have it


def job(folder: Path, x: str = "one place", **changes) -> Job:
    made = Job("somewhere", "A figure", x, cases, "small", "cpu", 1, folder, QUICK, WORDS)
    return replace(made, **changes)


@pytest.fixture
def meter() -> CaseMeter:
    return CaseMeter(build(CPU), CPU)


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.key)
def test_every_estimator_can_be_measured(meter, row):
    found = meter.measure(row, QUICK)
    assert (found["parameters"], found["hyperparameters"]) == (30 * 50 + 50 + 50 * 2 + 2, 64)
    if row.method == "forward_mode":
        assert found["outcome"] == "does not apply" and "64" in found["reason"]
        return
    assert found["outcome"] == "measured" and found["peak_bytes"] > 0
    assert len(found["seconds"]) == len(found["plain_seconds"]) == 2


def test_bytes_are_those_of_the_tensors():
    """A step that holds a vector of 1,000 and then another of 3,000 numbers beside it."""

    def step() -> None:
        first = torch.zeros(1000)
        second = torch.zeros(3000)
        del first, second

    steps = {"t1t2 released": lambda: torch.zeros(8000)}
    meter = CaseMeter(build(CPU, plain_step=step, steps=steps), CPU)
    assert meter.measure(Row(PLAIN), QUICK)["peak_bytes"] == 4 * 4000
    twice = meter.measure(BY_KEY["t1t2 released"], QUICK)
    assert (twice["peak_bytes"], twice["plain_peak_bytes"]) == (4 * 8000, 4 * 4000)


def test_memory_of_the_graph_grows_with_candidates_and_streaming_does_not(meter):
    """Where lambda acts inside the network: here it scales the inputs."""

    class Inside(Weighted):
        def inner_loss(self, params, hyper, batch):
            inputs, targets = batch
            return self._losses(params, (hyper["weights"][:, None] * inputs, targets)).mean()

    inside = CaseMeter(replace(meter.case, problem=Inside(meter.case.problem.network)), CPU)

    def peaks(method: str) -> list[int]:
        rows = [Row(method, {"num_candidates": count}) for count in (4, 16)]
        return [inside.measure(row, QUICK)["peak_bytes"] for row in rows]

    graph, stream = peaks("evograd_graph"), peaks("evograd")
    activations = 4 * 64 * (30 + 50)  # inputs and hidden units of one candidate
    assert graph[1] - graph[0] > 12 * activations
    assert stream[1] - stream[0] < 12 * 2 * 4 * 64  # the K gradients by lambda, and a little


def test_every_row_begins_at_the_same_parameters(meter):
    before = {n: t.clone() for n, t in meter.start.items()}
    seen = []

    def look() -> None:
        seen.append({n: t.detach().clone() for n, t in meter.case.params.items()})

    meter.measure(BY_KEY["t1t2 released"], QUICK)
    assert not torch.equal(meter.case.params["0.weight"], before["0.weight"])
    meter.case.steps["t1t2 released"] = look
    meter.measure(BY_KEY["t1t2 released"], QUICK)
    assert all(torch.equal(seen[0][n], before[n]) for n in before)


@pytest.mark.parametrize("name", [n for n, entry in ESTIMATORS.items() if entry.shares])
def test_a_shared_step_is_a_base_step_and_the_estimators_own_number(name, monkeypatch):
    case, row = build(CPU), Row(name, how="shared")
    start = {n: p.detach().clone() for n, p in case.params.items()}
    at = case.problem, case.params, case.hyper, case.inner_batch, case.outer_batch
    estimator = estimator_of(row, case)
    expected = estimator(*at, torch.Generator().manual_seed(1)).grads["weights"]
    theta = {n: p.clone().requires_grad_() for n, p in start.items()}
    loss = case.problem.inner_loss(theta, case.hyper, case.inner_batch)
    grads = torch.autograd.grad(loss, list(theta.values()))

    results, call = [], type(estimator).__call__
    noted = lambda *given, **more: results.append(call(*given, **more))  # noqa: E731
    monkeypatch.setattr(type(estimator), "__call__", noted)
    step_of(case, row)()
    torch.testing.assert_close(results[0].grads["weights"], expected)
    for (n, p), g in zip(case.params.items(), grads, strict=True):
        torch.testing.assert_close(p.detach(), start[n] - 1e-3 * g)


def test_which_rows_there_are():
    keys = [row.key for row in job(Path(), words=()).rows()]
    shared = [f"{n} shared" for n, entry in ESTIMATORS.items() if entry.shares]
    assert keys == [PLAIN, *shared, "t1t2 released", *(row.key for row in ALL)]
    assert list(dict.fromkeys(row.method for row in ALL)) == list(ESTIMATORS)
    compiled = [row.key for row in job(Path(), "main", words=(), compiled=True).rows()]
    assert set(compiled) == {PLAIN, *MAIN, *(f"{key} compiled" for key in COMPILED)}
    excluded = build(CPU, excluded={"t1t2_forward": "a"})
    assert reason_to_exclude(Row("t1t2_forward"), excluded) == "a"
    # A whole key names that row alone, another word all that hold it.
    assert named(T1T2, T1T2) and not named("t1t2 released", T1T2)
    assert named("t1t2 released", "released") and not named(T1T2, "evo")


def measured_rows(folder: Path, wanted: Job) -> dict[str, Measurement]:
    assert all(done is None or done.key == row.key for row, done in measure_case(wanted))
    assert wanted.pending() == [] and list(measure_case(wanted)) == []
    return {m.key: m for m in read_measurements(folder)}


def test_a_case_is_measured_in_its_own_process_and_not_again(tmp_path):
    wanted = job(tmp_path, "main")
    found = measured_rows(tmp_path, wanted)
    assert {PLAIN, "t1t2", "t1t2_higher", "t1t2_forward", "t1t2_mixed"} == set(found)
    assert found["t1t2"].memory_ratio > 1 and found["t1t2"].wall_seconds > 0
    assert found[PLAIN].time_ratio == found[PLAIN].memory_ratio == 1
    assert found["t1t2"].provenance["torch_threads"] == 1

    # What is missing is made again, and nothing else.
    found["t1t2"].path(tmp_path).unlink()
    assert [row.key for row in wanted.pending()] == ["t1t2"]
    kept = found["t1t2_higher"].path(tmp_path).read_text()
    again = measured_rows(tmp_path, wanted)
    assert again["t1t2_higher"].path(tmp_path).read_text() == kept
    # With other threads it is another measurement.
    assert len(job(tmp_path, "main", threads=2).pending()) == 5


def test_a_process_ended_by_the_system_is_a_row_that_does_not_fit(tmp_path):
    found = measured_rows(tmp_path, job(tmp_path, "deadly", words=("released", "t1t2_forward")))
    outcomes = {key: m.outcome for key, m in found.items()}
    fits = {PLAIN: "measured", "t1t2_forward": "measured"}
    assert outcomes == fits | {"t1t2 released": "does not fit"}


def test_a_network_that_does_not_fit_is_a_result(tmp_path):
    found = measured_rows(tmp_path, job(tmp_path, "too large", words=("higher",)))
    assert {m.outcome for m in found.values()} == {"does not fit"} and len(found) == 2


@pytest.mark.parametrize(
    "change", [{"method": "t1t2_forward"}, {"peak_bytes": 6}, {"unknown": 1}, {"how": "else"}]
)
def test_a_changed_measurement_is_refused(tmp_path, change):
    whole = job(tmp_path).measurement(
        BY_KEY[T1T2], outcome="measured", seconds=[1.0, 2.0], plain_seconds=[1.0, 1.0],
        peak_bytes=5, plain_peak_bytes=4, resident_bytes=3, parameters=2, hyperparameters=1,
    )  # fmt: skip
    path = save(whole, whole.path(tmp_path))
    assert read_measurements(tmp_path) == [whole]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=str(tmp_path)):
        read_measurements(tmp_path)


def test_memory_errors_are_told_from_others():
    with pytest.raises(RuntimeError) as short:
        torch.empty(2**60, dtype=torch.int8)
    assert is_memory_error(short.value) and is_memory_error(MemoryError())
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_memory_error(other.value)
