"""The training loop: exact resume, metrics, refusals."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.training import (
    EndlessBatches,
    EpochBatches,
    fit,
    load_checkpoint,
    metrics_lines,
    new_generator,
    save_checkpoint,
    seed_everything,
)

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
        self.state = {
            "net": self.net,
            "optimizer": self.optimizer,
            "batches": self.batches,
            "endless": self.endless,
        }
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


@pytest.mark.parametrize("kill_at", [0, 3, 6, 8, 17, 23])
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


def test_trained_further_without_repeating_what_is_done(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", epochs=2)
    task = NoisyRegression()
    parts = fit(task, 4, tmp_path / "parts", SETTINGS, 2, "test")
    assert parts.epochs == whole.epochs
    assert task.taken == 2 * task.steps_per_epoch


def test_history_and_metrics_file_hold_the_same(tmp_path):
    history = train(tmp_path)
    lines = list(metrics_lines(tmp_path / "metrics.jsonl"))
    assert lines[0] == {"kind": "start", "iteration": 0, "total": 24}
    steps = [line for line in lines if line["kind"] == "step"]
    assert [s["iteration"] for s in steps] == history.traces["iteration"]
    assert history.traces["iteration"] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    assert [s["loss"] for s in steps] == history.traces["loss"]
    best = history.best("weight")
    assert best["value"] == max(row["weight"] for row in history.epochs)


def test_tensorboard_files_are_written_on_demand(tmp_path):
    seed_everything(3)
    fit(NoisyRegression(), 1, tmp_path, SETTINGS, 2, "test", tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match=r"loss became nan at iteration 6 \(epoch 1\)"):
        train(tmp_path, poison_at=4)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train(tmp_path, epochs=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match=r"rate 0\.1 \(asked for: 0\.2\)"):
        fit(NoisyRegression(), 2, tmp_path, {"seed": 3, "rate": 0.2}, 2, "test")
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    train(tmp_path, epochs=1)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint\.pt is not a readable checkpoint"):
        train(tmp_path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    torch.save({"settings": SETTINGS, "state": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)


def test_saving_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1}, SETTINGS)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"value": lambda: None}, SETTINGS)
    assert load_checkpoint(path, SETTINGS) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"kind": "step"}) + '\n{"kind": "st')
    assert list(metrics_lines(path)) == [{"kind": "step"}]
    assert list(metrics_lines(tmp_path / "missing.jsonl")) == []
