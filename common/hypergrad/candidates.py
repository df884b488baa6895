"""EvoGrad's candidates: perturbed copies of the parameters, regenerated from seeds, not stored."""

from collections.abc import Collection
from typing import Literal, cast

import torch
from torch import Tensor

from .base import Point, check_positive
from .problem import BatchedCandidates, Tensors, flat, split_like, with_strides_of
from .randomness import perturbation

Kind = Literal["sign", "gaussian"]


def check_candidates(sigma: float, temperature: float, perturbation: str) -> None:
    """ValueError, naming the setting, for one that makes no sense."""
    check_positive(sigma=sigma, temperature=temperature)
    if perturbation not in ("sign", "gaussian"):
        raise ValueError(f"perturbation must be sign or gaussian, got {perturbation!r}")


def softmax_weights(losses: Tensor, temperature: float) -> Tensor:
    """w = softmax(-l / tau), in float32 at least: half precision loses the differences."""
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return torch.softmax(-losses.to(dtype) / temperature, dim=0)


class Candidates:
    """theta_k = theta + eps_k for k = 0 .. count - 1 at one point.

    names: the perturbed parameters. noise: eps by name, each (count, *shape); None draws it, eps_k
    from the point's own seed k, again whenever it is asked for. antithetic: eps_{k+1} = -eps_k for
    even k. anchored: eps_0 = 0. Vectors run over all perturbed parameters.
    """

    def __init__(
        self,
        at: Point,
        names: Collection[str],
        count: int,
        sigma: float,
        kind: Kind,
        antithetic: bool = False,
        anchored: bool = False,
        noise: Tensors | None = None,
    ) -> None:
        self.at, self.count, self.noise = at, count, noise
        self.sigma, self.kind, self.antithetic, self.anchored = sigma, kind, antithetic, anchored
        self.theta = {n: at.theta[n] for n in names}

    def epsilon(self, k: int) -> Tensor:
        """eps_k as a vector, a fresh tensor."""
        if self.noise is not None:
            return torch.cat([self.noise[n][k].reshape(-1) for n in self.theta])
        sign = 1.0
        if self.antithetic and k % 2:
            k, sign = k - 1, -1.0
        if self.anchored and k == 0:
            return torch.zeros_like(flat(self.theta))
        return perturbation(self.kind, sign * self.sigma, self.theta, self.at.seeds.own[k])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector by name."""
        return split_like(vector, self.theta)

    def shifted(self, vector: Tensor) -> dict[str, Tensor]:
        """theta + vector, the perturbed parameters by name."""
        return self.at.moved(self.theta, self.split(vector), "sigma", self.sigma)

    def weighted_noise(self, weights: Tensor) -> Tensor:
        """sum_k w_k eps_k, so that theta* = theta + this (the weights sum to one)."""
        total = self.epsilon(0)
        weights = weights.to(total.dtype)
        total = total * weights[0]
        for k in range(1, self.count):
            total += self.epsilon(k) * weights[k]
        return total

    def stacked_noise(self) -> dict[str, Tensor]:
        """All eps_k by name, (count, *shape)."""
        noise = [self.split(self.epsilon(k)) for k in range(self.count)]
        return {n: torch.stack([eps[n] for eps in noise]) for n in self.theta}

    def stacked(self) -> dict[str, Tensor]:
        """All theta_k by name, (count, *shape)."""
        noise = self.stacked_noise()
        return {n: t + noise.pop(n) for n, t in self.theta.items()}

    def losses_at_once(self, candidates: Tensors, hyper: Tensors) -> Tensor:
        """l (count,) at the stacked ``candidates``, by the problem's own ``inner_losses``."""
        at, problem = self.at, cast(BatchedCandidates, self.at.problem)
        stacked = {n: t.expand(self.count, *t.shape) for n, t in at.values.items()}
        stacked |= candidates
        losses = at.evaluate(
            problem.inner_losses, at.seeds.inner[0], stacked, hyper, at.inner_batches[0]
        )
        if losses.shape != (self.count,):
            raise ValueError(f"inner_losses must return shape ({self.count},), got {losses.shape}")
        return losses

    def losses_in_turn(self, candidates: Tensors, hyper: Tensors, seeds: list[int]) -> Tensor:
        """The same by ``inner_loss``; seeds: the variation of each candidate's."""
        losses = []
        for k, seed in enumerate(seeds):
            theta_k = {n: with_strides_of(self.theta[n], c[k]) for n, c in candidates.items()}
            losses.append(self.at.inner_loss(theta_k, hyper, variation=seed))
        return torch.stack(losses)

    @property
    def batched(self) -> bool:
        """Whether the problem computes all candidates' losses at once."""
        return isinstance(self.at.problem, BatchedCandidates)
