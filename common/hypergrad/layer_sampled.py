"""T1-T2 with the mixed second derivative of a few layers only.

Xu, Zhu, Jiang, Yang. Faster Meta Update Strategy for Noise-Robust Deep Learning (FaMUS).
CVPR 2021, arXiv:2104.15092. There the layers are chosen by learned samplers; here uniformly.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from .base import Estimate, Point, Seeds, check_at_least
from .problem import Grads, Tensors
from .randomness import draw_seeds
from .second_order import inner_gradient
from .t1t2 import LookAhead


def layer_of(name: str) -> str:
    """The module that holds a parameter: "body.0" of "body.0.weight"; "w" of "w" itself."""
    return name.rpartition(".")[0] or name


@dataclass(frozen=True)
class LayerSampled(LookAhead):
    """T1T2's hypergradient from a subset S of the layers, in place of all L of them.

        indirect term = -eta (L / |S|) sum_{l in S} v_l . d2L_T/(dtheta_l dlambda)

    v as in T1T2, for all layers. With S drawn uniformly (``layers`` a number) the factor L / |S|
    makes the estimate unbiased: its mean over all S is T1T2's number. With a fixed S the factor is
    1: biased as a rule. Cost: 3 forwards, 2 backwards, and for S only 1 backward and 1 through it,
    which go no deeper than the shallowest layer of S (if lambda enters after the network); memory:
    a plain step's or the graph of dL_T/dtheta_S, whichever is more.

    A layer is a module with parameters of its own, named as in ``named_parameters`` without the
    last part. layers: the size of S, drawn at each call without replacement; or a predicate on
    layer names, or a list of them. The rest as T1T2, with ``sampled`` (L,) among the diagnostics:
    which layers are in S, in the order of their first parameters.
    """

    layers: int | Callable[[str], bool] | Collection[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str):
            raise ValueError("layers must be a number, a predicate or a list of names, not a name")
        if isinstance(self.layers, int):
            check_at_least(1, layers=self.layers)

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        inner, outer, layers = draw_seeds(3, generator)
        return Seeds([inner], outer, [layers])

    def estimate(self, at: Point) -> Estimate:
        names, sampled = self._choose(at)
        found = super().estimate(at)
        found.diagnostics["sampled"] = torch.tensor([n in sampled for n in names])
        return found

    def mixed_product(self, at: Point, vector: Tensors, factor: float) -> Grads:
        names, sampled = self._choose(at)
        if isinstance(self.layers, int):
            factor = factor * (len(names) / self.layers)
        chosen = [n for n in at.theta if layer_of(n) in sampled]
        inner = inner_gradient(at, at.theta, names=chosen)
        return inner.mixed_product({n: factor * vector[n] for n in chosen})

    def _choose(self, at: Point) -> tuple[list[str], set[str]]:
        """The names of all layers, and S; the same at every call at one point."""
        names = list(dict.fromkeys(map(layer_of, at.theta)))
        if isinstance(self.layers, int):
            if self.layers > len(names):
                raise ValueError(f"layers = {self.layers} is more than there are: {len(names)}")
            generator = torch.Generator().manual_seed(at.seeds.own[0])
            chosen = torch.randperm(len(names), generator=generator)[: self.layers]
            return names, {names[i] for i in chosen.tolist()}
        sampled = set(filter(self.layers, names) if callable(self.layers) else self.layers)
        if unknown := sampled - set(names):
            raise ValueError(
                f"layers names {', '.join(sorted(unknown))}, which is not among {', '.join(names)}"
            )
        if not sampled:
            raise ValueError(f"layers selects none of {', '.join(names)}")
        return names, sampled
