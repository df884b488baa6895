"""The one training loop: progress, metrics, a checkpoint every epoch, exact resume."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from common.training.checkpoints import load_checkpoint, save_checkpoint
from common.training.seeds import random_states, restore_random_states
from common.training.state import Part, restore, state_of


class Task(Protocol):
    """What an experiment gives the loop."""

    state: Mapping[str, Part]
    """Everything that changes during training, by name: what a checkpoint holds."""

    steps_per_epoch: int

    def steps(self, epoch: int) -> Iterator[Mapping[str, Tensor]]:
        """Takes one training step per item; yields its metrics as scalars left on the device."""
        ...

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Metrics at the end of an epoch."""
        ...


@dataclass
class History:
    """What a run has measured so far."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    traces: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    """Wall time of each epoch, evaluation included."""

    def best(self, metric: str) -> dict[str, float]:
        """The largest value of a metric over the epochs and the (first) epoch it was seen at."""
        top = max(self.epochs, key=lambda row: row[metric])
        return {"value": top[metric], "epoch": top["epoch"]}


def fit(
    task: Task,
    epochs: int,
    directory: Path,
    settings: Mapping[str, Any],
    log_every: int,
    description: str,
    tensorboard: bool = False,
) -> History:
    """Trains for ``epochs``, continuing from the checkpoint in ``directory`` if there is one.

    Every ``log_every`` iterations the metrics of that step go to the progress bar,
    ``metrics.jsonl`` and the history's traces (only then does the loop wait for the device); a
    value that is not finite ends the run with UserError. After each epoch comes
    ``task.evaluate`` and a checkpoint with all states, random ones included, so that a killed run
    started again ends with the same numbers. ``settings`` are those that decide the result.
    """
    checkpoint = directory / "checkpoint.pt"
    history = History()
    saved = load_checkpoint(checkpoint, settings)
    if saved is not None:
        history = History(saved["epochs"], saved["traces"], saved["seconds"])
        restore(task.state, saved["task"])
        restore_random_states(saved["random"])
    done = len(history.epochs)
    total, start = epochs * task.steps_per_epoch, done * task.steps_per_epoch
    log = _MetricsLog(directory, tensorboard, start, total)
    bar = tqdm(
        total=total,
        initial=start,
        desc=description,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
    )
    with bar, contextlib.closing(log):
        for epoch in range(done + 1, epochs + 1):
            began = time.perf_counter()
            start = (epoch - 1) * task.steps_per_epoch
            for iteration, metrics in enumerate(task.steps(epoch), start + 1):
                if iteration % log_every == 0 or iteration == start + task.steps_per_epoch:
                    values = {name: float(value) for name, value in metrics.items()}
                    _check_finite(values, iteration, epoch)
                    for name, value in {"iteration": iteration, **values}.items():
                        history.traces.setdefault(name, []).append(value)
                    log.write("step", iteration, epoch, values)
                    bar.set_postfix({n: f"{v:.4g}" for n, v in values.items()}, refresh=False)
                bar.update()
            row = {"epoch": epoch, **task.evaluate(epoch)}
            _check_finite(row, iteration, epoch)
            history.epochs.append(row)
            history.seconds.append(time.perf_counter() - began)
            log.write("epoch", iteration, epoch, row)
            state = {
                "task": state_of(task.state),
                "random": random_states(),
                "epochs": history.epochs,
                "traces": history.traces,
                "seconds": history.seconds,
            }
            save_checkpoint(checkpoint, state, settings)
    return history


def _check_finite(values: Mapping[str, float], iteration: int, epoch: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} became {value} at iteration {iteration} (epoch {epoch}): "
                "lower the learning rate, or check --sigma and --temperature"
            )


class _MetricsLog:
    """metrics.jsonl, one line per logged step and per epoch, and TensorBoard if asked for."""

    def __init__(self, directory: Path, tensorboard: bool, last_iteration: int, total: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        # Lines of an epoch that was cut off are written again by the resumed run.
        kept = [
            line
            for line in metrics_lines(path)
            if line["kind"] != "start" and line["iteration"] <= last_iteration
        ]
        self._file = path.open("w")
        for line in [{"kind": "start", "iteration": last_iteration, "total": total}, *kept]:
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(directory / "tensorboard", purge_step=last_iteration + 1)

    def write(self, kind: str, iteration: int, epoch: int, values: Mapping[str, float]) -> None:
        line = {"kind": kind, "iteration": iteration, "epoch": epoch, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, iteration)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def metrics_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; the last may have been cut off.

    The first has kind "start", with the iteration a run began or was taken up at and the total;
    the others kind "step" or "epoch", with iteration, epoch and metrics.
    """
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)
