"""Endless seeded episodes and batches of one split."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.training import EndlessBatches
from cross_domain_fewshot import augment
from cross_domain_fewshot.data import DomainSplit


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
    """Samples in an order drawn from a generator. augment: random crops, jitter and mirroring, else
    images as in evaluation."""

    def __init__(self, split: DomainSplit, generator: torch.Generator, augment: bool) -> None:
        self.split, self.generator, self.augment = split, generator, augment

    def read(self, index: Tensor) -> Tensor:
        """Normalised images (N, 3, S, S) of the samples ``index`` (N,)."""
        if not self.augment:
            return augment.normalise(self.split.images.read(index, None))
        draws = augment.draw(len(index), self.generator)
        images = self.split.images.read(index, draws)
        draws = draws.to(images.device, non_blocking=True)
        images = augment.jitter(images, draws)
        return augment.normalise(augment.mirror(images, draws) if self.split.mirrored else images)


class EpisodeStream(_Stream):
    """Endless episodes: n_way classes, with n_shot support and n_query query images of each, all
    different. min_class_size: classes with fewer images are repeated in a cycle up to this number,
    so that an image can occur more than once. Resumes from the state of ``generator``.

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

    def next(self) -> Episode:
        """The next episode."""
        each = self.n_shot + self.n_query
        classes = torch.randperm(len(self.split.class_names), generator=self.generator)
        samples = []
        for c in classes[: self.n_way].tolist():
            size = self.split.class_sizes[c]
            order = torch.randperm(max(size, self.min_class_size), generator=self.generator)
            samples.append(self._starts[c] + order[:each] % size)
        images = self.read(torch.cat(samples)).unflatten(0, (self.n_way, -1))
        return Episode(*images.split([self.n_shot, self.n_query], dim=1))


class ClassifierBatches(_Stream):
    """Endless shuffled batches of all classes, for ordinary classification. Resumes from the state
    of ``order``. Its length is the number of batches in one pass; the last may be smaller."""

    def __init__(
        self, split: DomainSplit, batch_size: int, generator: torch.Generator, augment: bool
    ) -> None:
        super().__init__(split, generator, augment)
        sizes = torch.tensor(split.class_sizes)
        self._labels = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.order = EndlessBatches(len(self._labels), batch_size, generator, torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.order)

    def next(self) -> LabelledImages:
        """The next batch."""
        index = self.order.next()
        images = self.read(index)
        labels = self._labels[index].to(images.device, non_blocking=True)
        return LabelledImages(images, labels)
