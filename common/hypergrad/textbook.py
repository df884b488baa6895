"""EvoGrad as the paper writes it: softmax, merge, autograd; what the faster ways are held against.

Bohdal, Yang, Hospedales. EvoGrad: Efficient Gradient-Based Meta-Learning and Hyperparameter
Optimization. NeurIPS 2021, arXiv:2106.10575.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .problem import UNUSED_HYPER

Named = Mapping[str, Tensor]


def textbook_evograd(
    inner_losses: Callable[[Named, Named], Tensor],
    outer_loss: Callable[[Named, Named], Tensor],
    theta: Named,
    hyper: Named,
    noise: Named,
    temperature: float,
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """dL_V(theta*, lambda)/dlambda, L_V, l (K,) and w (K,), by torch.func, so it can be vmapped.

        theta_k = theta + eps_k,  l_k = L_T(theta_k, lambda),  w = softmax(-l / tau)
        theta* = theta + sum_k w_k eps_k

    inner_losses: (all theta_k, (K, *shape) by name; lambda) to l. outer_loss: (theta*, lambda) to
    L_V. noise: eps, (K, *shape) by name. Raises ValueError if L_V does not depend on lambda.
    """

    def loss_and_weights(hyper: Named) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        losses = inner_losses({n: theta[n] + eps for n, eps in noise.items()}, hyper)
        dtype = torch.promote_types(losses.dtype, torch.float32)
        weights = torch.softmax(-losses.to(dtype) / temperature, dim=0)
        merged = {
            n: theta[n] + sum(w * e for w, e in zip(weights.to(eps.dtype), eps, strict=True))
            for n, eps in noise.items()
        }
        loss = outer_loss(merged, hyper)
        if not loss.requires_grad:
            raise ValueError(UNUSED_HYPER)
        return loss, (losses, weights)

    grads, (loss, rest) = torch.func.grad_and_value(loss_and_weights, has_aux=True)(dict(hyper))
    return grads, loss, *rest
