"""Several processes, or GPUs, on one run: EvoGrad's candidates are spread over them.

    torchrun --nproc-per-node 2 -m rotation --preset smoke

Each evaluates a part of EvoGrad's candidates, whose losses and hypergradients are gathered; all
else is computed by every process, so the result is that of one, bit for bit. Without torchrun there
is one process and nothing here does anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import new_class
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import UserError
from common.hypergrad import Estimator, EvoGrad, Hypergradient
from common.hypergrad.base import LossGradient
from common.hypergrad.problem import BilevelProblem, Tensors

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others; they may be waiting for a download."""


def count() -> int:
    """How many processes carry out this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes records, checkpoints and logs: process 0 alone does."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[torch.device]:
    """Connects the processes that torchrun has started, over NCCL on GPUs and gloo on CPUs.
    Yields the device of this process: of several GPUs, each process has its own."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"process {device.index} of this machine has no GPU: torch sees "
                f"{torch.cuda.device_count()}, so start at most as many processes"
            )
        torch.cuda.set_device(device)
    with _losses():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """Process 0 goes through the block while the others wait (downloads, clearing a folder)."""
    if not is_first():
        with _losses():
            dist.barrier()
    yield
    if is_first() and count() > 1:
        with _losses():
            dist.barrier()


@contextlib.contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises it as such, NCCL and the store as a subclass
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            "another process of this run has ended, or cannot be reached "
            f"({reason[:100]}): the same command continues from the last epoch"
        ) from None


def over_processes(estimator: Estimator) -> Estimator:
    """The estimator with its candidates spread over the processes; itself where there is one.
    Raises UserError for an estimator without candidates."""
    if count() == 1:
        return estimator
    if not isinstance(estimator, EvoGrad):
        raise UserError(
            f"{type(estimator).__name__} has no candidates to spread over processes: start this "
            "method without torchrun"
        )
    kind = type(estimator)
    return new_class(f"{kind.__name__}OverProcesses", (_OverProcesses, kind))(**vars(estimator))


class _OverProcesses(EvoGrad):
    """EvoGrad with candidate k on process k mod W. Gathered are K losses and K vectors of lambda's
    size: no parameters, no perturbations."""

    def __call__(
        self, problem: BilevelProblem, params: Tensors, hyper: Tensors, *batches: Any, **given: Any
    ) -> Hypergradient:
        # Kernels that add in varying order, as some on GPUs, would drive the copies apart.
        for tensors in (params, hyper):
            _take_from_first(tensors.values())
        return super().__call__(problem, params, hyper, *batches, **given)

    def over_candidates(self, evaluate: Callable[[int], LossGradient]) -> list[LossGradient]:
        own = [_on(evaluate(k), "cpu") for k in range(rank(), self.num_candidates, count())]
        parts: list[list[LossGradient]] = [[] for _ in range(count())]
        with _losses():
            dist.all_gather_object(parts, own)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return [_on(parts[k % count()][k // count()], device) for k in range(self.num_candidates)]


def _on(pair: LossGradient, device: str) -> LossGradient:
    loss, grads = pair
    return loss.to(device), {n: None if g is None else g.to(device) for n, g in grads.items()}


def _take_from_first(tensors: Iterable[Tensor]) -> None:
    """Puts the values of process 0 into the tensors."""
    targets = [t.detach() for t in tensors]
    vector = torch.cat([t.reshape(-1) for t in targets])
    with _losses():
        dist.broadcast(vector, 0)
    for target, values in zip(targets, vector.split([t.numel() for t in targets]), strict=True):
        target.copy_(values.view_as(target))
