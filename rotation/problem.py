"""The bilevel problem: a network trained on turned images, validated on truly rotated ones."""

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from rotation.models import rotate

Batch = tuple[Tensor, Tensor]
"""Pixels in [0, 1], (N, 1, 28, 28), and labels (N,)."""


class RotationProblem:
    """lambda is {"angle": radians}; theta are LeNet's parameters (it has no buffers)."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on upright training images, turned by the learned angle."""
        pixels, labels = batch
        return self._loss(params, rotate(pixels, hyper["angle"]), labels)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on rotated validation images as they are; the angle does not occur."""
        return self._loss(params, *batch)

    def _loss(self, params: Tensors, pixels: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.network, dict(params), (pixels,)), labels)
