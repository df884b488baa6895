"""Carries out the planned runs of an experiment, several at a time, each in its own process.

    python -m scripts.sweep rotation --preset quick --methods evograd t1t2 --seeds 1 23

A finished run is not repeated, a run that was cut off is continued. Each run's output is in
run.log in its folder.
"""

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm

from common.cli import run_command
from common.errors import UserError
from common.runs import finished_record
from common.settings import ROOT, RunSettings
from common.training import choose_device, metrics_lines
from scripts.experiments import EXPERIMENTS

POLL_SECONDS = 0.5


def command(config: RunSettings, default: RunSettings) -> list[str]:
    """The command line of a run: what differs from the preset's defaults."""
    words = [sys.executable, "-m", config.experiment, "--preset", config.preset]
    for field in fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return words


def progress(directory: Path) -> float:
    """Which part of a run is done, from its metrics.jsonl."""
    lines = list(metrics_lines(directory / "metrics.jsonl"))
    if not lines or not lines[0].get("total"):
        return 0.0
    return lines[-1]["iteration"] / lines[0]["total"]


class Running:
    """One run in its own process, with its output in run.log."""

    def __init__(self, config: RunSettings, default: RunSettings, extra: Sequence[str]) -> None:
        self.config, self.directory = config, config.directory()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "run.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command(config, default), *extra], cwd=ROOT, stdout=log, stderr=log
            )

    def failure(self) -> str | None:
        """None if the run ended well, else its last line of output."""
        if self.process.returncode == 0:
            return None
        lines = self.log.read_text(errors="replace").replace("\r", "\n").split("\n")
        text = [line for line in lines if line.strip()]
        return text[-1] if text else f"exit status {self.process.returncode}"


def sweep(
    configs: Sequence[RunSettings],
    defaults: RunSettings,
    jobs: int,
    extra: Sequence[str],
    description: str,
) -> None:
    """Carries out the runs, ``jobs`` at a time; UserError names those that failed.

    When the first three fail for the same reason, the others are not begun.
    """
    waiting = [config for config in configs if finished_record(config) is None]
    done, failed = len(configs) - len(waiting), []
    reasons: list[str | None] = []  # of the runs that have ended; None: well
    bar = tqdm(
        total=len(configs),
        desc=description,
        dynamic_ncols=True,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs "
        "[{elapsed}<{remaining}]{postfix}",
    )
    # The bar's own clock starts with what is done already, so that the time left is right.
    bar.update(done)
    bar.initial = done
    with bar, _stopped_together() as running:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Running(waiting.pop(0), defaults, extra))
            time.sleep(POLL_SECONDS)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                done += 1
                failure = run.failure()
                reasons.append(failure)
                if failure is not None:
                    failed.append(run)
                    tqdm.write(f"{run.config.run_name()} failed: {failure}", file=sys.stderr)
            # What all runs lack (data, say), the rest lacks too.
            if len(reasons) >= 3 and set(reasons) == {reasons[0]} != {None}:
                waiting.clear()
            bar.set_postfix_str(", ".join(run.config.run_name() for run in running), refresh=False)
            bar.update(done + sum(progress(run.directory) for run in running) - bar.n)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(configs)} runs failed: see {failed[0].log}; "
            "the same command goes on with them"
        )


@contextlib.contextmanager
def _stopped_together() -> Iterator[list[Running]]:
    """The running processes; they end when the sweep does, for whatever reason."""
    running: list[Running] = []
    try:
        yield running
    finally:
        for run in running:
            run.process.terminate()
        for run in running:
            run.process.wait()


def default_jobs(device: str) -> int:
    """Runs at a time: one on a GPU; on a CPU one per core up to two, then one per two cores."""
    if choose_device(device).type == "cuda":
        return 1
    cores = os.cpu_count() or 1
    return cores if cores <= 2 else cores // 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.sweep", description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--preset", default="quick", help="smoke, quick or paper")
    parser.add_argument("--methods", nargs="+", help="only these; also ones not planned")
    parser.add_argument("--seeds", nargs="+", type=int, help="these instead of the planned ones")
    parser.add_argument("--jobs", type=int, help="runs at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    arguments = parser.parse_args()

    config_module = importlib.import_module(f"{arguments.experiment}.config")
    presets = config_module.PRESETS
    if arguments.preset not in presets:
        raise UserError(f"--preset {arguments.preset} is unknown: use {', '.join(presets)}")
    configs = choose_runs(
        config_module.planned_runs(arguments.preset), arguments.methods, arguments.seeds
    )
    jobs = arguments.jobs or min(default_jobs(arguments.device), len(configs))
    extra = ["--device", arguments.device]
    if choose_device(arguments.device).type == "cpu":
        extra += ["--threads", str(max(1, (os.cpu_count() or 1) // jobs))]
    description = f"{arguments.experiment} {arguments.preset}"
    sweep(configs, presets[arguments.preset], jobs, extra, description)


def choose_runs(
    planned: Sequence[RunSettings], methods: Sequence[str] | None, seeds: Sequence[int] | None
) -> list[RunSettings]:
    """The planned runs of these methods and seeds, those asked for that are not planned included:
    such a method takes the place of the first planned one."""
    pool = [config for config in planned if not methods or config.method in methods]
    for method in methods or ():
        if all(config.method != method for config in planned):
            pool += [replace(c, method=method) for c in planned if c.method == planned[0].method]
    runs = [replace(c, seed=seed) for seed in seeds for c in pool] if seeds else pool
    return list({run.run_name(): run.validate() for run in runs}.values())


if __name__ == "__main__":
    run_command(main)
