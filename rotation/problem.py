"""The bilevel problem: a network trained on turned images, validated on truly rotated ones."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from rotation.models import normalise, rotation_layer


class Batch(NamedTuple):
    """pixels: in [0, 1], (N, 1, 28, 28). labels: (N,)."""

    pixels: Tensor
    labels: Tensor


class RotationProblem:
    """lambda is {"angle": radians}; theta are LeNet's parameters (it has no buffers).

    turned: what the rotation layer turns, see ``rotation_layer``.
    """

    def __init__(self, network: nn.Module, turned: str) -> None:
        self.network, self.turned = network, turned

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on upright training images, turned by the learned angle."""
        images = rotation_layer(batch.pixels, hyper["angle"], self.turned)
        return self._loss(params, images, batch.labels)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy on rotated validation images as they are; the angle does not occur."""
        return self._loss(params, normalise(batch.pixels), batch.labels)

    def _loss(self, params: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.network, dict(params), (images,)), labels)
