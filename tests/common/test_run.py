"""A run: exact resume, metrics, refusals, and that it leaves its record whatever happens."""

import errno
import io
import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from common import run
from common.errors import UserError
from common.run import fit, load_checkpoint, metrics_lines, progress, save_checkpoint
from common.training import EndlessBatches, EpochBatches, new_generator, seed_everything
from common.training.device import cpu_threads
from rotation.config import EXPERIMENT
from tests.experiments import small_settings

SETTINGS = {"seed": 3, "rate": 0.1}


class Killed(BaseException):
    """Stands for a kill in the middle of a step."""


class NoisyRegression:
    """Momentum SGD with dropout, drawing from every generator there is."""

    def __init__(self, kill_at: int | None = None, poison_at: int | None = None) -> None:
        self.kill_at, self.poison_at, self.taken = kill_at, poison_at, 0
        data = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(40, 5, generator=data), torch.randn(40, generator=data)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.05, momentum=0.9)
        self.batches = EpochBatches(40, 7, new_generator(3, "batches"), torch.device("cpu"))
        self.endless = EndlessBatches(11, 4, new_generator(3, "endless"), torch.device("cpu"))
        names = ("net", "optimizer", "batches", "endless")
        self.state = {name: getattr(self, name) for name in names}
        self.steps_per_epoch = len(self.batches)
        self.checksums = {}

    def steps(self, epoch):
        for index in self.batches.epoch():
            if self.taken == self.kill_at:
                raise Killed
            other = self.endless.next()
            noise = float(np.random.normal())  # noqa: NPY002
            error = self.net(self.x[index])[:, 0] - self.y[index] + 0.01 * noise
            loss = error.square().mean() + self.net(self.x[other]).square().mean()
            if self.taken == self.poison_at:
                loss = loss * math.nan
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.taken += 1
            yield {"loss": loss.detach()}

    def evaluate(self, epoch):
        return {"weight": self.net[0].weight.norm().item()}


def train(folder, epochs=4, **task):
    seed_everything(3)
    torch.manual_seed(3)
    return fit(NoisyRegression(**task), epochs, folder, SETTINGS, 2, "test")


@pytest.mark.parametrize("kill_at", [3, 6, 17])
def test_a_killed_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path, kill_at):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", kill_at=kill_at)
    seed_everything(12345)  # the resumed process begins with whatever states
    resumed = fit(NoisyRegression(), 4, tmp_path / "cut", SETTINGS, 2, "test")
    if kill_at < 6:  # before the first checkpoint: begun anew, so seeded anew by the caller
        resumed = train(tmp_path / "anew")
    assert resumed.epochs == whole.epochs
    assert resumed.traces == whole.traces
    assert len(resumed.seconds) == 4
    if kill_at >= 6:
        kept, expected = (
            list(metrics_lines(tmp_path / name / "metrics.jsonl"))[1:] for name in ("cut", "whole")
        )
        assert kept == expected


def test_history_and_metrics_file_hold_the_same(tmp_path):
    history = train(tmp_path)
    lines = list(metrics_lines(tmp_path / "metrics.jsonl"))
    assert lines[0] == {"kind": "start", "iteration": 0, "total": 24} and progress(tmp_path) == 1
    steps = [line for line in lines if line["kind"] == "step"]
    assert [s["iteration"] for s in steps] == history.traces["iteration"] == list(range(2, 25, 2))
    assert [s["loss"] for s in steps] == history.traces["loss"]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match=r"loss became nan at iteration 6 \(epoch 1\)"):
        train(tmp_path, poison_at=4)
    assert not (tmp_path / "checkpoint.pt").exists()


class Evil:
    """What would run code when it is loaded."""

    def __reduce__(self):
        return (print, ("owned",))


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.arange(50.0)}, SETTINGS)
    whole, refused = path.read_bytes(), 0
    evil = io.BytesIO()
    torch.save({"settings": SETTINGS, "state": Evil()}, evil)
    for content in (whole[: len(whole) // 2], b"", b"junk", evil.getvalue()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint\.pt is not a readable checkpoint"):
            load_checkpoint(path, SETTINGS)
    for position in range(0, len(whole), 23):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            state = load_checkpoint(path, SETTINGS)
        except UserError as error:
            assert "checkpoint.pt is not a readable checkpoint" in str(error)
            refused += 1
        else:  # padding, times
            assert state is not None and state["weights"].tolist() == list(range(50))
    assert refused > len(whole) / 23 / 2


MUTATIONS = {
    "no random states": lambda s: s.pop("random"),
    "no times": lambda s: s.pop("seconds"),
    "a part missing": lambda s: s["task"].pop("endless"),
    "a weight too long": lambda s: s["task"]["net"].update({"0.bias": torch.zeros(9)}),
    "a generator too short": lambda s: s["task"]["batches"]["generator"].resize_(7),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_checkpoint_of_another_form_is_refused(mutation, tmp_path):
    train(tmp_path, epochs=2)
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path, SETTINGS)
    MUTATIONS[mutation](state)
    save_checkpoint(path, state, SETTINGS)
    with pytest.raises(UserError, match=r"checkpoint\.pt is not a readable checkpoint") as refused:
        train(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_continued_run_computes_with_the_threads_it_began_with(tmp_path):
    seen = []

    class Watched(NoisyRegression):
        def evaluate(self, epoch):
            seen.append(torch.get_num_threads())
            return super().evaluate(epoch)

    with cpu_threads(2):
        fit(Watched(), 2, tmp_path, SETTINGS, 2, "test")
    with cpu_threads(1):
        fit(Watched(), 3, tmp_path, SETTINGS, 2, "test")
        assert torch.get_num_threads() == 1
    assert seen == [2, 2, 2]
    assert load_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)["threads"] == 2


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1}, SETTINGS)

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device") as refused:
        save_checkpoint(path, {"weights": torch.zeros(10_000)}, SETTINGS)
    assert refused.value.filename == str(path)
    assert load_checkpoint(path, SETTINGS)["value"] == 1


def test_damaged_lines_of_the_metrics_are_passed_over(tmp_path):
    whole = {"kind": "step", "iteration": 3}
    damaged = [b'{"kind": "st', b"3", b"null", b'{"kind": "step"}', b"\xff\xfe", b"[" * 9999, b""]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*damaged, json.dumps(whole).encode(), *damaged]))
    assert list(metrics_lines(path)) == [whole]
    assert list(metrics_lines(tmp_path / "missing.jsonl")) == []
    assert progress(tmp_path) == 0


def test_metrics_that_cannot_be_written_do_not_stop_a_run(tmp_path, capsys):
    whole = train(tmp_path / "whole")
    (tmp_path / "cut" / "metrics.jsonl").mkdir(parents=True)
    history = train(tmp_path / "cut")
    assert (history.epochs, history.traces) == (whole.epochs, whole.traces)
    assert capsys.readouterr().err.count("warning: metrics are not logged") == 1


def small_run(folder, **changes):
    return small_settings("rotation", run_dir=folder, **changes)


def test_costs_that_cannot_be_measured_do_not_cost_the_run(tmp_path, monkeypatch):
    from rotation.train import RotationTask

    # A training set smaller than a batch, and than the meta set, has its cost.
    config = small_run(tmp_path / "small", train_size=100, meta_size=500, epochs=1)
    assert EXPERIMENT.run(config).cost["seconds"] > 0

    def fail(self):
        raise ValueError("no such step")

    monkeypatch.setattr(RotationTask, "measure_cost", fail)
    record = EXPERIMENT.run(small_run(tmp_path, epochs=1))
    assert set(record.cost) == {"seconds_per_epoch"}
    assert "no such step" in record.provenance["cost_failure"]


def test_a_run_that_other_versions_continue_names_them_all(tmp_path, monkeypatch):
    train(tmp_path, epochs=2)
    now = run.collect_provenance()
    monkeypatch.setattr(run, "collect_provenance", lambda: now | {"torch": "3.0"})
    segments = fit(NoisyRegression(), 4, tmp_path, SETTINGS, 2, "test").segments
    assert [(s["epoch"], s["torch"]) for s in segments] == [(1, now["torch"]), (3, "3.0")]


def test_a_meta_step_is_taken_in_the_first_step_and_every_m_th_after_it(tmp_path):
    record = EXPERIMENT.run(small_run(tmp_path, epochs=2, every=2, log_every=1))
    # Others keep the last value. 3 steps an epoch: 1, 3 | 5
    norms = record.traces["hypergradient_norm"]
    assert norms[0] == norms[1] != norms[2] == norms[3] != norms[4] == norms[5]
    assert len(set(record.traces["train_loss"])) == 6
    angles = record.traces["angle_degrees"]
    assert angles[0] == angles[1] != angles[2]


def test_several_processes_with_nothing_to_spread_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "count", lambda: 2)
    with pytest.raises(UserError, match="method baseline has nothing to spread"):
        EXPERIMENT.run(small_run(tmp_path, method="baseline"))
