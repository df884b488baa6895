"""Statistics of a run's weights: means over an epoch, histograms, the weight net's curve.

They are accumulated on the device, so that a step never waits for it.
"""

import torch
from torch import Tensor, nn

LOSS_GRID = torch.linspace(0, 8, 81)
"""Losses at which the learned weight is recorded."""
HISTOGRAM_MAX = 3.0
HISTOGRAM_BINS = 60


class Monitor(nn.Module):
    """Sums over the steps of an epoch, as buffers, so that a checkpoint contains them.

    Relative weights are a batch's normalised weights times its size: plain training gives every
    sample 1.
    """

    NAMES = ("train_loss", "meta_loss", "hypergradient_norm")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()  # metrics that the method has
        self.totals = nn.Buffer(torch.zeros(len(self.NAMES)))
        self.steps: Tensor = nn.Buffer(torch.zeros(len(self.NAMES)))  # that have the metric
        self.weights = nn.Buffer(torch.zeros(2))  # of samples with right and wrong labels
        self.samples = nn.Buffer(torch.zeros(2))
        self.histogram = nn.Buffer(torch.zeros(2, HISTOGRAM_BINS))

    def clear(self) -> None:
        """Begins an epoch."""
        for buffer in self.buffers():
            buffer.zero_()

    def add(self, metrics: dict[str, Tensor], relative_weights: Tensor, wrong: Tensor) -> None:
        """One step: its metrics (scalars, by NAMES), weights (N,) and which labels are wrong."""
        self.seen |= metrics.keys()
        for total, steps, name in zip(self.totals, self.steps, self.NAMES, strict=True):
            if name in metrics:
                total += metrics[name]
                steps += 1
        row = wrong.long()
        self.weights.scatter_add_(0, row, relative_weights)
        self.samples.scatter_add_(0, row, torch.ones_like(relative_weights))
        scaled = relative_weights * (HISTOGRAM_BINS / HISTOGRAM_MAX)
        column = scaled.long().clamp(max=HISTOGRAM_BINS - 1)
        flat = self.histogram.view(-1)
        flat.scatter_add_(0, row * HISTOGRAM_BINS + column, torch.ones_like(scaled))

    def means(self) -> dict[str, float]:
        """The epoch's mean of every metric that occurred, and of the relative weights on right
        and on wrong labels."""
        totals = dict(zip(self.NAMES, (self.totals / self.steps).tolist(), strict=True))
        values = {name: total for name, total in totals.items() if name in self.seen}
        names = ("weight_right", "weight_wrong")
        sums = zip(names, self.weights.tolist(), self.samples.tolist(), strict=True)
        return values | {name: total / count for name, total, count in sums if count}

    def histograms(self) -> dict[str, list[float]]:
        """Samples per bin of relative weight in the epoch; the last bin has all larger weights."""
        right, wrong = self.histogram.tolist()
        return {"histogram_right": right, "histogram_wrong": wrong}


@torch.no_grad()
def weight_curve(vnet: nn.Module) -> list[float]:
    """V(loss), not normalised, at LOSS_GRID."""
    device = next(vnet.parameters()).device
    return vnet(LOSS_GRID.to(device)).tolist()
