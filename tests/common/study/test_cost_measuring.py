"""What the cost study counts and records, on problems whose costs are known."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from common.errors import UserError
from common.hypergrad.registry import ESTIMATORS as REGISTRY
from common.study.case import Built, CostCase
from common.study.estimators import ESTIMATORS, PLAIN, all_methods, reason_to_exclude
from common.study.measuring import CaseMeter, OutOfTimeError, Rounds
from common.study.plan import Job, Row, allowances
from common.study.records import (
    Measurement,
    Point,
    Settings,
    measurement_path,
    read_measurements,
    write_measurement,
)
from common.study.worker import is_memory_error, measure_case

CPU = torch.device("cpu")
POINT = Point(experiment="somewhere", figure="A figure", x="one place")
SETTINGS = Settings(size="small", device="cpu", threads=1, tf32=False)
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


def build(device: torch.device, **changes) -> Built:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = torch.randn(64, 30), torch.randn(64, 2)

    def train() -> None:
        optimizer.zero_grad()
        (network(batch[0]) - batch[1]).square().sum(1).mean().backward()
        optimizer.step()

    case = Built(
        problem=Weighted(network),
        params=dict(network.named_parameters()),
        hyper={"weights": torch.ones(64)},
        inner_batch=batch,
        outer_batch=batch,
        plain_step=train,
        base_step=train,
        inner_lr=0.1,
        steps={"two plain steps": lambda: (train(), train())},
    )
    return replace(case, **changes)


def build_deadly(device: torch.device) -> Built:
    """Whose own step is what the system does to a process that takes too much memory."""
    return build(device, steps={"greedy": lambda: os.kill(os.getpid(), signal.SIGKILL)})


def build_too_large(device: torch.device) -> Built:
    return build(device, plain_step=lambda: torch.empty(2**55, dtype=torch.int8))


def cases(size):
    builders = {"one place": build, "deadly": build_deadly, "too large": build_too_large}
    return [CostCase("A figure", x, builder) for x, builder in builders.items()]


def job(folder: Path, x: str = "one place", **changes) -> Job:
    point = POINT.model_copy(update={"x": x})
    return replace(Job(point, cases, SETTINGS, folder, "cpu", QUICK, ("T1T2",)), **changes)


@pytest.fixture
def meter() -> CaseMeter:
    return CaseMeter(build(CPU), CPU)


def find(name: str):
    return next(m for m in all_methods() if m.name == name)


def measure(meter: CaseMeter, name: str) -> dict:
    method = None if name in (PLAIN, *meter.case.steps) else find(name)
    return meter.measure(name, method, False, QUICK, lambda part: None)


@pytest.mark.parametrize("method", all_methods(), ids=lambda m: m.name)
def test_every_method_of_the_table_can_be_measured(meter, method):
    found = measure(meter, method.name)
    if method.most_hyper:
        assert found["outcome"] == "does not apply" and "64" in found["reason"]
        return
    assert found["outcome"] == "measured"
    assert len(found["seconds"]) == len(found["plain_seconds"]) == 2
    assert (found["parameters"], found["hyperparameters"]) == (30 * 50 + 50 + 50 * 2 + 2, 64)
    assert found["peak_bytes"] > 0


def test_bytes_are_those_of_the_tensors():
    """A step that holds a vector of 1,000 and then another of 3,000 numbers beside it."""

    def step() -> None:
        first = torch.zeros(1000)
        second = torch.zeros(3000)
        del first, second

    case = build(CPU, plain_step=step, steps={"twice": lambda: torch.zeros(8000)})
    meter = CaseMeter(case, CPU)
    assert measure(meter, PLAIN)["peak_bytes"] == 4 * 4000
    twice = measure(meter, "twice")
    assert (twice["peak_bytes"], twice["plain_peak_bytes"]) == (4 * 8000, 4 * 4000)


def test_memory_of_the_graph_grows_with_candidates_and_streaming_does_not(meter):
    """Where lambda acts inside the network: here it scales the inputs."""

    class Inside(Weighted):
        def inner_loss(self, params, hyper, batch):
            inputs, targets = batch
            return self._losses(params, (hyper["weights"][:, None] * inputs, targets)).mean()

    inside = CaseMeter(replace(meter.case, problem=Inside(meter.case.problem.network)), CPU)
    graph = [measure(inside, f"EvoGrad graph, K = {k}")["peak_bytes"] for k in (4, 16)]
    stream = [measure(inside, f"EvoGrad, K = {k}")["peak_bytes"] for k in (4, 16)]
    activations = 4 * 64 * (30 + 50)  # inputs and hidden units of one candidate
    assert graph[1] - graph[0] > 12 * activations
    assert stream[1] - stream[0] < 12 * 2 * 4 * 64  # the K gradients by lambda, and a little


def test_every_method_begins_at_the_same_parameters(meter):
    before = {n: t.clone() for n, t in meter.start.items()}
    seen = []
    meter.case.steps["look"] = lambda: seen.append(
        {n: t.detach().clone() for n, t in meter.case.params.items()}
    )
    measure(meter, "two plain steps")
    assert not torch.equal(meter.case.params["0.weight"], before["0.weight"])
    measure(meter, "look")
    assert all(torch.equal(seen[0][n], before[n]) for n in before)


def test_what_would_end_too_late_is_not_begun(meter):
    began = []
    case = replace(meter.case, steps={"step": lambda: began.append(1)})
    late = CaseMeter(case, CPU)
    with pytest.raises(OutOfTimeError):
        late.measure("step", None, False, QUICK, lambda part: None, deadline=-math.inf)
    assert not began


def test_rounds_fill_the_time_within_their_bounds():
    rounds = Rounds(seconds=3.0, least=3, most=30)
    assert [rounds.number(s) for s in (10.0, 0.5, 0.001)] == [3, 6, 30]


def test_cases_exclude_by_any_name_of_a_method():
    case = build(CPU, excluded={"t1t2_forward": "a", "EvoGrad graph": "b", "EvoGrad, K = 4": "c"})
    reasons = {m.name: reason_to_exclude(m, case) for m in all_methods()}
    assert reasons["T1T2Forward"] == "a" and reasons["T1T2"] is None
    assert reasons["EvoGrad graph, K = 2"] == reasons["EvoGrad graph, K = 16"] == "b"
    assert reasons["EvoGrad, K = 4"] == "c" and reasons["EvoGrad, K = 2"] is None


def test_the_table_has_every_estimator_of_the_registry():
    assert [estimator.name for estimator in ESTIMATORS] == list(REGISTRY)
    names = [method.name for method in all_methods()]
    assert len(names) == len(set(names))


def test_a_case_is_measured_in_its_own_process_and_not_again(tmp_path):
    events = []
    wanted = job(tmp_path)
    measure_case(wanted, math.inf, events.append)
    found = {m.row: m for m in read_measurements(tmp_path)}
    assert {PLAIN, "T1T2", "HigherT1T2", "T1T2Forward"} == set(found)
    assert found[PLAIN].own_steps == ["two plain steps"]
    assert found["T1T2"].memory_ratio > 1 and found[PLAIN].memory_ratio == 1
    assert wanted.pending() == [] and wanted.spent() > 0

    # What is missing is made again, and nothing else.
    path = measurement_path(tmp_path, POINT, "T1T2", False)
    path.unlink()
    assert [row.name for row in wanted.pending()] == ["T1T2"]
    kept = measurement_path(tmp_path, POINT, "HigherT1T2", False).read_text()
    measure_case(wanted, math.inf, events.append)
    assert wanted.pending() == []
    assert measurement_path(tmp_path, POINT, "HigherT1T2", False).read_text() == kept
    # Other settings are another measurement.
    assert len(job(tmp_path, settings=SETTINGS.model_copy(update={"threads": 2})).pending()) == 4


def test_a_process_ended_by_the_system_is_a_row_that_does_not_fit(tmp_path):
    measure_case(job(tmp_path, "deadly", words=("greedy", "T1T2Forward")), math.inf, lambda e: None)
    found = {m.row: m.outcome for m in read_measurements(tmp_path)}
    assert found == {PLAIN: "measured", "greedy": "does not fit", "T1T2Forward": "measured"}


def test_a_network_that_does_not_fit_is_a_result(tmp_path):
    measure_case(job(tmp_path, "too large", words=("HigherT1T2",)), math.inf, lambda e: None)
    assert {m.outcome for m in read_measurements(tmp_path)} == {"does not fit"}


def test_without_time_only_what_is_always_measured_is(tmp_path):
    left_out = []

    def tell(event):
        if event.kind == "left out":
            left_out.append(event.row.name)

    measure_case(job(tmp_path, words=("T1T2", "two")), 0.0, tell)
    assert {m.row for m in read_measurements(tmp_path)} == {PLAIN, "T1T2"}
    assert set(left_out) == {"two plain steps", "HigherT1T2", "T1T2Forward"}


def test_time_is_dealt_out_and_what_is_left_over_goes_on(tmp_path):
    jobs = [job(tmp_path, x) for x in ("one place", "deadly", "too large")]
    now = [100.0]
    shares = allowances(jobs, 80.0, lambda: now[0])
    assert next(shares) == 48.0  # the first case of an experiment counts three times
    now[0] += 10
    assert next(shares) == 35.0
    now[0] += 60
    assert next(shares) == 10.0
    assert list(allowances(jobs, math.inf, lambda: 0.0)) == [math.inf] * 3


MUTATIONS = [
    {"kind": "else"}, {"point": {}}, {"point": {"experiment": "a", "figure": "b", "x": "c"}},
    {"method": "T1T2Forward"}, {"method": ""}, {"compiled": True}, {"compiled": None},
    {"settings": {"size": "small"}}, {"outcome": "refused"}, {"outcome": "late"},
    {"reason": "why"}, {"reason": None}, {"seconds": [1.0]}, {"seconds": [0.0, 1.0]},
    {"seconds": []}, {"seconds": [float("nan"), 1.0]}, {"seconds": {}}, {"plain_seconds": [1.0]},
    {"plain_seconds": [-1.0, 1.0]}, {"peak_bytes": -1}, {"peak_bytes": None}, {"peak_bytes": 1.5},
    {"plain_peak_bytes": None}, {"parameters": 0}, {"hyperparameters": -1}, {"parameters": "many"},
    {"own_steps": None}, {"own_steps": [1]}, {"wall_seconds": -1.0}, {"provenance": None},
    {"unknown": 1},
]  # fmt: skip


@pytest.fixture
def measured(tmp_path):
    whole = Measurement(
        point=POINT, method="T1T2", compiled=False, settings=SETTINGS, outcome="measured",
        seconds=[1.0, 2.0], plain_seconds=[1.0, 1.0], peak_bytes=5, plain_peak_bytes=4,
        resident_bytes=3, parameters=2, hyperparameters=1,
    )  # fmt: skip
    path = write_measurement(whole, tmp_path)
    assert read_measurements(tmp_path) == [whole]
    return path


@pytest.mark.parametrize("change", MUTATIONS, ids=str)
def test_a_changed_measurement_is_refused(tmp_path, measured, change):
    document = json.loads(measured.read_text()) | change
    del document["sha256"]  # its consistency alone gives it away
    measured.write_text(json.dumps(document))
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        read_measurements(tmp_path)
    assert "\n" not in str(caught.value)


def test_memory_errors_are_told_from_others():
    with pytest.raises(RuntimeError) as short:
        torch.empty(2**60, dtype=torch.int8)
    assert is_memory_error(short.value) and is_memory_error(MemoryError())
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_memory_error(other.value)


def test_rows_begin_with_what_is_always_measured(tmp_path):
    rows = job(tmp_path, words=()).rows(["own", "T1T2Forward"])
    assert rows[0] == Row(PLAIN)
    assert [row.name for row in rows[1:5]] == ["EvoGrad, K = 2", "T1T2", "own", "T1T2Forward"]
    assert next(row for row in rows if row.name == "T1T2Forward").method is None
    compiled = [r.name for r in job(tmp_path, words=(), compiled=True).rows([]) if r.compiled]
    assert compiled == [PLAIN, "EvoGrad, K = 2", "T1T2", "FiniteDifference"]
