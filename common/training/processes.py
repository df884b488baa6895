"""Several processes, or GPUs, on one run: who they are, and the sums they exchange.

    torchrun --nproc-per-node 2 -m rotation --preset smoke

All processes hold the same parameters, draw the same batches and go through the same program; where
a batch is shared (``sharing``), each computes its part. What is exchanged are sums, and only in
``whole_sum``: every process gets the same bits, so their parameters cannot drift apart. Without
torchrun there is one process and nothing here does anything.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import UserError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others; they may be waiting for a download."""


class LostProcess(UserError):
    """Another process of the run has ended, or the connection to it."""


@dataclass
class Traffic:
    """What this process has handed in for exchange. Where the group is a ring of W, each sends
    2 (W - 1) / W times that."""

    bytes: int = 0
    calls: int = 0


TRAFFIC = Traffic()


def count() -> int:
    """How many processes carry out this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes records, checkpoints and logs: process 0 alone does. Known from
    torchrun before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def together(device: torch.device, name: str = "", shared: object = None) -> Iterator[torch.device]:
    """Connects the processes that torchrun has started, over NCCL on GPUs and gloo on CPUs.

    Gives the device of this process: of several GPUs, each process has its own. Raises UserError
    if ``shared``, what experiment ``name`` trains, does not say that processes may share it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if not getattr(shared, "several_processes", False):
        raise UserError(f"{name} runs in one process: start it without torchrun")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"process {device.index} of this machine has no GPU of its own: torch sees "
                f"{torch.cuda.device_count()}, so start at most as many"
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
    if rank() > 0:
        wait_for_all()
        yield
        return
    yield
    wait_for_all()


def wait_for_all() -> None:
    """Returns when all processes have come here."""
    if count() > 1:
        with _losses():
            dist.barrier()


@contextlib.contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises it as such, NCCL and the store as a subclass
        reason = str(error).strip().split("\n")[0]
        raise LostProcess(
            "another process of this run has ended, or cannot be reached "
            f"({reason[:100]}): the same command continues from the last epoch"
        ) from None


def whole_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, a new tensor without a graph; the same bits everywhere."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    TRAFFIC.bytes += total.nbytes
    TRAFFIC.calls += 1
    with _losses():
        dist.all_reduce(total)
    return total


class Summed(torch.autograd.Function):
    """What each process has -> the sum, which all have. Its transpose is ``Copied``."""

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        total = whole_sum(torch.cat([t.reshape(-1) for t in tensors]))
        pieces = total.split([t.numel() for t in tensors])
        return tuple(p.view(t.shape) for p, t in zip(pieces, tensors, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Copied.apply(*grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return Summed.apply(*tangents)


class Copied(torch.autograd.Function):
    """What all processes have -> a copy for each. Its transpose is ``Summed``.

    A loss that is the sum of what the processes compute from copies of theta has the right gradient
    in all of them, and as each of the two is the other's transpose, derivatives of any order are
    right.
    """

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Summed.apply(*grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return tuple(t.view_as(t) for t in tangents)


_share: float | None = None


@contextlib.contextmanager
def sharing(batch: Any) -> Iterator[tuple[Any, float]]:
    """Gives this process its part of a batch, and which share of the samples that is.

    batch: a tensor of samples, or a (named) tuple of such and None. In the block,
    ``share_of_sum``, ``shared_backward`` and ``BatchNorm2d`` speak of the whole batch. One process
    gets the whole batch, and 1.
    """
    global _share
    if count() == 1:
        yield batch, 1.0
        return
    part = _part(batch)
    before, _share = _share, _samples(part) / _samples(batch)
    try:
        yield part, _share
    finally:
        _share = before


def _samples(batch: Any) -> int:
    return len(batch) if isinstance(batch, Tensor) else _samples(batch[0])


def _part(batch: Any) -> Any:
    if batch is None:
        return None
    if isinstance(batch, Tensor):
        if len(batch) < count():
            raise UserError(
                f"{count()} processes cannot share a batch of {len(batch)}: start fewer, or choose "
                "a --batch-size that leaves no such small one at the end of an epoch"
            )
        return batch.tensor_split(count())[rank()]
    parts = [_part(item) for item in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def share_of_sum(tensor: Tensor) -> Tensor:
    """Of the sum of ``tensor`` over the processes, the share that this one's samples have in the
    batch. Alone, or outside of ``sharing``, it is ``tensor``.

    With x summed over one's own samples, this over their number is x's mean over the whole batch.
    """
    if _share is None:
        return tensor
    return Copied.apply(*Summed.apply(tensor))[0] * _share


def gathered(part: Tensor) -> Tensor:
    """The values for all samples of a batch, (N,), from those for one's own part in ``sharing``."""
    if _share is None:
        return part
    own = torch.zeros(count(), dtype=torch.int64, device=part.device)
    own[rank()] = len(part)
    sizes = whole_sum(own).tolist()
    values = torch.zeros(sum(sizes), dtype=part.dtype, device=part.device)
    values.split(sizes)[rank()].copy_(part)
    return whole_sum(values)


def shared_backward(loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """``loss.backward()`` and the loss without its graph, for a mean over samples in ``sharing``.

    The gradients are those of the mean over the whole batch: one exchange of all of them in one
    vector, with the loss. That is all that torch's DistributedDataParallel would do here, but it
    wants the network wrapped, and called as a module, which the losses of the meta step do not.
    """
    if _share is None:
        loss.backward()
        return loss.detach()
    loss = _share * loss
    loss.backward()
    grads = [p.grad for p in parameters if p.grad is not None]
    whole, *sums = _summed_together([loss.detach(), *grads])
    for grad, total in zip(grads, sums, strict=True):
        grad.copy_(total)
    return whole


def _summed_together(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return Summed.apply(*tensors)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises by the statistics of the whole batch where processes share it.

    Each exchanges its sums (two vectors of the number of channels forward, two backward), so one
    process and several compute the same, running statistics included. Where the batch is not
    shared (every EvoGrad candidate sees a whole batch) it is torch's. Differentiable to any order,
    and forward; torch's SyncBatchNorm is for GPUs only and differentiable once.
    """

    def forward(self, input: Tensor) -> Tensor:
        if _share is None or not self.training:
            return super().forward(input)
        others, size = (0, 2, 3), input.numel() / input.shape[1]
        mean = share_of_sum(input.sum(others)) / size
        centred = input - mean[:, None, None]
        variance = share_of_sum(centred.square().sum(others)) / size
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            whole = round(size / _share)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (whole / (whole - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]
