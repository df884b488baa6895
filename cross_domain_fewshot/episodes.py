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


def read(split: DomainSplit, index: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normalised images (N, 3, S, S) of the samples ``index`` (N,): with random crops, jitter and
    mirroring drawn from the generator, or as in evaluation without one."""
    if generator is None:
        return augment.normalise(split.images.read(index, None))
    draws = augment.draw(len(index), generator)
    images = split.images.read(index, draws)
    draws = draws.to(images.device, non_blocking=True)
    images = augment.jitter(images, draws)
    return augment.normalise(augment.mirror(images, draws) if split.mirrored else images)


class EpisodeStream:
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
        self.split, self.generator, self.augment = split, generator, augment
        self.n_way, self.n_shot, self.n_query = n_way, n_shot, n_query
        self.min_class_size = min_class_size
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
        classes = torch.randperm(len(self.split.class_names), generator=self.generator)
        samples = []
        for c in classes[: self.n_way].tolist():
            size = self.split.class_sizes[c]
            order = torch.randperm(max(size, self.min_class_size), generator=self.generator)
            each = order[: self.n_shot + self.n_query] % size
            samples.append(sum(self.split.class_sizes[:c]) + each)
        generator = self.generator if self.augment else None
        images = read(self.split, torch.cat(samples), generator).unflatten(0, (self.n_way, -1))
        return Episode(*images.split([self.n_shot, self.n_query], dim=1))


class ClassifierBatches:
    """Endless shuffled batches of all classes, for ordinary classification. Resumes from the state
    of ``order``, whose length is the number of batches in one pass; the last may be smaller."""

    def __init__(
        self, split: DomainSplit, batch_size: int, generator: torch.Generator, augment: bool
    ) -> None:
        self.split, self.generator = split, generator if augment else None
        sizes = torch.tensor(split.class_sizes)
        self._labels = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.order = EndlessBatches(len(self._labels), batch_size, generator, torch.device("cpu"))

    def next(self) -> LabelledImages:
        """The next batch."""
        index = self.order.next()
        images = read(self.split, index, self.generator)
        return LabelledImages(images, self._labels[index].to(images.device, non_blocking=True))
