"""What an experiment hands to the fidelity study: its bilevel problem at moments of training."""

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.hypergrad.problem import BilevelProblem, Tensors
from common.run import Task, fit, load_checkpoint
from common.settings import RunSettings
from common.training import new_generator, restore, seed_everything, state_of

Pair = tuple[Any, Any]
"""An inner and an outer batch."""


@dataclass(frozen=True)
class Snapshot:
    """A real bilevel problem at one snapshot of training, with batches to estimate on.

    problem: the problem in a floating type, apart from the network that is trained.
    readings: the batches by how the inner loss is to be understood, the paper's way first; the
        one-step hypergradient is the same in all. noise_prediction: the reading in which the
        inner loss is a function whose derivatives are the one-step hypergradient's, so that the
        noise of random candidates can be predicted from it.
    inner_lr: the step size of the training's present inner step.
    parts: name -> which parameters to perturb, for estimates from a part of the network.
    hooks: name -> a problem with ``inner_losses`` and which parameters to perturb (None: all).
    later: parameters and hyperparameters after so many more training steps.
    """

    problem: Callable[[torch.dtype], BilevelProblem]
    params: Tensors
    hyper: Tensors
    readings: Mapping[str, Sequence[Pair]]
    inner_lr: float
    noise_prediction: str
    parts: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    hooks: Mapping[str, tuple[BilevelProblem, Callable[[str], bool] | None]] = field(
        default_factory=dict
    )
    later: Callable[[Sequence[int]], Iterator[tuple[Tensors, Tensors]]] | None = None

    @property
    def paper_pairs(self) -> Sequence[Pair]:
        return next(iter(self.readings.values()))


@dataclass(frozen=True)
class PlannedSnapshot:
    """A snapshot before it is reached: its place in the study, and how to get there.

    axis: what the moments of a series differ in, "stage", "width" or "hidden"; x: this one's.
    """

    experiment: str
    axis: str
    x: str
    build: Callable[[], Snapshot]

    @property
    def name(self) -> str:
        return f"{self.experiment}-{self.axis}-{self.x}"


def stages(
    config: Any, build: Callable[[Any, int, Path], Snapshot], directory: Path
) -> list[PlannedSnapshot]:
    """One training before its first epoch, half-way and after its last.

    build: the snapshot after so many epochs, with a folder for the training.
    """
    name, ends = config.experiment, {"start": 0, "middle": config.epochs // 2, "end": config.epochs}
    return [
        PlannedSnapshot(name, "stage", stage, partial(build, config, epochs, directory / name))
        for stage, epochs in ends.items()
    ]


def trained(
    make_task: Callable[[Any, torch.device], Task],
    config: RunSettings,
    device: torch.device,
    epochs: int,
    directory: Path,
) -> Any:
    """The task of a run after so many epochs."""
    seed_everything(config.seed)
    task = make_task(config, device)
    train_until(task, epochs, directory, config)
    return task


def random_pairs(task: Any, config: Any, pairs: int) -> list[Pair]:
    """Pairs of random batches from the task's splits ``train`` and ``meta``."""
    generator = new_generator(config.seed, "batches of the fidelity study")

    def batch(split: Any) -> Any:
        index = torch.randperm(len(split.labels), generator=generator)[: config.batch_size]
        return split.batch(index.to(task.device))

    return [(batch(task.train), batch(task.meta)) for _ in range(pairs)]


def train_until(task: Task, epochs: int, directory: Path, config: RunSettings) -> None:
    """Trains ``task`` for ``epochs`` epochs in all, or continues towards them; 0 leaves it alone.

    A checkpoint that is past them already cannot go back: then training starts again.
    """
    if not epochs:
        return
    settings = config.result_settings()
    saved = load_checkpoint(directory / "checkpoint.pt", settings)
    if saved is not None and len(saved["epochs"]) > epochs:
        shutil.rmtree(directory)
    fit(task, epochs, directory, settings, config.log_every, f"{config.experiment}: training")


def parameters_later(
    task: Task, epoch: int, read: Callable[[], tuple[Tensors, Tensors]]
) -> Callable[[Sequence[int]], Iterator[tuple[Tensors, Tensors]]]:
    """``Snapshot.later`` of a training task, which is put back afterwards as it was.

    epoch: the one whose steps come next. read: copies of the present (params, hyper).
    """

    def later(counts: Sequence[int]) -> Iterator[tuple[Tensors, Tensors]]:
        before = copy.deepcopy(state_of(task.state))
        done, steps = 0, task.steps(epoch)
        try:
            for count in counts:
                for _ in islice(steps, count - done):
                    pass
                done = count
                yield read()
        finally:
            restore(task.state, before)

    return later


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies, which further training does not change; strides as they are."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
