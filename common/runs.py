"""One run from settings to record: kept when finished, continued when cut off."""

import contextlib
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from common.errors import UserError
from common.reporting import (
    RunRecord,
    collect_provenance,
    read_record,
    utc_now,
    write_record,
)
from common.settings import RunSettings
from common.training import (
    Cost,
    Task,
    check_same_settings,
    choose_device,
    configure,
    fit,
    seed_everything,
)

RECORD = "record.json"
Config = TypeVar("Config", bound=RunSettings)


class RecordedTask(Task, Protocol):
    """What ``execute`` needs beside the training loop.

    A task may also have ``curves() -> dict[str, list[float]]``: series for figures, by name, as
    they stand after the last epoch.
    """

    checksums: Mapping[str, str]
    """SHA-256 of the data and splits, for the record."""

    def measure_cost(self) -> Cost:
        """Cost of one training step; may change the task, which is not used afterwards."""
        ...


def finished_record(config: RunSettings) -> RunRecord | None:
    """The record of this run if it is finished; UserError if its folder holds another run."""
    path = config.directory() / RECORD
    if config.restart or not path.exists():
        return None
    record = read_record(path)
    check_same_settings(path, record.config, config.deciding())
    return record


def execute(
    config: Config,
    make_task: Callable[[Config, torch.device], RecordedTask],
    epochs: int,
    best_metric: str,
) -> RunRecord:
    """Carries out a run, or returns the record it has left already.

    best_metric: which metric's best epoch is recorded, beside the last epoch of all.
    """
    directory = config.directory()
    record = finished_record(config)
    if record is not None:
        print(f"finished already: {directory / RECORD}", file=sys.stderr)
        return record
    device = choose_device(config.device)
    configure(config.threads, config.tf32)
    with _only_process_in(directory):
        if config.restart:
            _clear(directory)
        started = utc_now()
        seed_everything(config.seed)
        task = make_task(config, device)
        history = fit(
            task,
            epochs,
            directory,
            config.deciding(),
            config.log_every,
            f"{config.experiment} {config.run_name()}",
            config.tensorboard,
        )
        curves = getattr(task, "curves", dict)()
        cost = task.measure_cost().as_dict()
        cost["seconds_per_epoch"] = statistics.median(history.seconds)
        final = {name: value for name, value in history.epochs[-1].items() if name != "epoch"}
        record = RunRecord(
            experiment=config.experiment,
            method=config.method,
            seed=config.seed,
            preset=config.preset,
            config=config.deciding(),
            epochs=history.epochs,
            traces=history.traces,
            final=final,
            best={best_metric: history.best(best_metric)},
            cost=cost,
            data=dict(task.checksums),
            provenance={
                **collect_provenance(),
                "device": str(device),
                "started": started,
                "finished": utc_now(),
                "wall_seconds": sum(history.seconds),
            },
            curves=curves,
        )
        write_record(record, directory / RECORD)
    return record


def _clear(directory: Path) -> None:
    for name in (RECORD, "checkpoint.pt", "metrics.jsonl"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "tensorboard", ignore_errors=True)


@contextlib.contextmanager
def _only_process_in(directory: Path) -> Iterator[None]:
    """Keeps two processes from writing the same run (where the system has file locks)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {directory}: wait for it, or use another --run-dir"
            ) from None
        yield
