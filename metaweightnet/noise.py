"""Label noise: a matrix of P(noisy label | true label) for each type, and labels drawn from it."""

import numpy as np
import torch
from torch import Tensor

from common.training import new_generator
from metaweightnet.config import Config


def noise_matrix(
    kind: str,
    level: float,
    num_classes: int,
    generator: torch.Generator,
    superclass: Tensor | None = None,
) -> Tensor:
    """P(noisy label j | true label i) as row i, float64 (C, C); p is ``level``.

    flip: 1 - p stays, p / 2 goes to each of two other classes, see ``released_flip_pairs``.
    flip_two, flip_one: the same with two or one other classes, drawn for every class.
    uniform: p of the labels are drawn anew from all classes, so 1 - p + p / C stays.
    hierarchical: 1 - p stays, p is spread evenly over the other classes of the same superclass;
    ``superclass`` (C,) has that of each class.
    """
    matrix = torch.eye(num_classes, dtype=torch.float64)
    if kind == "uniform":
        return (1 - level) * matrix + level / num_classes
    matrix *= 1 - level
    pairs = released_flip_pairs(num_classes) if kind == "flip" else None
    for i in range(num_classes):
        others = torch.arange(num_classes)
        others = others[others != i]
        if kind == "hierarchical":
            targets = others[superclass[others] == superclass[i]]
        elif pairs is not None:
            targets = pairs[i]
        else:
            count = {"flip_two": 2, "flip_one": 1}[kind]
            targets = others[torch.randperm(len(others), generator=generator)[:count]]
        matrix[i, targets] = level / len(targets)
    return matrix


def released_flip_pairs(num_classes: int) -> Tensor:
    """The two classes of each class's wrong labels in the authors' code, (C, 2).

    They are drawn with seed 1 in every run, by NumPy's legacy generator, whose stream is frozen.
    """
    draw = np.random.RandomState(1)
    classes = np.arange(num_classes)
    pairs = [draw.choice(classes[classes != i], 2, replace=False) for i in classes]
    return torch.from_numpy(np.stack(pairs))


def draw_labels(labels: Tensor, matrix: Tensor, generator: torch.Generator) -> Tensor:
    """For each of ``labels`` (N,) a noisy label drawn from its row of ``matrix``."""
    uniform = torch.rand(len(labels), 1, dtype=torch.float64, generator=generator)
    cumulative = matrix.cumsum(1)[labels]
    # The last sum can be below 1 by rounding.
    return (uniform >= cumulative).sum(1).clamp(max=len(matrix) - 1)


def noisy_labels(labels: Tensor, config: Config, superclass: Tensor | None = None) -> Tensor:
    """The run's noisy labels of training samples (N,), seeded by the run. superclass: of each
    class (C,), for hierarchical noise."""
    generator = new_generator(config.seed, "label noise")
    matrix = noise_matrix(
        config.noise, config.noise_level, config.num_classes, generator, superclass
    )
    return draw_labels(labels, matrix, generator)
