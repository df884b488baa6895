"""Reproduces experiments: data, planned runs (several at a time), tables, figures, report.

    python -m scripts.sweep rotation --preset quick --methods evograd t1t2 --seeds 1 23
    python -m scripts.sweep rotation --set estimator.sigma=0.001,0.01 --seeds 1 2 3
    python -m scripts.sweep --preset smoke

A finished run is not repeated, a run that was cut off is continued. Each run's output is in
run.log in its folder. Two of these commands at once share the work.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import tyro
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from common.command import run_command
from common.errors import UserError
from common.experiment import Experiment, load_experiment
from common.run import finished_record, progress
from common.settings import EstimatorSettings, RunSettings
from common.training import choose_device
from scripts.experiments import EXPERIMENTS, Name
from scripts.launch import Busy, LocalLauncher, LocalRun
from scripts.launch_slurm import Job, SlurmLauncher, SlurmRun, slurm_launcher

Run = LocalRun | SlurmRun
POLL_SECONDS = 0.5
_TYPES: dict[str, Any] = get_type_hints(EstimatorSettings, include_extras=True)


def sweep(
    configs: Sequence[RunSettings], launcher: LocalLauncher | SlurmLauncher, description: str
) -> None:
    """Carries out the runs; UserError names those that failed.

    A run that another process works on is left to it, and its record counts; if that process ends
    without one, the run is taken over. When the first three runs fail for the same reason, the
    others are not begun.
    """
    reasons: list[str | None] = []
    failed: list[Path] = []

    def note(config: RunSettings, reason: str | None, where: Path) -> None:
        reasons.append(reason)
        if reason is not None:
            failed.append(where)
            tqdm.write(f"{config.run_name()} failed: {reason}", file=sys.stderr)
        elif bar.disable:  # output goes to a file
            print(f"{config.run_name()} has finished", file=sys.stderr, flush=True)

    def to_do(config: RunSettings) -> bool:
        """Whether a run is not finished; one with a damaged record has failed."""
        try:
            return finished_record(config) is None
        except UserError as error:
            note(config, f"error: {error}", config.directory())
            return False

    waiting = [config for config in configs if to_do(config)]
    bar = _bar(description, len(configs), len(configs) - len(waiting))
    with bar, _stopped_together() as running:
        while waiting or running:
            elsewhere = 0
            for config in list(waiting):
                if len(running) >= launcher.slots:
                    break
                try:
                    if to_do(config):
                        running.append(launcher.start(config))
                    waiting.remove(config)
                except Busy:
                    elsewhere += 1
            time.sleep(POLL_SECONDS)
            for run in [run for run in running if run.ended()]:
                running.remove(run)
                note(run.config, run.failure(), run.log)
            if len(reasons) >= 3 and set(reasons) == {reasons[0]} != {None}:
                waiting.clear()
            names = [run.config.run_name() for run in running]
            names += [f"{elsewhere} in another process"] if elsewhere else []
            bar.set_postfix_str(", ".join(names), refresh=False)
            parts = sum(progress(run.config.directory()) for run in running)
            bar.update(len(configs) - len(waiting) - len(running) + parts - bar.n)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(configs)} runs failed: see {failed[0]}; "
            "the same command goes on with them"
        )


def _bar(description: str, total: int, done: int) -> tqdm:
    """A progress bar whose time left does not count what was done before; none in a file."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]{postfix}"
    bar = tqdm(total=total, desc=description, dynamic_ncols=True, bar_format=form, disable=None)
    if bar.disable:
        print(f"{description}: {total} runs, {done} of them finished", file=sys.stderr, flush=True)
    bar.update(done)
    bar.initial = done
    return bar


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


def chosen_runs(
    experiment: Experiment, preset: str, chosen: Mapping[str, Sequence[Any]], words: Sequence[str]
) -> list[RunSettings]:
    """The planned runs with the chosen methods and seeds, and with every combination of the
    settings in ``words``: estimator.sigma=0.01 or epochs=2,4 names the values that a setting is to
    have in turn; those of a setting that is a list itself have the form 20:40."""
    changes: dict[str, list[Any]] = {}
    types = get_type_hints(experiment.config, include_extras=True)
    types |= {EstimatorSettings.PREFIX + name: kind for name, kind in _TYPES.items()}
    for word in words:
        key, equals, values = word.partition("=")
        key = key.replace("-", "_")
        if not equals or key not in types or key in ("preset", "estimator", "run_dir", "restart"):
            raise UserError(f"--set {word}: write setting=value, with a setting that --help lists")
        several, read = get_origin(types[key]) is tuple, TypeAdapter(types[key]).validate_strings
        for text in values.split(","):
            given = tuple(text.split(":")) if several else text
            try:
                value = None if text == "None" else read(given)
            except ValidationError as error:
                raise UserError(f"--set {word}: {error.errors()[0]['msg']}") from None
            changes.setdefault(key, []).append(value)
    axes = {key: changes.pop(key) for key in experiment.axes if key in changes}
    combined = (dict(zip(changes, values, strict=True)) for values in product(*changes.values()))
    found = [
        run for set_to in combined for run in experiment.runs(preset, {**chosen, **axes}, set_to)
    ]
    return list({run.run_name(): run for run in found}.values())


@dataclass(frozen=True)
class Options:
    """Which runs, and how they are carried out."""

    experiments: Annotated[tuple[Name, ...], tyro.conf.Positional] = ()
    """Default: all."""
    preset: str = "quick"
    """smoke (seconds), quick (minutes), study (a night), paper (a GPU)."""
    methods: tuple[str, ...] = ()
    """Only these methods; also ones that are not planned. Default: the planned ones."""
    seeds: tuple[int, ...] = ()
    """These instead of the planned ones."""
    set: tuple[str, ...] = ()
    """setting=value for all runs, or setting=value,value for runs with each: estimator.sigma=0.01,
    target_language=quy,tuk. The settings are those that python -m EXPERIMENT --help lists."""
    jobs: int | None = None
    """Runs at a time; default: by the machine, or as many as the cluster admits."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    threads: int = 1
    """CPU threads of each run."""
    restart: bool = False
    """Begin the runs anew, the finished ones too."""
    report: bool = True
    """Afterwards draw tables, figures and the report."""
    launcher: Literal["local", "slurm"] = "local"
    """Where runs are made: on this machine, or as jobs of a cluster."""
    job: Annotated[Job, tyro.conf.arg(name="")] = field(default_factory=Job)


def run_experiment(experiment: Experiment, options: Options) -> None:
    """Data and runs of one experiment."""
    chosen = {"method": options.methods, "seed": options.seeds}
    how = {n: getattr(options, n) for n in ("device", "threads", "restart")}
    runs = chosen_runs(experiment, options.preset, chosen, options.set)
    configs = [replace(config, **how) for config in runs]
    for name in experiment.datasets(options.preset):  # before the runs, so that one sees it
        from common.datasets.__main__ import LOADERS

        dataset, load = LOADERS[name]
        print(f"{dataset.title}: {load().source}", file=sys.stderr, flush=True)
    name, cores = f"{experiment.name} {options.preset}", os.cpu_count() or 1
    if options.launcher == "slurm":
        sweep(configs, slurm_launcher(options.job, name, options.jobs), name)
    else:
        # One on a GPU; on a CPU one per core up to two, then one per two cores.
        gpu = choose_device(options.device).type == "cuda"
        jobs = options.jobs or (1 if gpu else min(cores, max(2, cores // 2)))
        sweep(configs, LocalLauncher(jobs), name)


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m scripts.sweep", description=__doc__)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be at least 1")
    if options.launcher == "local":  # a cluster's nodes have other devices than this machine
        choose_device(options.device)
    experiments = [load_experiment(n) for n in dict.fromkeys(options.experiments or EXPERIMENTS)]
    known = dict.fromkeys(preset for experiment in experiments for preset in experiment.presets)
    if options.preset not in known:
        raise UserError(f"--preset {options.preset} is unknown: use {', '.join(known)}")
    chosen = [e for e in experiments if options.preset in e.presets]
    failed: dict[str, UserError] = {}
    # What one experiment lacks (data, say) does not keep the others from running.
    for experiment in chosen:
        try:
            run_experiment(experiment, options)
        except UserError as error:
            failed[experiment.name] = error
            if len(chosen) > 1:
                print(f"{experiment.name}: {error}", file=sys.stderr)
    if options.report and len(failed) < len(chosen):
        from scripts import report  # draws figures: takes seconds to import

        report.main(["--preset", options.preset])
    if len(chosen) == 1 and failed:
        raise failed[chosen[0].name]
    if failed:
        raise UserError(f"not finished: {', '.join(failed)}; the same command goes on")


if __name__ == "__main__":
    run_command(main)
