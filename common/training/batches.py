"""Shuffled batches of indices, with a state that a checkpoint can hold.

Small data sets live on the device as a whole; a batch is an index into them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class EpochBatches:
    """One pass over ``size`` samples in a new order every epoch (or the same, unshuffled)."""

    def __init__(
        self,
        size: int,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        shuffle: bool = True,
    ) -> None:
        self.size, self.batch_size, self.device = size, batch_size, device
        self.generator, self.shuffle = generator, shuffle

    def __len__(self) -> int:
        """Batches per epoch; the last may be smaller."""
        return -(-self.size // self.batch_size)

    def epoch(self) -> Iterator[Tensor]:
        """Index tensors on the device, (batch,), int64."""
        if self.shuffle:
            order = torch.randperm(self.size, generator=self.generator)
        else:
            order = torch.arange(self.size)
        yield from order.to(self.device, non_blocking=True).split(self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The state between two epochs."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class EndlessBatches(EpochBatches):
    """Passes over the samples without end; a new order begins where the last one is used up."""

    _order = torch.empty(0, dtype=torch.int64)
    _position = 0

    def next(self) -> Tensor:
        """The next index tensor on the device."""
        if self._position >= len(self._order):
            order = torch.randperm(self.size, generator=self.generator)
            self._order, self._position = order.to(self.device, non_blocking=True), 0
        batch = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state at any moment."""
        place = {"order": self._order.cpu(), "position": self._position}
        return super().state_dict() | place

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._order, self._position = state["order"].to(self.device), state["position"]
