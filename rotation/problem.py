"""The bilevel problem: a network trained on turned images, validated on truly rotated ones."""

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from rotation.models import normalise, rotation_layer

Batch = tuple[Tensor, Tensor]
"""Pixels in [0, 1], (N, 1, 28, 28), and labels (N,)."""


class RotationProblem:
    """lambda is {"angle": radians}; theta are LeNet's parameters (it has no buffers).

    turned: what the rotation layer turns, see ``rotation_layer``.
    """

    def __init__(self, network: nn.Module, turned: str) -> None:
        self.network, self.turned = network, turned

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on upright training images, turned by the learned angle."""
        pixels, labels = batch
        return self._loss(params, rotation_layer(pixels, hyper["angle"], self.turned), labels)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on rotated validation images as they are; the angle does not occur."""
        pixels, labels = batch
        return self._loss(params, normalise(pixels), labels)

    def _loss(self, params: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.network, dict(params), (images,)), labels)
