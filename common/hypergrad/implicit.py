"""Hypergradients by the implicit function theorem, at an optimum of the inner problem.

Pedregosa. Hyperparameter Optimization with Approximate Gradient. ICML 2016, arXiv:1602.02355.
Rajeswaran, Finn, Kakade, Levine. Meta-Learning with Implicit Gradients. NeurIPS 2019,
arXiv:1909.04630. Lorraine, Vicol, Duvenaud. Optimizing Millions of Hyperparameters by Implicit
Differentiation. AISTATS 2020, arXiv:1911.02590.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    Tensors,
    check_dependence,
    detached,
    leaves,
    norm,
    with_direct_term,
    zeros_for_none,
)
from common.hypergrad.randomness import draw_seeds, replayed_randomness
from common.hypergrad.second_order import flat, inner_gradient, split_like
from common.hypergrad.t1t2 import InnerLR, check_inner_lr, current, outer_step

Solver = Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(x -> H x, v) to (about H^-1 v, what it saw), on vectors over all parameters."""


class Solution(NamedTuple):
    """x with matrix x ~ target; |target - matrix x| / |target| as the recursion has it; how many
    products it took; whether it stopped at a direction of negative curvature."""

    x: Tensor
    residual: Tensor
    iterations: int
    indefinite: bool


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, iterations: int, tolerance: float
) -> Solution:
    """Hestenes and Stiefel's recursion from x = 0 for a symmetric positive definite matrix.

        alpha = r.r / p.Ap,   x += alpha p,   r' = r - alpha Ap,   p = r' + (r'.r' / r.r) p

    product: p -> A p, called at most ``iterations`` times. Ends early once |r| is at most
    ``tolerance`` |target|, or, with x as it is, at p.Ap <= 0: the matrix is not positive definite.
    """
    x, r, p = torch.zeros_like(target), target.clone(), target.clone()
    start = square = target @ target
    done, indefinite = 0, False
    while done < iterations and not square <= tolerance**2 * start:  # goes on if not a number
        image = product(p)
        done += 1
        curvature = p @ image
        if not curvature > 0:
            indefinite = True
            break
        alpha = square / curvature
        x += alpha * p
        r -= alpha * image
        previous, square = square, r @ r
        p = r + (square / previous) * p
    residual = (square / start.clamp_min(torch.finfo(start.dtype).tiny)).sqrt()
    return Solution(x, residual, done, indefinite)


def implicit_hypergradient(
    problem: BilevelProblem,
    params: Tensors,
    hyper: Tensors,
    inner_batch: Any,
    outer_batch: Any,
    generator: torch.Generator | None,
    solve: Solver,
) -> Hypergradient:
    """-x . d2L_T/(dtheta dlambda) + direct term with x = solve(H, v), all at ``params``."""
    theta, hyper = detached(params), leaves(hyper)
    inner_seed, outer_seed = draw_seeds(2, generator)
    with replayed_randomness([*theta.values(), *hyper.values()]) as replay:
        replay(outer_seed)
        outer_loss, v, direct = outer_step(problem, theta, hyper, outer_batch)
        replay(inner_seed)
        inner = inner_gradient(problem, theta, hyper, inner_batch)

        def product(vector: Tensor) -> Tensor:
            return flat(inner.hessian_product(split_like(vector, theta)))

        x, seen = solve(product, flat(v))
        found = inner.mixed_product(split_like(-x, theta))
    check_dependence(found, direct)
    diagnostics = {
        "inner_loss": inner.loss,
        "inner_grad_norm": norm(detached(inner.grads)),
        "outer_grad_norm": norm(v),
        **seen,
    }
    grads = with_direct_term(zeros_for_none(found, hyper), direct)
    return Hypergradient(grads, outer_loss, diagnostics)


@dataclass(frozen=True)
class ImplicitCG:
    """dL_V(theta*(lambda))/dlambda at theta* = theta, by conjugate gradients.

        indirect term = -x . d2L_T/(dtheta dlambda),   (H + damping I) x = v,
        H = d2L_T/dtheta2,   v = dL_V/dtheta

    all at theta, which is taken for an optimum of the inner problem: away from one (see
    ``inner_grad_norm``) this is no hypergradient. H times a vector is one double backward. Cost: 2
    forwards, 2 backwards and at most iterations + 1 backwards through a backward; memory: the graph
    of dL_T/dtheta and 5 vectors of theta's size. For inner problems that are solved, or nearly: no
    trajectory, no step size. In exact arithmetic as many iterations as parameters are exact; a few
    dozen do if the eigenvalues of H + damping I lie together.

    The matrix must be positive definite, and a network's H need not be. A direction of negative
    curvature ends the iterations with the x so far, and is reported; if already the first one is
    such, ValueError: raise damping. (A positive damping also bounds x along flat directions, and
    is iMAML's proximal term.)

    iterations: at most so many. damping: added to the diagonal, in units of H. tolerance: ends the
    iterations at this residual relative to |v|. inner_batch is one batch, best a large one: the
    randomness and batch of one evaluation stand for the whole L_T. outer_loss is L_V at theta.
    Diagnostics: ``inner_loss``, ``inner_grad_norm`` |dL_T/dtheta|, ``outer_grad_norm`` |v|,
    ``residual_norm`` relative to |v|, ``iterations`` done, ``negative_curvature`` met or not.
    """

    iterations: int
    damping: float = 0.0
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        if not self.iterations >= 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not self.damping >= 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")

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
        return implicit_hypergradient(
            problem, params, hyper, inner_batch, outer_batch, generator, self._solve
        )

    def _solve(
        self, product: Callable[[Tensor], Tensor], v: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found = conjugate_gradient(
            lambda p: product(p) + self.damping * p, v, self.iterations, self.tolerance
        )
        if found.indefinite and found.iterations == 1:
            raise ValueError(
                "the inner Hessian is not positive along dL_V/dtheta, or not finite: theta is no "
                f"inner optimum; raise damping above {self.damping}, or train theta further"
            )
        return found.x, {
            "residual_norm": found.residual,
            "iterations": torch.tensor(found.iterations),
            "negative_curvature": torch.tensor(found.indefinite),
        }


@dataclass(frozen=True)
class Neumann:
    """ImplicitCG's hypergradient with H^-1 by ``terms`` terms of its Neumann series.

        x = eta sum_{j < terms} (I - eta H)^j v   ->   H^-1 v   for 0 < eta < 2 / |H|

    At an inner optimum this is Unrolled's hypergradient of as many steps of size eta; one term is
    T1T2 with v at theta instead of theta'. Along an eigenvector of H with eigenvalue h the error is
    (1 - eta h)^terms, so flat directions count as damped, and negative curvature or a large eta
    makes x grow: see ``last_term_norm``. Cost: 2 forwards, 2 backwards and ``terms`` backwards
    through a backward; memory: the graph of dL_T/dtheta and 4 vectors of theta's size. For inner
    problems that are nearly solved, with eta that of their SGD.

    inner_lr: eta. terms: how many. inner_batch is one batch. outer_loss is L_V at theta.
    Diagnostics: as ImplicitCG up to ``outer_grad_norm``; ``last_term_norm``, that of the last term
    relative to |x|.
    """

    inner_lr: InnerLR
    terms: int

    def __post_init__(self) -> None:
        check_inner_lr(self.inner_lr)
        if not self.terms >= 1:
            raise ValueError(f"terms must be at least 1, got {self.terms}")

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
        return implicit_hypergradient(
            problem, params, hyper, inner_batch, outer_batch, generator, self._solve
        )

    def _solve(
        self, product: Callable[[Tensor], Tensor], v: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        eta = current(self.inner_lr)
        term, x = eta * v, eta * v
        for _ in range(self.terms - 1):
            term = term - eta * product(term)
            x += term
        tiny = torch.finfo(x.dtype).tiny
        return x, {"last_term_norm": term.norm() / x.norm().clamp_min(tiny)}
