"""The training loop: exact resume, metrics, refusals."""

import errno
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.training import (
    EndlessBatches,
    EpochBatches,
    checkpoint_threads,
    fit,
    load_checkpoint,
    metrics_lines,
    new_generator,
    progress,
    save_checkpoint,
    seed_everything,
)
from common.training.device import cpu_threads

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


def test_one_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.arange(50.0)}, SETTINGS)
    whole = path.read_bytes()
    for position in {*range(0, len(whole), 11), *range(len(whole) - 100, len(whole))}:
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"checkpoint\.pt is not a readable checkpoint"):
            load_checkpoint(path, SETTINGS)
    path.write_bytes(whole)
    assert load_checkpoint(path, SETTINGS)["weights"].tolist() == list(range(50))
    # The seal at its end is no obstacle to torch.
    assert torch.load(path, weights_only=True)["settings"] == SETTINGS


def _without(name):
    return lambda state: state.pop(name)


MUTATIONS = {
    "no parts": _without("task"),
    "no random states": _without("random"),
    "no epochs": _without("epochs"),
    "no traces": _without("traces"),
    "no times": _without("seconds"),
    "a part missing": lambda s: s["task"].pop("endless"),
    "a part too many": lambda s: s["task"].update(more={}),
    "a weight missing": lambda s: s["task"]["net"].pop("0.bias"),
    "a weight too long": lambda s: s["task"]["net"].update({"0.bias": torch.zeros(9)}),
    "a momentum too long": lambda s: s["task"]["optimizer"]["state"][0].update(
        momentum_buffer=torch.zeros(3)
    ),
    "no learning rate": lambda s: s["task"]["optimizer"]["param_groups"][0].pop("lr"),
    "an order too short": lambda s: s["task"]["endless"].update(order=torch.arange(3)),
    "an order twice": lambda s: s["task"]["endless"].update(order=torch.zeros(11).long()),
    "a position too far": lambda s: s["task"]["endless"].update(position=99),
    "a generator too short": lambda s: s["task"]["batches"]["generator"].resize_(7),
    "a random state too short": lambda s: s["random"]["torch"].resize_(7),
    "an epoch too many": lambda s: s["epochs"].append(s["epochs"][-1]),
    "more epochs than planned": lambda s: s.update(epochs=s["epochs"] * 9),
    "an epoch that is no row": lambda s: s.update(epochs=[3, 4]),
    "a trace too short": lambda s: s["traces"]["loss"].pop(),
    "traces too long": lambda s: [series.append(99) for series in s["traces"].values()],
    "a trace that is not finite": lambda s: s["traces"]["loss"].__setitem__(0, math.nan),
    "a time too few": lambda s: s["seconds"].pop(),
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
    assert checkpoint_threads(tmp_path / "checkpoint.pt") == 2
    assert checkpoint_threads(tmp_path / "missing.pt") is None


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1}, SETTINGS)

    class FullDisk(io.BytesIO):
        """Room for 1000 bytes."""

        def write(self, data):
            if self.tell() + len(data) > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

        def fileno(self):
            return 0

    monkeypatch.setattr(Path, "open", lambda *_: FullDisk())
    with pytest.raises(OSError, match="No space left on device") as refused:
        save_checkpoint(path, {"weights": torch.zeros(10_000)}, SETTINGS)
    monkeypatch.undo()
    assert refused.value.filename == str(path)
    assert load_checkpoint(path, SETTINGS) == {"value": 1}


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


def test_damaged_lines_of_the_metrics_are_passed_over(tmp_path):
    whole = {"kind": "step", "iteration": 3}
    damaged = [b'{"kind": "st', b"3", b"null", b'{"kind": "step"}', b"\xff\xfe", b"[" * 9999, b""]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*damaged, json.dumps(whole).encode(), *damaged]))
    assert list(metrics_lines(path)) == [whole]
    assert list(metrics_lines(tmp_path / "missing.jsonl")) == []
    assert progress(tmp_path) == 0


@pytest.mark.parametrize("total", ["0", "-3", '"many"', "null", "[]"])
def test_progress_is_unknown_where_the_total_is_damaged(total, tmp_path):
    start = f'{{"kind": "start", "iteration": 0, "total": {total}}}'
    (tmp_path / "metrics.jsonl").write_text(start + '\n{"kind": "step", "iteration": 5}\n')
    assert progress(tmp_path) == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_by_products_that_cannot_be_written_do_not_stop_a_run(name, tmp_path, capsys):
    whole = train(tmp_path / "whole")
    other = {"metrics.jsonl": Path.mkdir, "tensorboard": Path.touch}[name]
    (tmp_path / "cut").mkdir()
    other(tmp_path / "cut" / name)
    seed_everything(3)
    history = fit(NoisyRegression(), 4, tmp_path / "cut", SETTINGS, 2, "test", tensorboard=True)
    assert (history.epochs, history.traces) == (whole.epochs, whole.traces)
    assert capsys.readouterr().err.count("warning: metrics are not logged") == 1
