"""The bilevel problem in one dimension, and its exact hypergradient.

    L_T(x, lambda) = (x - 1)^2 + lambda x^2,   L_V(x) = (x - 1/2)^2

The inner optimum is x*(lambda) = 1 / (1 + lambda), so there

    dL_V(x*)/dlambda = (lambda - 1) / (lambda + 1)^3.
"""

from torch import Tensor

from common.hypergrad import Tensors


class OneDimensional:
    """theta is {"x": scalar}, lambda is {"lambda": scalar}; no batches."""

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        return (params["x"] - 1) ** 2 + hyper["lambda"] * params["x"] ** 2

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        """All candidates at once, x of shape (K,)."""
        return self.inner_loss(candidates, hyper)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        return validation_loss(params["x"])


def validation_loss(x: Tensor) -> Tensor:
    """L_V, element by element."""
    return (x - 0.5) ** 2


def inner_gradient(x: Tensor, lam: Tensor) -> Tensor:
    """dL_T/dx, element by element."""
    return 2 * (x - 1) + 2 * lam * x


def exact_hypergradient(lam: Tensor) -> Tensor:
    """dL_V(x*(lambda))/dlambda at the inner optimum, element by element."""
    return (lam - 1) / (lam + 1) ** 3
