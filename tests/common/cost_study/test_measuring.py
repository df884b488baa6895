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
from common.cost_study.measuring import CaseMeter, Rounds
from common.cost_study.methods import METHODS, PLAIN, reason_to_exclude
from common.cost_study.records import (
    Measurement,
    Point,
    Settings,
    measurement_path,
    read_measurements,
    write_measurement,
)
from common.cost_study.running import Job, is_memory_error, measure_case
from common.errors import UserError
from common.estimators import ESTIMATORS as REGISTRY

CPU = torch.device("cpu")
POINT = Point(experiment="somewhere", figure="A figure", x="one place")
SETTINGS = Settings(size="small", device="cpu", threads=1)
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
        inner_lr=0.1,
        steps={"two plain steps": lambda: (train(), train())},
    )
    return replace(case, **changes)


def build_deadly(device: torch.device) -> CostProblem:
    """Whose own step is what the system does to a process that takes too much memory."""
    return build(device, steps={"greedy": lambda: os.kill(os.getpid(), signal.SIGKILL)})


def build_too_large(device: torch.device) -> CostProblem:
    return build(device, plain_step=lambda: torch.empty(2**55, dtype=torch.int8))


def cases(size):
    return [
        CostCase("A figure", "one place", build, own_steps=("two plain steps",)),
        CostCase("A figure", "deadly", build_deadly, own_steps=("greedy",)),
        CostCase("A figure", "too large", build_too_large),
        CostCase("A figure", "main", build, all_methods=False),
    ]


def job(folder: Path, x: str = "one place", **changes) -> Job:
    point = POINT.model_copy(update={"x": x})
    return replace(Job(point, cases, SETTINGS, folder, "cpu", QUICK, ("T1T2",)), **changes)


@pytest.fixture
def meter() -> CaseMeter:
    return CaseMeter(build(CPU), CPU)


def find(name: str):
    return next(m for m in METHODS if m.name == name)


def measure(meter: CaseMeter, name: str) -> dict:
    method = None if name in (PLAIN, *meter.case.steps) else find(name)
    return meter.measure(name, method, False, QUICK)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
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


def test_rounds_fill_the_time_within_their_bounds():
    rounds = Rounds(seconds=3.0, least=3, most=30)
    assert [rounds.number(s) for s in (10.0, 0.5, 0.001)] == [3, 6, 30]


def test_cases_exclude_by_any_name_of_a_method():
    case = build(CPU, excluded={"t1t2_forward": "a", "EvoGrad graph": "b", "EvoGrad, K = 4": "c"})
    reasons = {m.name: reason_to_exclude(m, case) for m in METHODS}
    assert reasons["T1T2Forward"] == "a" and reasons["T1T2"] is None
    assert reasons["EvoGrad graph, K = 2"] == reasons["EvoGrad graph, K = 16"] == "b"
    assert reasons["EvoGrad, K = 4"] == "c" and reasons["EvoGrad, K = 2"] is None


def test_every_estimator_of_the_registry_is_measured_by_its_own_settings():
    assert list(dict.fromkeys(m.estimator for m in METHODS)) == list(REGISTRY)
    names = [method.name for method in METHODS]
    assert len(names) == len(set(names))
    made = {m.name: m.make(build(CPU)) for m in METHODS}
    assert made["EvoGrad forward, K = 16"].num_candidates == 16
    assert made["EvoGrad forward, K = 16"].mode == "forward"
    assert made["Reversible, 4 steps"].steps == 4 and made["T1T2"].inner_lr == 0.1
    assert made["LayerSampled, last layer"].layers == ["2"]


def measured_rows(folder: Path, wanted: Job) -> dict[str, Measurement]:
    measure_case(wanted, lambda row, done: None)
    assert wanted.pending() == []
    return {m.row: m for m in read_measurements(folder)}


def test_a_case_is_measured_in_its_own_process_and_not_again(tmp_path):
    wanted = job(tmp_path)
    found = measured_rows(tmp_path, wanted)
    assert {PLAIN, "T1T2", "HigherT1T2", "T1T2Forward", "T1T2MixedMode"} == set(found)
    assert found["T1T2"].memory_ratio > 1 and found["T1T2"].wall_seconds > 0
    assert found[PLAIN].time_ratio == found[PLAIN].memory_ratio == 1
    assert found["T1T2"].provenance["torch_threads"] == 1

    # What is missing is made again, and nothing else.
    measurement_path(tmp_path, POINT, "T1T2", False).unlink()
    assert [row.name for row in wanted.pending()] == ["T1T2"]
    kept = measurement_path(tmp_path, POINT, "HigherT1T2", False).read_text()
    measured_rows(tmp_path, wanted)
    assert measurement_path(tmp_path, POINT, "HigherT1T2", False).read_text() == kept
    # Other settings are another measurement.
    other = job(tmp_path, settings=SETTINGS.model_copy(update={"threads": 2}))
    assert len(other.pending()) == 5


def test_a_process_ended_by_the_system_is_a_row_that_does_not_fit(tmp_path):
    found = measured_rows(tmp_path, job(tmp_path, "deadly", words=("greedy", "T1T2Forward")))
    outcomes = {row: m.outcome for row, m in found.items()}
    assert outcomes == {PLAIN: "measured", "greedy": "does not fit", "T1T2Forward": "measured"}


def test_a_network_that_does_not_fit_is_a_result(tmp_path):
    found = measured_rows(tmp_path, job(tmp_path, "too large", words=("HigherT1T2",)))
    assert {m.outcome for m in found.values()} == {"does not fit"} and len(found) == 2


def test_the_size_fixes_which_rows_there_are(tmp_path):
    names = [row.name for row in job(tmp_path, words=()).rows()]
    assert names == [PLAIN, "two plain steps", *(m.name for m in METHODS)]
    main = [row.name for row in job(tmp_path, "main", words=()).rows()]
    assert main == [PLAIN, *(m.name for m in METHODS if m.main)]
    assert {"EvoGrad, K = 2", "T1T2", "HigherT1T2", "EvoGradAlongGradient"} < set(main)
    compiled = [str(r) for r in job(tmp_path, words=(), compiled=True).rows() if r.compiled]
    assert compiled == [f"{n}, compiled" for n in (PLAIN, "EvoGrad, K = 2", "FiniteDifference",
                                                   "T1T2")]  # fmt: skip


MUTATIONS = [
    {"kind": "else"}, {"point": {}}, {"point": {"experiment": "a", "figure": "b", "x": "c"}},
    {"method": "T1T2Forward"}, {"method": ""}, {"compiled": True}, {"compiled": None},
    {"settings": {"size": "small"}}, {"outcome": "refused"}, {"outcome": "late"},
    {"reason": "why"}, {"reason": None}, {"seconds": [1.0]}, {"seconds": [0.0, 1.0]},
    {"seconds": []}, {"seconds": [float("nan"), 1.0]}, {"seconds": {}}, {"plain_seconds": [1.0]},
    {"plain_seconds": [-1.0, 1.0]}, {"peak_bytes": -1}, {"peak_bytes": None}, {"peak_bytes": 1.5},
    {"plain_peak_bytes": None}, {"parameters": 0}, {"hyperparameters": -1}, {"parameters": "many"},
    {"wall_seconds": -1.0}, {"provenance": None},
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
