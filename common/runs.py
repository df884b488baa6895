"""One run from settings to record: kept when finished, continued when cut off."""

import contextlib
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from common.experiment import Experiment
from common.files import locked
from common.reporting import (
    RunRecord,
    collect_provenance,
    load,
    save,
    utc_now,
)
from common.settings import RunSettings
from common.training import (
    CHECKPOINT,
    METRICS,
    Cost,
    Task,
    check_same_settings,
    checkpoint_threads,
    choose_device,
    configure,
    fit,
    seed_everything,
)
from common.training.processes import count, first_before_others, is_first, together

RECORD = "record.json"
PATIENCE = 60.0
"""Seconds to wait for another process that works on the same run; one that was just killed may
take some to end."""


class RecordedTask(Task, Protocol):
    """What ``execute`` needs in addition to the training loop.

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
    record = load(path, RunRecord)
    check_same_settings(path, record.config, config.result_settings())
    return record


def execute(
    experiment: Experiment,
    config: RunSettings,
) -> RunRecord:
    """Carries out a run, or returns the record that it has left already."""
    directory = config.directory()
    if (record := finished_record(config)) is not None:
        if is_first():
            print(f"finished already: {directory / RECORD}", file=sys.stderr)
        return record
    with (
        together(choose_device(config.device)) as device,
        locked(directory, patience=PATIENCE) if is_first() else contextlib.nullcontext(),
    ):
        with first_before_others():
            if (record := finished_record(config)) is not None:  # while this process waited
                return record
            if config.restart and is_first():
                _clear(directory)
            configure(_threads(config))
            started = utc_now()
            seed_everything(config.seed)
            task = experiment.task(config, device)
        history = fit(
            task,
            config.epochs,
            directory,
            config.result_settings(),
            config.log_every,
            f"{config.experiment} {config.run_name()}",
            config.tensorboard,
        )
        curves: dict[str, list[float]] = getattr(task, "curves", dict)()
        cost = task.measure_cost().as_dict()
        cost["seconds_per_epoch"] = statistics.median(history.seconds)
        final = {name: value for name, value in history.epochs[-1].items() if name != "epoch"}
        record = RunRecord(
            experiment=config.experiment,
            method=config.method,
            seed=config.seed,
            preset=config.preset,
            config=config.result_settings(),
            epochs=history.epochs,
            traces=history.traces,
            final=final,
            best={experiment.best_metric: history.best(experiment.best_metric)},
            cost=cost,
            data=dict(task.checksums),
            provenance={
                **collect_provenance(),
                "processes": count(),
                "device": str(device),
                "started": started,
                "finished": utc_now(),
                "wall_seconds": sum(history.seconds),
            },
            curves=curves,
        )
        if is_first():
            save(record, directory / RECORD)
    return record


def _clear(directory: Path) -> None:
    for name in (RECORD, CHECKPOINT, METRICS):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "tensorboard", ignore_errors=True)


def _threads(config: RunSettings) -> int:
    """CPU threads: those of the checkpoint, which may have been made with another --threads."""
    begun_with = checkpoint_threads(config.directory() / CHECKPOINT)
    if begun_with and config.threads and begun_with != config.threads:
        print(f"continued with {begun_with} CPU threads, as it was begun", file=sys.stderr)
    return begun_with or config.threads
