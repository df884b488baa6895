"""The study end to end on a problem with closed forms, and on both experiments' problems."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.fidelity_study.measuring import OPTIONS, Bench, measure_snapshot, settings
from common.fidelity_study.report import draw
from common.fidelity_study.snapshots import (
    PlannedSnapshot,
    Snapshot,
    parameters_later,
    train_until,
)
from common.hypergrad.compare import cast
from common.reporting.records import save
from metaweightnet.data import Batch
from metaweightnet.models import ResNet, VNet
from metaweightnet.studies import SharedTrunk, VmappedCandidates, last_stages
from metaweightnet.train import MetaWeightProblem
from rotation.config import PRESETS
from scripts.fidelity import main
from tests.common.hypergrad.problems import Quadratic

TINY = replace(OPTIONS["smoke"], draws=4, candidates=(2, 4), brief_candidates=(2,))


class Typed(Quadratic):
    """The quadratic in a floating type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(direct=False)
        for name in ("A", "C", "B", "b", "t", "d"):
            setattr(self, name, getattr(self, name).to(dtype))


def quadratic_snapshot() -> Snapshot:
    problem = Quadratic(direct=False)
    return Snapshot(
        problem=Typed,
        params=cast(problem.params, torch.float32),
        hyper=cast(problem.hyper, torch.float32),
        readings={"": [(b.float(), None) for b in problem.batches(2)]},
        inner_lr=0.1,
        noise_prediction="",
        parts={"right": lambda name: name == "right"},
        later=lambda counts: iter([(problem.params, problem.hyper)] * len(counts)),
    )


def test_the_reference_is_the_closed_form():
    moment, bench = quadratic_snapshot(), Bench(quadratic_snapshot())
    problem = Typed(torch.float64)
    problem.params, problem.hyper = cast((moment.params, moment.hyper), torch.float64)
    for (batch, _), exact in zip(moment.paper_pairs, bench.exact, strict=True):
        theta, mixed = problem.vector(problem.params), problem.mixed(problem.vector(problem.params))
        moved = theta - 0.1 * (problem.inner_grad(theta) - batch.double())
        torch.testing.assert_close(exact, -0.1 * (moved - problem.t) @ mixed)


def test_estimators_without_noise_come_near_and_small_precision_does_not():
    bench, found = Bench(quadratic_snapshot()), {}
    for setting in settings(quadratic_snapshot(), TINY, brief=False):
        found[setting.series, setting.x] = bench.row(setting)
    assert found["finite difference", 0.01]["cosine"] > 0.999
    assert found["finite difference", 0.01]["gain"] == pytest.approx(1, abs=0.01)
    assert found["K", 2]["cosine"] < 0.999
    assert found["K", 2] | {"series": "tau", "x": 0.05} == found["tau", 0.05]
    # The same draws: differences are off by sigma^2 and rounding, one side by the radius.
    for kind, setting in (("by differences", ("K", 2)), ("one at theta, by differences", None)):
        expected = found[setting or ("kind", "one at theta")]["gain"]
        assert found["kind", kind]["gain"] == pytest.approx(expected, abs=0.02)
    one_sided, both = (found[name, 0.01] for name in ("along g, one-sided", "along g"))
    assert one_sided["cosine"] == pytest.approx(both["cosine"], abs=0.01)


def test_a_record_has_its_tables_and_figures(tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    for experiment in ("rotation", "metaweightnet"):
        for stage in ("start", "end"):
            planned = PlannedSnapshot(experiment, "stage", stage, quadratic_snapshot)
            parts: list[float] = []
            record = measure_snapshot(
                planned, TINY, lambda _, part, parts=parts: parts.append(part),
                preset="smoke", provenance={},
            )  # fmt: skip
            assert parts == sorted(parts) and parts[-1] == 1
            assert record.staleness[1].cosine == pytest.approx(1)
            assert bool(record.costs) == (stage == "end")
            save(record, records / f"{record.name}.json")
    tables, figures = draw(records, tmp_path)
    for stem in ("summary", "settings", "precision", "sizes", "staleness", "variants-rotation"):
        assert (tmp_path / f"{stem}.tex").exists()
    assert len(figures) == 4 and all(figure.path_pdf.exists() for figure in figures)
    summary = (tmp_path / "summary.md").read_text()
    assert "EvoGrad, K = 2 |" in summary and "held" not in summary
    assert len(tables) == 7


class Counting:
    """A task whose only state is a number that each step raises."""

    steps_per_epoch = 10

    def __init__(self) -> None:
        self.value = torch.zeros(())
        self.state = {"count": self}

    def state_dict(self):
        return {"value": self.value.clone()}

    def load_state_dict(self, state):
        self.value = state["value"].clone()

    def steps(self, epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(self.steps_per_epoch):
            self.value = self.value + 1
            yield {"value": self.value}

    def evaluate(self, epoch):
        return {"value": self.value.item()}


def test_looking_ahead_leaves_the_training_where_it_was():
    task = Counting()
    later = parameters_later(task, 1, lambda: ({"a": task.value}, {}))
    assert [params["a"].item() for params, _ in later((1, 2, 5))] == [1, 2, 5]
    assert task.value.item() == 0


def test_training_continues_forwards_and_starts_again_to_go_back(tmp_path):
    config = PRESETS["smoke"]
    for epochs in (2, 3, 1):  # each in a new process, as it were
        task = Counting()
        train_until(task, epochs, tmp_path / "run", config)
        assert task.value.item() == 10 * epochs


@pytest.mark.parametrize("kind", [VmappedCandidates, SharedTrunk])
@pytest.mark.parametrize("held", [False, True])
def test_candidates_that_share_work_have_the_losses_of_a_loop(kind, held):
    torch.manual_seed(0)
    network, vnet = ResNet(8).double(), VNet(7).double()
    images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.randint(10, (6,))
    batch = Batch(images, labels, torch.rand(6, dtype=torch.float64) if held else None)
    stacked = {}
    for name, parameter in network.named_parameters():
        stacked[name] = parameter.detach().expand(3, *parameter.shape)
        if kind is VmappedCandidates or last_stages(name):
            stacked[name] = stacked[name] + 0.05 * torch.randn(stacked[name].shape).double()
    hyper = dict(vnet.named_parameters())
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    found = kind(network, vnet).inner_losses(stacked, hyper, batch)
    problem = MetaWeightProblem(network, vnet)
    expected = [
        problem.inner_loss({n: t[k] for n, t in stacked.items()}, hyper, batch) for k in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(expected))
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(UserError, match="--preset huge is unknown"):
        main(["--preset", "huge", "--output", str(tmp_path)])
