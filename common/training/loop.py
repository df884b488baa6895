"""The one training loop: progress, metrics, a checkpoint every epoch, exact resume."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from common.training.checkpoints import (
    CHECKPOINT,
    checkpoint_threads,
    damaged,
    load_checkpoint,
    save_checkpoint,
)
from common.training.device import cpu_threads
from common.training.metrics_log import MetricsLog
from common.training.processes import is_first
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
    started again ends with the same numbers; it computes with the CPU threads it began with.
    ``settings`` are those that decide the result. Raises UserError for a checkpoint that is
    damaged, belongs to other settings or does not fit the task.
    """
    checkpoint = directory / CHECKPOINT
    saved = load_checkpoint(checkpoint, settings)
    history = History() if saved is None else _take_up(task, saved, epochs, checkpoint)
    done = len(history.epochs)
    # Metrics that only some steps have (see RunSettings.every) keep their last value.
    latest: dict[str, Any] = {n: s[-1] for n, s in history.traces.items() if n != "iteration"}
    total, start = epochs * task.steps_per_epoch, done * task.steps_per_epoch
    log = MetricsLog(directory, tensorboard, start, total)
    bar = tqdm(
        total=total,
        initial=start,
        desc=description,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        disable=not is_first(),
    )
    with cpu_threads(checkpoint_threads(checkpoint)), bar, contextlib.closing(log):
        for epoch in range(done + 1, epochs + 1):
            began = time.perf_counter()
            start = (epoch - 1) * task.steps_per_epoch
            for iteration, metrics in enumerate(task.steps(epoch), start + 1):
                latest |= metrics
                if iteration % log_every == 0 or iteration == start + task.steps_per_epoch:
                    values = {name: float(value) for name, value in latest.items()}
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
            if is_first():
                save_checkpoint(checkpoint, state, settings)
    return history


def _take_up(task: Task, saved: Mapping[str, Any], epochs: int, checkpoint: Path) -> History:
    """Puts a checkpoint's states back; UserError if one is missing or has another form."""
    try:
        history = History(saved["epochs"], saved["traces"], saved["seconds"])
        _check_history(history, epochs, task.steps_per_epoch)
        restore(task.state, saved["task"])
        restore_random_states(saved["random"])
    except Exception as error:  # whatever a part says to a state that is not its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise damaged(checkpoint, reason if len(reason) < 100 else f"{reason[:100]}...") from None
    return history


def _check_history(history: History, epochs: int, steps_per_epoch: int) -> None:
    """Raises ValueError unless every epoch up to the last one has its row, trace and time."""
    done = len(history.epochs)
    iterations = history.traces["iteration"]
    numbers = [value for row in history.epochs for value in row.values()]
    numbers += [value for series in history.traces.values() for value in series]
    whole = (
        1 <= done <= epochs
        and [row["epoch"] for row in history.epochs] == list(range(1, done + 1))
        and len(history.seconds) == done
        and all(len(series) == len(iterations) for series in history.traces.values())
        and iterations == sorted({*iterations})
        and iterations[-1] == done * steps_per_epoch
        and all(math.isfinite(value) for value in (*numbers, *history.seconds))
    )
    if not whole:
        raise ValueError("its epochs and traces are not those of the run")


def _check_finite(values: Mapping[str, float], iteration: int, epoch: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} became {value} at iteration {iteration} (epoch {epoch}): "
                "choose smaller learning rates or perturbations"
            )
