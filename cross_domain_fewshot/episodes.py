"""Endless seeded episodes and batches of one split, which can be resumed at any point."""

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.training import EndlessBatches
from cross_domain_fewshot import augment
from cross_domain_fewshot.data import Delivery, DomainSplit


class Episode(NamedTuple):
    """support: (n_way, n_shot, 3, S, S). query: (n_way, n_query, 3, S, S). Normalised float32 on
    the device; class i is row i."""

    support: Tensor
    query: Tensor


class LabelledImages(NamedTuple):
    """images: normalised, (N, 3, S, S). labels: (N,), int64. Both on the device."""

    images: Tensor
    labels: Tensor


class _Stream:
    """Samples in an order drawn from a generator, with pixels requested ahead of their use.

    The state is the one before the next samples to be returned, however many were requested, so
    that a stream that loads it returns the same samples, pixel for pixel. No one else may use the
    generator.
    """

    def __init__(self, split: DomainSplit, generator: torch.Generator, augment: bool) -> None:
        self.split, self.generator, self.augment = split, generator, augment
        self._ahead: deque[tuple[dict[str, Any], Tensor, Tensor | None, Delivery]] = deque()

    def _draw(self) -> Tensor:
        """Numbers of the next samples, (N,)."""
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """All that ``_draw`` depends on."""
        return {"generator": self.generator.get_state()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])

    def _next(self) -> tuple[Tensor, Tensor]:
        """Numbers (N,) and normalised images (N, 3, S, S) of the next samples."""
        while len(self._ahead) <= self.split.images.ahead:
            state, index = self._state(), self._draw()
            draws = augment.draw(len(index), self.generator) if self.augment else None
            delivery = self.split.images.request(index, draws)
            self._ahead.append((state, index, draws, delivery))
        _, index, draws, deliver = self._ahead[0]
        images = deliver()
        self._ahead.popleft()
        if draws is not None:
            draws = draws.to(images.device)
            images = augment.jitter(images, draws)
            if self.split.mirrored:
                images = augment.mirror(images, draws)
        return index, augment.normalise(images)

    def state_dict(self) -> dict[str, Any]:
        """The state before the next samples."""
        return self._ahead[0][0] if self._ahead else self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ahead.clear()
        self._restore(state)


class EpisodeStream(_Stream):
    """Endless episodes: n_way classes, with n_shot support and n_query query images of each, all
    different. augment: random crops, jitter and mirroring, else images as in evaluation.
    min_class_size: classes with fewer images are repeated in a cycle up to this number, so that an
    image can occur more than once.

    Raises UserError if the split has too few classes or images.
    """

    def __init__(
        self,
        split: DomainSplit,
        n_way: int,
        n_shot: int,
        n_query: int,
        generator: torch.Generator,
        augment: bool,
        min_class_size: int = 0,
    ) -> None:
        super().__init__(split, generator, augment)
        self.n_way, self.n_shot, self.n_query = n_way, n_shot, n_query
        self.min_class_size = min_class_size
        self._starts = torch.tensor((0, *split.class_sizes)).cumsum(0).tolist()
        where = f"{split.name} ({split.split})"
        if n_way > len(split.class_names):
            raise UserError(f"--n-way {n_way} is more than the {len(split.class_names)} of {where}")
        fewest, name = min(zip(split.class_sizes, split.class_names, strict=True))
        if n_shot + n_query > max(fewest, min_class_size):
            raise UserError(
                f"class {name} of {where} has {fewest} images, fewer than --n-shot {n_shot} plus "
                f"--n-query {n_query}: lower one of them"
            )

    def _draw(self) -> Tensor:
        each = self.n_shot + self.n_query
        classes = torch.randperm(len(self.split.class_names), generator=self.generator)
        samples = []
        for c in classes[: self.n_way].tolist():
            size = self.split.class_sizes[c]
            order = torch.randperm(max(size, self.min_class_size), generator=self.generator)
            samples.append(self._starts[c] + order[:each] % size)
        return torch.cat(samples)

    def next(self) -> Episode:
        """The next episode."""
        _, images = self._next()
        support, query = images.unflatten(0, (self.n_way, -1)).split(
            [self.n_shot, self.n_query], dim=1
        )
        return Episode(support, query)


class ClassifierBatches(_Stream):
    """Endless shuffled batches of all classes, for ordinary classification."""

    def __init__(
        self, split: DomainSplit, batch_size: int, generator: torch.Generator, augment: bool
    ) -> None:
        super().__init__(split, generator, augment)
        sizes = torch.tensor(split.class_sizes)
        self.num_classes = len(sizes)
        self._labels = torch.arange(self.num_classes).repeat_interleave(sizes)
        self._order = EndlessBatches(len(self._labels), batch_size, generator, torch.device("cpu"))

    def __len__(self) -> int:
        """Batches in one pass over the split; the last may be smaller."""
        return len(self._order)

    def _draw(self) -> Tensor:
        return self._order.next()

    def _state(self) -> dict[str, Any]:
        return self._order.state_dict()

    def _restore(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)

    def next(self) -> LabelledImages:
        """The next batch."""
        index, images = self._next()
        return LabelledImages(images, self._labels[index].to(images.device))
