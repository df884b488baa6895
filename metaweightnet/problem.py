"""The bilevel problem: a classifier trained on weighted noisy samples, validated on clean ones."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors


class Batch(NamedTuple):
    """images: normalised, (N, 3, side, side). labels: (N,). seen: the losses (N,) that the weight
    net sees in the inner loss, without gradient; None: those at the given parameters."""

    images: Tensor
    labels: Tensor
    seen: Tensor | None = None


def normalised(weights: Tensor) -> Tensor:
    """weights / sum(weights), so that they sum to one; unchanged if the sum is 0."""
    total = weights.sum()
    return weights / torch.where(total == 0, 1.0, total)


class MetaWeightProblem:
    """theta: the classifier's parameters; lambda: the weight net's (VNet's).

        L_T = sum_i w_i l_i,  w = V(s) / sum V(s),  l_i the cross-entropy of noisy sample i
        L_V = mean cross-entropy of a clean meta batch

    s, the input of V, is detached: l itself, or losses given with the batch. The choice matters.
    With s = l, detaching ignores that s depends on l, so the derivative by theta then lambda,
    which T1-T2 takes, is sum_i dw_i/dlambda dl_i/dtheta. Methods that compare L_T, or dL_T/dlambda,
    at several theta (EvoGrad, finite difference) see s move with theta, and estimate that plus
    sum_ij l_i d2w_i/(dlambda ds_j) dl_j/dtheta. With s held at the losses of the unperturbed
    network (``held``) the second term vanishes and all estimate the same.

    Batch norm is in training mode in both losses: it normalises by the statistics of the batch
    (those of each candidate's own activations). Its running statistics are written to clones of the
    buffers and dropped, so the network's own do not change.
    """

    def __init__(self, network: nn.Module, vnet: nn.Module) -> None:
        self.network, self.vnet = network, vnet

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The weighted training loss L_T."""
        return self.weighted(self.losses(params, batch), hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The loss L_V on clean samples; lambda does not occur."""
        return self.losses(params, batch).mean()

    def losses(self, params: Tensors, batch: Batch) -> Tensor:
        """The cross-entropy of every sample, (N,)."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        scores = functional_call(self.network, (dict(params), buffers), (batch.images,))
        return F.cross_entropy(scores, batch.labels, reduction="none")

    def weighted(self, losses: Tensor, hyper: Tensors, batch: Batch) -> Tensor:
        """sum_i w_i l_i of losses (N,)."""
        seen = losses.detach() if batch.seen is None else batch.seen
        weights = functional_call(self.vnet, dict(hyper), (seen,))
        return (normalised(weights) * losses).sum()

    @torch.no_grad()
    def held(self, params: Tensors, batch: Batch) -> Batch:
        """The batch whose weight net sees the losses at ``params``."""
        return batch._replace(seen=self.losses(params, batch))
