"""Products with second derivatives of the inner loss by double backward, shared by estimators."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from .base import Point
from .problem import Grads, Tensors, gradients, gradients_by_both, gradients_or_none, leaves


@dataclass(frozen=True)
class InnerGradient:
    """dL_T/dtheta (``grads``) with its graph to the leaves ``theta`` and ``hyper``, for second
    derivatives; ``loss``: L_T without a graph."""

    loss: Tensor
    theta: dict[str, Tensor]
    hyper: Tensors
    grads: dict[str, Tensor]

    def mixed_product(self, vector: Tensors) -> Grads:
        """vector . d2L_T/(dtheta dlambda) by hyperparameter; frees the graph."""
        return gradients_or_none(*self._outputs(self.hyper, vector))

    def products(self, vector: Tensors) -> tuple[Grads, Grads]:
        """vector . d2L_T/dtheta2 and vector . d2L_T/(dtheta dlambda); frees the graph."""
        outputs, theta, vectors = self._outputs(self.theta, vector)
        return gradients_by_both(outputs, theta, self.hyper, vectors)

    def hessian_product(self, vector: Tensors) -> dict[str, Tensor]:
        """vector . d2L_T/dtheta2; keeps the graph for the next product."""
        return gradients(*self._outputs(self.theta, vector), retain_graph=True)

    def _outputs(self, by: Tensors, vector: Tensors) -> tuple[list[Tensor], Tensors, list[Tensor]]:
        return list(self.grads.values()), by, [vector[n] for n in self.grads]


def inner_gradient(
    at: Point, params: Tensors, step: int = 0, names: Collection[str] | None = None
) -> InnerGradient:
    """dL_T/dtheta at ``params`` on the batch of ``step``, with its graph.

    names: the parameters to differentiate by, the others are constants; None is all.
    """
    at.examination.need("a second derivative")
    theta = leaves({n: t for n, t in params.items() if names is None or n in names})
    loss = at.inner_loss({**params, **theta}, step=step)
    grads = gradients(loss, theta, create_graph=True)
    at.examination.check_twice_differentiable(grads)
    return InnerGradient(loss.detach(), theta, at.hyper, grads)
