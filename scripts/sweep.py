"""Reproduces experiments: data, planned runs (several at a time), tables, figures, report.

    python -m scripts.sweep rotation --preset quick --methods evograd t1t2 --seeds 1 23
    python -m scripts.sweep --preset smoke

A finished run is not repeated, a run that was cut off is continued. Each run's output is in
run.log in its folder. Two of these commands at once share the work.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.bounds import THREADS, Bounds
from common.command import Parser, run_command
from common.errors import UserError
from common.experiment import Experiment, load_experiment
from common.runs import finished_record
from common.settings import RunSettings
from common.training import choose_device, progress
from scripts.experiments import EXPERIMENTS
from scripts.launch import LocalLauncher, LocalRun
from scripts.launch_slurm import (
    SlurmQueue,
    SubmititLauncher,
    SubmittedRun,
    add_arguments,
    slurm_executor,
)

Launcher = LocalLauncher | SubmititLauncher
Run = LocalRun | SubmittedRun
POLL_SECONDS = 0.5


@dataclass
class _Left:
    """What is left of a sweep, and what became of the rest.

    waiting: runs not begun. reasons: why runs have ended, None: well. failed: where to look.
    """

    waiting: list[RunSettings]
    reasons: list[str | None] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)

    def note(self, config: RunSettings, reason: str | None, where: Path) -> None:
        """A run has ended."""
        self.reasons.append(reason)
        if reason is not None:
            self.failed.append(where)
            tqdm.write(f"{config.run_name()} failed: {reason}", file=sys.stderr)

    def settle(self) -> None:
        """Takes out of the waiting runs those that have a record, or a damaged one."""
        for config in list(self.waiting):
            try:
                finished = finished_record(config) is not None
            except UserError as error:
                self.waiting.remove(config)
                self.note(config, f"error: {error}", config.directory())
            else:
                if finished:
                    self.waiting.remove(config)

    def give_up(self) -> None:
        """If the first three runs have failed identically, the rest will too."""
        if len(self.reasons) >= 3 and set(self.reasons) == {self.reasons[0]} != {None}:
            self.waiting.clear()


def sweep(configs: Sequence[RunSettings], launcher: Launcher, description: str) -> None:
    """Carries out the runs; UserError names those that failed.

    A run that another process works on is left to it, and its record counts; if that process ends
    without one, the run is taken over. When the first three runs fail for the same reason, the
    others are not begun.
    """
    left = _Left(list(configs))
    left.settle()
    waiting, failed = left.waiting, left.failed
    done = len(configs) - len(waiting)
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
            for config in list(waiting):
                if len(running) < launcher.slots and (run := launcher.start(config)):
                    running.append(run)
                    waiting.remove(config)
            time.sleep(POLL_SECONDS)
            for run in [run for run in running if run.ended()]:
                running.remove(run)
                left.note(run.config, run.failure(), run.log)
            if len(running) < launcher.slots:
                left.settle()
            left.give_up()
            names = [run.config.run_name() for run in running]
            if waiting and len(running) < launcher.slots:
                names.append(f"{len(waiting)} in another process")
            bar.set_postfix_str(", ".join(names), refresh=False)
            parts = sum(progress(run.config.directory()) for run in running)
            bar.update(len(configs) - len(waiting) - len(running) + parts - bar.n)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(configs)} runs failed: see {failed[0]}; "
            "the same command goes on with them"
        )


@contextlib.contextmanager
def _stopped_together() -> Iterator[list[Run]]:
    """The running runs; they end when the sweep does, for whatever reason."""
    running: list[Run] = []
    try:
        yield running
    finally:
        for run in running:
            run.stop()
        while not all(run.ended() for run in running):
            time.sleep(0.05)


def default_jobs(device: str) -> int:
    """Runs at a time: one on a GPU; on a CPU one per core up to two, then one per two cores."""
    if choose_device(device).type == "cuda":
        return 1
    cores = os.cpu_count() or 1
    return cores if cores <= 2 else cores // 2


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[Experiment]]:
    """The command line; with one experiment named, a flag for each of its axes."""
    parser = Parser(
        prog="python -m scripts.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    parser.add_argument("--preset", default="quick", help="smoke, quick, paper (default: quick)")
    parser.add_argument("--methods", nargs="+", help="only these; also ones not planned")
    parser.add_argument("--seeds", nargs="+", type=int, help="these instead of the planned ones")
    parser.add_number("--jobs", int, Bounds(least=1, most=1024), help="runs at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_number("--threads", int, THREADS, help="CPU threads of each run (default: 1)")
    parser.add_argument("--no-report", action="store_true", help="runs only")
    parser.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="where runs are made"
    )
    add_arguments(parser)
    words = sys.argv[1:] if argv is None else argv
    named = [load_experiment(word) for word in EXPERIMENTS if word in words]
    for axis, kind in _axes(named).items():
        parser.add_argument(f"--{axis.replace('_', '-')}", nargs="+", type=kind, dest=axis)
    arguments = parser.parse_intermixed_args(argv)
    for name in arguments.experiments:
        if name not in EXPERIMENTS:
            raise UserError(f"{name} is no experiment: use {', '.join(EXPERIMENTS)}")
    return arguments, [load_experiment(name) for name in arguments.experiments or EXPERIMENTS]


def _axes(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """The axes of experiments by name, with what makes a value of a word."""
    found = {}
    for experiment in experiments:
        default = next(iter(experiment.presets.values()))
        for axis in experiment.axes:
            kind = type(getattr(default, axis))
            found[axis] = _truth if kind is bool else kind
    return found


def _truth(word: str) -> bool:
    if word not in ("yes", "no"):
        raise ValueError
    return word == "yes"


def prepare_data(experiment: Experiment, preset: str) -> None:
    """Fetches what the runs read before they start, so that one sees it happen."""
    for name in experiment.datasets(preset):
        from common.datasets.__main__ import LOADERS

        dataset, load = LOADERS[name]
        print(f"{dataset.title}: {load().source}", file=sys.stderr, flush=True)


def run_experiment(experiment: Experiment, arguments: argparse.Namespace) -> None:
    """Data and runs of one experiment."""
    chosen = {"method": arguments.methods, "seed": arguments.seeds}
    chosen |= {axis: getattr(arguments, axis, None) for axis in experiment.axes}
    configs = experiment.runs(arguments.preset, chosen)
    prepare_data(experiment, arguments.preset)
    default, name = experiment.preset(arguments.preset), f"{experiment.name} {arguments.preset}"
    extra = ["--device", arguments.device]
    if arguments.threads is not None:
        extra += ["--threads", str(arguments.threads)]
    if arguments.launcher == "slurm":
        executor = slurm_executor(arguments, name, arguments.jobs)
        launcher: Launcher = SubmititLauncher(executor, SlurmQueue(), default, extra)
    else:
        jobs = arguments.jobs or min(default_jobs(arguments.device), len(configs))
        launcher = LocalLauncher(default, jobs, extra)
    sweep(configs, launcher, name)


def main(argv: Sequence[str] | None = None) -> None:
    arguments, experiments = parse(argv)
    if arguments.launcher == "local":  # a cluster's nodes have other devices than this machine
        choose_device(arguments.device)
    known = dict.fromkeys(preset for experiment in experiments for preset in experiment.presets)
    if arguments.preset not in known:
        raise UserError(f"--preset {arguments.preset} is unknown: use {', '.join(known)}")
    chosen = [e for e in experiments if arguments.preset in e.presets]
    failed: dict[str, UserError] = {}
    # What one experiment lacks (data, say) does not keep the others from running.
    for experiment in chosen:
        try:
            run_experiment(experiment, arguments)
        except UserError as error:
            failed[experiment.name] = error
            if len(chosen) > 1:
                print(f"{experiment.name}: {error}", file=sys.stderr)
    if not arguments.no_report and len(failed) < len(chosen):
        from scripts import report  # draws figures: takes seconds to import

        report.main(["--preset", arguments.preset, *(e.name for e in chosen)])
    if len(chosen) == 1 and failed:
        raise failed[chosen[0].name]
    if failed:
        raise UserError(f"not finished: {', '.join(failed)}; the same command goes on")


if __name__ == "__main__":
    run_command(main)
