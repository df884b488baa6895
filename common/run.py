"""One run from settings to record: trained, kept when finished, continued when cut off.

A run's folder holds ``checkpoint.pt`` (written after every epoch), ``metrics.jsonl`` (a by-product:
nothing depends on it) and, in the end, ``record.json``. Each file is whole or not there, so a run
that is killed at any moment and started again ends with the numbers of one that was not.
"""

import contextlib
import io
import json
import math
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError
from common.files import locked, write_atomic
from common.reporting.records import RunRecord, collect_provenance, load, save, utc_now
from common.training.cost import Cost
from common.training.device import choose_device, configure, cpu_threads, seed_everything
from common.training.processes import count, first_before_others, is_first, together
from common.training.state import Part, random_states, restore, restore_random_states, state_of

if TYPE_CHECKING:
    from common.experiment import Experiment
    from common.settings import RunSettings

RECORD, CHECKPOINT, METRICS = "record.json", "checkpoint.pt", "metrics.jsonl"
PATIENCE = 60.0
"""Seconds to wait for another process at work on the run; a killed one may take some to end."""
_SEGMENT = ("torch", "torchvision", "numpy", "cpu", "devices", "git_commit", "git_dirty")
"""What is kept of the provenance of each process that has had a part in a run."""


class Trained(Protocol):
    """What the training loop needs."""

    state: Mapping[str, Part]
    """Everything that changes during training, by name: what a checkpoint holds."""
    steps_per_epoch: int

    def steps(self, epoch: int) -> Iterator[Mapping[str, Tensor]]:
        """Takes one training step per item; yields its metrics as scalars left on the device."""
        ...

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Metrics at the end of an epoch."""
        ...


class Task(Trained, Protocol):
    """What an experiment trains, and what goes to the record besides."""

    checksums: Mapping[str, str]
    """SHA-256 of the data and splits."""
    learner: Any
    """What holds the modules, as attributes: tests look at their modes and devices."""

    def curves(self) -> dict[str, list[float]]:
        """Series for figures, by name, as they stand after the last epoch."""
        return {}

    def measure_cost(self) -> Cost:
        """Cost of one training step; may change the task, which is not used afterwards."""
        ...


@dataclass
class History:
    """What a run has measured so far. seconds: wall time of each epoch, evaluation included.
    segments: for each process that had a part in it, its first epoch and what it computed with."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    traces: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)


def finished_record(config: "RunSettings") -> RunRecord | None:
    """The record of this run if it has one; UserError if its folder holds another run."""
    path = config.directory() / RECORD
    if config.restart or not path.exists():
        return None
    record = load(path, RunRecord)
    check_same_settings(path, record.config, config.result_settings())
    return record


def execute(experiment: "Experiment", config: "RunSettings") -> RunRecord:
    """Carries out a run, or returns the record that it has left already."""
    directory, settings = config.directory(), config.result_settings()
    with (
        together(choose_device(config.device)) as device,
        locked(directory, PATIENCE) if is_first() else contextlib.nullcontext(),
    ):
        if count() > 1 and experiment.methods[config.method].estimator is None:
            raise UserError(
                f"method {config.method} has nothing to spread over processes: start it without "
                "torchrun"
            )
        with first_before_others():
            if (record := finished_record(config)) is not None:
                if is_first():
                    print(f"finished already: {directory / RECORD}", file=sys.stderr)
                return record
            if config.restart and is_first():
                for name in (RECORD, CHECKPOINT, METRICS):
                    (directory / name).unlink(missing_ok=True)
            threads = config.threads
            if (saved := load_checkpoint(directory / CHECKPOINT, settings)) is not None:
                threads = saved["threads"]
                if config.threads not in (0, threads):
                    print(f"continued with {threads} CPU threads, as it was begun", file=sys.stderr)
            configure(threads)
            started = utc_now()
            seed_everything(config.seed)
            task = experiment.task(config, device)
        name = f"{config.experiment} {experiment.run_name(settings)}"
        history = fit(task, settings["epochs"], directory, settings, config.log_every, name)
        provenance = collect_provenance() | {
            "processes": count(),
            "device": str(device),
            "started": started,
            "finished": utc_now(),
            "wall_seconds": sum(history.seconds),
        }
        if len(history.segments) > 1:
            provenance["segments"] = history.segments
        curves, cost = task.curves(), {"seconds_per_epoch": statistics.median(history.seconds)}
        try:
            cost |= vars(task.measure_cost())
        except Exception as error:  # the further steps that it takes must not cost the run
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(f"warning: the cost of a step could not be measured ({reason})", file=sys.stderr)
            provenance["cost_failure"] = reason
        metric = experiment.best_metric
        best = max(history.epochs, key=lambda row: row[metric])  # the first of equals
        record = RunRecord(
            experiment=config.experiment,
            **{name: settings[name] for name in ("method", "seed", "preset")},
            config=settings,
            epochs=history.epochs,
            traces=history.traces,
            final={name: value for name, value in history.epochs[-1].items() if name != "epoch"},
            best={metric: {"value": best[metric], "epoch": best["epoch"]}},
            cost=cost,
            data=dict(task.checksums),
            provenance=provenance,
            curves=curves,
        )
        if is_first():
            save(record, directory / RECORD)
    return record


def fit(
    task: Trained,
    epochs: int,
    directory: Path,
    settings: Mapping[str, Any],
    log_every: int,
    description: str,
) -> History:
    """Trains for ``epochs``, continuing from the checkpoint in ``directory`` if there is one.

    Every ``log_every`` iterations the metrics go to the progress bar, ``metrics.jsonl`` and the
    history's traces (only then does the loop wait for the device); a metric that a step does not
    have keeps its last value; one that is not finite ends the run with UserError. After each epoch
    comes ``task.evaluate`` and a checkpoint with all states, random ones and the number of CPU
    threads included. Raises UserError for a checkpoint that is damaged, belongs to other
    ``settings`` (those that decide the result) or does not fit the task.
    """
    checkpoint, log = directory / CHECKPOINT, directory / METRICS if is_first() else None
    saved, history = load_checkpoint(checkpoint, settings), History()
    if saved is not None:
        try:
            restore(task.state, saved["task"])
            restore_random_states(saved["random"])
            history = History(**{f.name: saved[f.name] for f in fields(History)})
        except Exception as error:  # whatever a part says to a state that is not its own
            raise _damaged(checkpoint, error) from None
    done, per_epoch = len(history.epochs), task.steps_per_epoch
    segment = {name: value for name, value in collect_provenance().items() if name in _SEGMENT}
    if not history.segments or not segment.items() <= history.segments[-1].items():
        history.segments.append(segment | {"epoch": done + 1})
    latest: dict[str, Any] = {n: s[-1] for n, s in history.traces.items() if n != "iteration"}
    taken, total = done * per_epoch, epochs * per_epoch

    def write(text: str, anew: bool = False) -> None:
        """To metrics.jsonl; what prevents it is told once and stops nothing."""
        nonlocal log
        try:
            if log is not None and anew:
                write_atomic(log, text)
            elif log is not None:
                with log.open("a") as file:
                    file.write(text)
        except OSError as error:
            print(f"warning: metrics are not logged ({error})", file=sys.stderr)
            log = None

    def note(kind: str, iteration: int, epoch: int, values: Mapping[str, float]) -> None:
        """A line of metrics.jsonl; UserError for a metric that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} became {value} at iteration {iteration} (epoch {epoch}): "
                    "choose smaller learning rates or perturbations"
                )
        line = {"kind": kind, "iteration": iteration, "epoch": epoch, **values}
        write(json.dumps(line) + "\n")

    # Lines of an epoch that was cut off are written again by the resumed run.
    kept = [n for n in metrics_lines(directory / METRICS) if n["iteration"] <= taken]
    lines = [{"kind": "start", "iteration": taken, "total": total}]
    lines += [line for line in kept if line["kind"] != "start"]
    write("".join(json.dumps(line) + "\n" for line in lines), anew=True)
    bar = tqdm(
        desc=description, initial=taken, total=total, unit="step", mininterval=0.5,
        dynamic_ncols=True, disable=None if is_first() else True,  # None: unless at a terminal
    )  # fmt: skip
    with cpu_threads(saved["threads"] if saved else None), bar:
        for epoch in range(done + 1, epochs + 1):
            began, last = time.perf_counter(), epoch * per_epoch
            for iteration, metrics in enumerate(task.steps(epoch), last - per_epoch + 1):
                latest |= metrics
                if iteration % log_every == 0 or iteration == last:
                    values = {name: float(value) for name, value in latest.items()}
                    note("step", iteration, epoch, values)
                    for name, value in {"iteration": iteration, **values}.items():
                        history.traces.setdefault(name, []).append(value)
                    bar.set_postfix({n: f"{v:.4g}" for n, v in values.items()}, refresh=False)
                bar.update()
            row = {"epoch": epoch, **task.evaluate(epoch)}
            note("epoch", last, epoch, row)
            history.epochs.append(row)
            history.seconds.append(time.perf_counter() - began)
            if is_first():
                state = {"task": state_of(task.state), "random": random_states()}
                save_checkpoint(checkpoint, state | vars(history), settings)
    return history


def save_checkpoint(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes tensors and plain values, with the settings they belong to and the number of CPU
    threads, which decides the last digits of every number after it; in one step. Raises OSError."""
    content = {"settings": dict(settings), "threads": torch.get_num_threads(), "state": dict(state)}
    archive = io.BytesIO()  # written to a file itself, torch hides why the system refuses
    torch.save(content, archive)
    write_atomic(path, archive.getbuffer())


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state saved at ``path``, with ``threads``; None if there is none. Raises UserError if
    the file is damaged or belongs to other settings."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # as which torch writes it, with CRCs
            if (member := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {member} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = content["settings"], {**content["state"], "threads": content["threads"]}
    except Exception as error:  # a file that something else has written
        raise _damaged(path, error) from None
    check_same_settings(path, saved, settings)
    return state


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"{path} is not a readable checkpoint ({reason[:100]}): "
        "delete it, or add --restart, to begin the run again"
    )


def check_same_settings(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError that names the settings in which a file's run differs from this one."""
    from common.settings import flat

    old, new = flat(saved), flat(wanted)
    if differing := sorted(n for n in {*old, *new} if old.get(n) != new.get(n)):
        changes = ", ".join(f"{n}: {old.get(n)}, now {new.get(n)}" for n in differing)
        raise UserError(
            f"{path} belongs to other settings ({changes}): "
            "choose another --run-dir, or add --restart to begin anew"
        )


def metrics_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; damaged ones are passed over. The first has kind "start",
    with the iteration a run began or was taken up at and the total; the others "step" or "epoch",
    with iteration, epoch and metrics."""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                found = json.loads(line)
                if "kind" in found and 0 <= found["iteration"] < 2**63:
                    yield found


def progress(directory: Path) -> float:
    """Which part of a run is done, 0 to 1, from its metrics.jsonl."""
    lines = list(metrics_lines(directory / METRICS))
    total = lines[0].get("total") if lines else None
    return min(1.0, lines[-1]["iteration"] / total) if total else 0.0
