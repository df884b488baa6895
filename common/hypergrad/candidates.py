"""EvoGrad's candidates: perturbed copies of the parameters, regenerated from seeds, not stored."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .base import GivenAnchor, LossGradient, Point
from .problem import BatchedCandidates, Tensors, flat, split_like, with_strides_of
from .randomness import perturbation

if TYPE_CHECKING:
    from .evograd import EvoGrad


def softmax_weights(losses: Tensor, temperature: float) -> Tensor:
    """w = softmax(-l / tau), in float32 at least: half precision loses the differences."""
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return torch.softmax(-losses.to(dtype) / temperature, dim=0)


def coefficients_of(weights: Tensor, slopes: Tensor, temperature: float) -> Tensor:
    """c_k = -(w_k / tau) (s_k - sum_j w_j s_j), of the slopes s_k = <g, eps_k>."""
    return -(weights / temperature) * (slopes - (weights * slopes).sum())


class Candidates:
    """theta_k = theta + eps_k for k = 0 .. K - 1 at one point, by the settings of an EvoGrad.

    noise: eps by name, each (K, *shape); None draws eps_k from the point's own seed k, again
    whenever it is asked for. Vectors run over all perturbed parameters. Raises ValueError if there
    are none.
    """

    def __init__(self, at: Point, settings: "EvoGrad", noise: Tensors | None = None) -> None:
        self.at, self.settings, self.noise = at, settings, noise
        perturb = settings.perturb or (lambda name: True)
        self.theta = {n: t for n, t in at.theta.items() if perturb(n)}
        if not self.theta:
            raise ValueError("perturb selects none of the parameters")
        self.count = settings.num_candidates
        self.batched = isinstance(at.problem, BatchedCandidates)

    def epsilon(self, k: int) -> Tensor:
        """eps_k as a vector, a fresh tensor."""
        if self.noise is not None:
            return torch.cat([self.noise[n][k].reshape(-1) for n in self.theta])
        scale = self.settings.sigma
        if self.settings.antithetic and k % 2:
            k, scale = k - 1, -scale
        if self.settings.anchored and k == 0:
            return torch.zeros_like(flat(self.theta))
        return perturbation(self.settings.perturbation, scale, self.theta, self.at.seeds.own[k])

    def shifted(self, vector: Tensor) -> dict[str, Tensor]:
        """theta + vector, the perturbed parameters by name."""
        by = split_like(vector, self.theta)
        return self.at.moved(self.theta, by, "sigma", self.settings.sigma)

    def candidate(self, k: int) -> dict[str, Tensor]:
        """theta_k, the perturbed parameters by name."""
        return self.shifted(self.epsilon(k))

    def merged(self, weights: Tensor) -> dict[str, Tensor]:
        """theta* = theta + sum_k w_k eps_k (the weights sum to one)."""
        total = self.epsilon(0)
        weights = weights.to(total.dtype)
        total = total * weights[0]
        for k in range(1, self.count):
            total += self.epsilon(k) * weights[k]
        return self.shifted(total)

    def stacked_noise(self) -> dict[str, Tensor]:
        """All eps_k by name, (K, *shape)."""
        noise = [split_like(self.epsilon(k), self.theta) for k in range(self.count)]
        return {n: torch.stack([eps[n] for eps in noise]) for n in self.theta}

    def loss_gradient(self, k: int, anchor: GivenAnchor = None) -> LossGradient:
        """l_k and dl_k/dlambda, of the one at theta from the base step's if it is given."""
        if self.settings.anchored and k == 0:
            return self.at.anchor(anchor)
        return self.at.hyper_gradient(self.candidate(k), self._variation(k))

    def losses(self, candidates: Tensors, hyper: Tensors) -> Tensor:
        """l (K,) at the stacked ``candidates``, at once if the problem offers that."""
        at = self.at
        if self.batched:
            stacked = {n: t.expand(self.count, *t.shape) for n, t in at.values.items()}
            evaluate = cast(BatchedCandidates, at.problem).inner_losses
            batch, seed = at.inner_batches[0], at.seeds.inner[0]
            losses = at.evaluate(evaluate, seed, stacked | dict(candidates), hyper, batch)
            if losses.shape != (self.count,):
                wanted = f"inner_losses must return shape ({self.count},)"
                raise ValueError(f"{wanted}, got {losses.shape}")
            return losses
        found = []
        for k in range(self.count):
            theta_k = {n: with_strides_of(self.theta[n], c[k]) for n, c in candidates.items()}
            found.append(at.inner_loss(theta_k, hyper, variation=self._variation(k)))
        return torch.stack(found)

    def _variation(self, k: int) -> int:
        """The change of the inner loss's seed, for each candidate or for none."""
        return 0 if self.settings.common_noise else self.at.seeds.own[k]
