"""T1-T2 with the mixed second derivative of a few layers only.

Xu, Zhu, Jiang, Yang. Faster Meta Update Strategy for Noise-Robust Deep Learning (FaMUS).
CVPR 2021, arXiv:2104.15092. There the layers are chosen by learned samplers; here uniformly.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from .base import Estimate, InnerSGD, Point, Seeds
from .problem import norm
from .randomness import draw_seeds
from .second_order import inner_gradient


def layer_of(name: str) -> str:
    """The module that holds a parameter: "body.0" of "body.0.weight"; "w" of "w" itself."""
    return name.rpartition(".")[0] or name


@dataclass(frozen=True)
class LayerSampled(InnerSGD):
    """T1T2's hypergradient from a subset S of the layers, in place of all L of them.

        indirect term = -eta (L / |S|) sum_{l in S} v_l . d2L_T/(dtheta_l dlambda)

    v as in T1T2, for all layers. With S drawn uniformly (``layers`` a number) the factor L / |S|
    makes the estimate unbiased: its mean over all S is T1T2's number. With a fixed S the factor is
    1: biased as a rule. Cost: 3 forwards, 2 backwards, and for S only 1 backward and 1 through it,
    which go no deeper than the shallowest layer of S (if lambda enters after the network); memory:
    a plain step's or the graph of dL_T/dtheta_S, whichever is more.

    A layer is a module with parameters of its own, named as in ``named_parameters`` without the
    last part. layers: the size of S, drawn anew at each call without replacement; or a predicate on
    layer names, or a list of them. Diagnostics as T1T2, and ``sampled`` (L,), which layers are in
    S, in the order of their first parameters.
    """

    layers: int | Callable[[str], bool] | Collection[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str):
            raise ValueError("layers must be a number, a predicate or a list of names, not a name")
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")

    def draw_seeds(self, generator: torch.Generator | None) -> Seeds:
        inner, outer, layers = draw_seeds(3, generator)
        return Seeds([inner], outer, [layers])

    def estimate(self, at: Point) -> Estimate:
        eta = self.eta
        names = list(dict.fromkeys(map(layer_of, at.theta)))
        sampled, factor = self._choose(names, at.seeds.own[0])
        chosen = [n for n in at.theta if layer_of(n) in sampled]
        inner_loss, step = at.stepped(eta)
        outer_loss, v, direct = at.outer_step(step.theta)
        del step
        inner = inner_gradient(at, at.theta, names=chosen)
        found = inner.mixed_product({n: -eta * factor * v[n] for n in chosen})
        diagnostics = {
            "inner_loss": inner_loss,
            "outer_grad_norm": norm(v),
            "sampled": torch.tensor([n in sampled for n in names]),
        }
        return Estimate(outer_loss, found, direct, diagnostics)

    def _choose(self, names: list[str], seed: int) -> tuple[set[str], float]:
        """S out of the names of all layers, and the factor."""
        if isinstance(self.layers, int):
            if self.layers > len(names):
                raise ValueError(f"layers = {self.layers} is more than there are: {len(names)}")
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
            chosen = order[: self.layers].tolist()
            return {names[i] for i in chosen}, len(names) / self.layers
        if callable(self.layers):
            sampled = {n for n in names if self.layers(n)}
        else:
            sampled = set(self.layers)
            if not sampled <= set(names):
                raise ValueError(
                    f"layers names {', '.join(sorted(sampled - set(names)))}, "
                    f"which is not among {', '.join(names)}"
                )
        if not sampled:
            raise ValueError(f"layers selects none of {', '.join(names)}")
        return sampled, 1.0
