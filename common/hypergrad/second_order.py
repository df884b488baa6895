"""Products with second derivatives of the inner loss by double backward, shared by estimators."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.hypergrad.problem import (
    BilevelProblem,
    Tensors,
    gradients,
    gradients_or_none,
    leaves,
    zeros_for_none,
)


@dataclass(frozen=True)
class InnerGradient:
    """dL_T/dtheta at one point together with its graph, from which second derivatives are taken.

    loss: L_T without a graph. theta, hyper: the leaves it was evaluated at. grads: dL_T/dtheta for
    the names in ``theta``, with a graph to both.
    """

    loss: Tensor
    theta: dict[str, Tensor]
    hyper: Tensors
    grads: dict[str, Tensor]

    def mixed_product(self, vector: Tensors) -> dict[str, Tensor | None]:
        """vector . d2L_T/(dtheta dlambda) by hyperparameter; frees the graph."""
        return gradients_or_none(list(self.grads.values()), self.hyper, self._ordered(vector))

    def products(
        self, vector: Tensors
    ) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
        """vector . d2L_T/dtheta2 and vector . d2L_T/(dtheta dlambda); frees the graph."""
        both = {("theta", n): t for n, t in self.theta.items()}
        both |= {("lambda", n): t for n, t in self.hyper.items()}
        found = gradients_or_none(list(self.grads.values()), both, self._ordered(vector))
        return (
            {n: found["theta", n] for n in self.theta},
            {n: found["lambda", n] for n in self.hyper},
        )

    def hessian_product(self, vector: Tensors) -> dict[str, Tensor]:
        """vector . d2L_T/dtheta2; keeps the graph for the next product."""
        return product_keeping_graph(list(self.grads.values()), self.theta, self._ordered(vector))

    def _ordered(self, vector: Tensors) -> list[Tensor]:
        return [vector[n] for n in self.grads]


def inner_gradient(
    problem: BilevelProblem,
    params: Tensors,
    hyper: Tensors,
    batch: Any,
    names: Collection[str] | None = None,
) -> InnerGradient:
    """dL_T/dtheta at ``params`` with its graph; ``hyper`` are leaves already.

    names: the parameters to differentiate by, the others are constants; None is all.
    """
    theta = leaves(params if names is None else {n: params[n] for n in params if n in names})
    point = {n: theta[n] if n in theta else t.detach() for n, t in params.items()}
    loss = problem.inner_loss(point, hyper, batch)
    return InnerGradient(loss.detach(), theta, hyper, gradients(loss, theta, create_graph=True))


def product_keeping_graph(
    outputs: Sequence[Tensor], inputs: Tensors, vectors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Vector-Jacobian product by name, zeros where nothing leads; the graph stays for the next."""
    connected = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    found = [None] * len(inputs)
    if connected:
        outputs, vectors = zip(*connected, strict=True)
        found = torch.autograd.grad(
            outputs, list(inputs.values()), vectors, retain_graph=True, allow_unused=True
        )
    return zeros_for_none(dict(zip(inputs, found, strict=True)), inputs)


def flat(tensors: Tensors) -> Tensor:
    """All entries as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def split_like(vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The inverse of ``flat``, with names, shapes and types of ``like``; views where it can."""
    pieces = vector.split([t.numel() for t in like.values()])
    named = zip(like.items(), pieces, strict=True)
    return {n: piece.view(t.shape).to(t.dtype) for (n, t), piece in named}
