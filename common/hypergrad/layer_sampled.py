"""T1-T2 with the mixed second derivative of a few layers only.

Xu, Zhu, Jiang, Yang. Faster Meta Update Strategy for Noise-Robust Deep Learning (FaMUS).
CVPR 2021, arXiv:2104.15092. There the layers are chosen by learned samplers; here uniformly.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    check_dependence,
    detached,
    gradients_or_none,
    leaves,
    norm,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, replayed_randomness
from common.hypergrad.second_order import inner_gradient
from common.hypergrad.t1t2 import InnerLR, check_inner_lr, current, outer_step, sgd_step


def layer_of(name: str) -> str:
    """The module that holds a parameter: "body.0" of "body.0.weight"; "w" of "w" itself."""
    return name.rpartition(".")[0] or name


@dataclass(frozen=True)
class LayerSampled:
    """T1T2's hypergradient from a subset S of the layers, in place of all L of them.

        indirect term = -eta (L / |S|) sum_{l in S} v_l . d2L_T/(dtheta_l dlambda)

    v = dL_V/dtheta at theta' = theta - eta dL_T/dtheta, for all layers, as in T1T2. With S drawn
    uniformly (``layers`` a number) the factor L / |S| makes the estimate unbiased: its mean over
    all S is T1T2's number. With a fixed S the factor is 1, and the sum is over the parameters of S
    alone: biased as a rule. Cost: 3 forwards, 2 backwards, and for S only 1 backward and 1
    through it, which go no deeper than the shallowest layer of S (if lambda enters after the
    network); memory: a plain step's or the graph of dL_T/dtheta_S, whichever is more. For
    networks whose double backward costs too much; last layers only are the cheapest.

    A layer is a module with parameters of its own, named as in ``named_parameters`` without the
    last part. layers: the size of S, drawn anew at each call without replacement; or a predicate on
    layer names, or a list of them. inner_lr: eta. outer_loss is L_V at theta'. Diagnostics as T1T2,
    and ``sampled`` (L,), which layers are in S, in the order of their first parameters.
    """

    inner_lr: InnerLR
    layers: int | Callable[[str], bool] | Collection[str]

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)
        if isinstance(self.layers, str):
            raise ValueError("layers must be a number, a predicate or a list of names, not a name")
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")

    def __call__(
        self,
        problem: BilevelProblem,
        params: Tensors,
        hyper: Tensors,
        inner_batch: Any,
        outer_batch: Any,
        generator: torch.Generator | None = None,
    ) -> Hypergradient:
        """The hypergradient at ``params`` and ``hyper``."""
        theta, hyper = detached(params), leaves(hyper)
        inner_seed, outer_seed, layer_seed = draw_seeds(3, generator)
        eta = current(self.inner_lr)
        names = list(dict.fromkeys(map(layer_of, theta)))
        sampled, factor = self._choose(names, layer_seed)
        chosen = [n for n in theta if layer_of(n) in sampled]
        with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
            replay(inner_seed)
            inner_loss, theta_next = sgd_step(problem, theta, hyper, inner_batch, eta)
            replay(outer_seed)
            outer_loss, v, direct = outer_step(problem, theta_next, hyper, outer_batch)
            del theta_next
            replay(inner_seed)
            inner = inner_gradient(problem, theta, hyper, inner_batch, chosen)
            found = inner.mixed_product({n: -eta * factor * v[n] for n in chosen})
            reached = found
            if all(grad is None for grad in found.values()):
                # lambda may act on other layers (a weight decay per layer): then zero is right.
                replay(inner_seed)
                reached = gradients_or_none(problem.inner_loss(theta, hyper, inner_batch), hyper)
        check_dependence(reached, direct)
        grads = zeros_for_none(found, hyper)
        diagnostics = {
            "inner_loss": inner_loss,
            "outer_grad_norm": norm(v),
            "sampled": torch.tensor([n in sampled for n in names]),
        }
        return Hypergradient(with_direct_term(grads, direct), outer_loss, diagnostics)

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
