"""Hypergradients by the implicit function theorem, at an optimum of the inner problem.

Pedregosa. Hyperparameter Optimization with Approximate Gradient. ICML 2016, arXiv:1602.02355.
Rajeswaran, Finn, Kakade, Levine. Meta-Learning with Implicit Gradients. NeurIPS 2019,
arXiv:1909.04630. Lorraine, Vicol, Duvenaud. Optimizing Millions of Hyperparameters by Implicit
Differentiation. AISTATS 2020, arXiv:1911.02590.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .base import Estimate, Estimator, InnerSGD, Point, check_at_least
from .checks import BY_THETA
from .problem import Hypergradient, detached, flat, norm, split_like
from .second_order import inner_gradient

Product = Callable[[Tensor], Tensor]
"""x -> H x, on vectors over all parameters."""


class Solution(NamedTuple):
    """x with A x ~ target; |target - A x| / |target| by the recursion; the number of products;
    whether it stopped at a direction of negative curvature."""

    x: Tensor
    residual: Tensor
    iterations: int
    indefinite: bool


def conjugate_gradient(
    product: Product,
    target: Tensor,
    iterations: int,
    tolerance: float,
    begin: Tensor | None = None,
) -> Solution:
    """Hestenes and Stiefel's recursion for a symmetric positive definite matrix, from x = 0, or
    from ``begin`` for a product more.

        alpha = r.r / p.Ap,   x += alpha p,   r' = r - alpha Ap,   p = r' + (r'.r' / r.r) p

    product: p -> A p, called at most ``iterations`` times. Ends early once |r| is at most
    ``tolerance`` |target|, or, with x as it is, at p.Ap <= 0: the matrix is not positive definite.
    """
    x, r, p = torch.zeros_like(target), target.clone(), target.clone()
    start = square = target @ target
    if begin is not None:
        x, r = begin.clone(), target - product(begin)
        p, square = r.clone(), r @ r
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


class Implicit(Estimator):
    """-x . d2L_T/(dtheta dlambda) + direct term with x = solve(H, v), all at theta."""

    def estimate(self, at: Point, warm: Hypergradient | None = None) -> Estimate:
        """warm: an earlier result, from whose x the solution starts, for one product with H more;
        worth it where theta and lambda have moved little."""
        at.examination.need(BY_THETA)
        outer_loss, v, direct = at.outer_step(at.theta)
        inner = inner_gradient(at, at.theta)
        target = flat(v)
        begin = None if warm is None else warm.diagnostics["solution"]
        if begin is not None and begin.shape != target.shape:
            raise ValueError("warm is a result at other parameters: hand over one of this model's")
        x, seen = self.solve(
            lambda vector: flat(inner.hessian_product(split_like(vector, at.theta))), target, begin
        )
        diagnostics = {
            "inner_loss": inner.loss,
            "inner_grad_norm": norm(detached(inner.grads)),
            "outer_grad_norm": norm(v),
            **seen,
            "solution": x,
        }
        found = inner.mixed_product(split_like(-x, at.theta))
        return Estimate(outer_loss, found, direct, diagnostics)

    @abstractmethod
    def solve(
        self, product: Product, v: Tensor, begin: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """About H^-1 v, from ``begin`` on (None: 0), and diagnostics of the solution."""


@dataclass(frozen=True)
class ImplicitCG(Implicit):
    """dL_V(theta*(lambda))/dlambda at theta* = theta, by conjugate gradients.

        indirect term = -x . d2L_T/(dtheta dlambda),   (H + damping I) x = v,
        H = d2L_T/dtheta2,   v = dL_V/dtheta

    all at theta, which must be near an optimum of the inner problem (see ``inner_grad_norm``). H
    times a vector is one double backward. Cost: 2 forwards, 2 backwards and at most iterations + 1
    backwards through a backward; memory: the graph of dL_T/dtheta and 5 vectors of theta's size. As
    many iterations as parameters are exact; a few dozen suffice if the eigenvalues of H + damping I
    lie together. The matrix must be positive definite: a direction of negative curvature ends the
    iterations with the x so far, and is reported; ValueError if the first direction is one: raise
    damping (iMAML's proximal term).

    iterations: at most so many. damping: added to the diagonal, in units of H. tolerance: ends the
    iterations at this residual relative to |v|. inner_batch is one batch, which stands for the
    whole L_T, so a large one is best. outer_loss is L_V at theta.
    Diagnostics: ``inner_loss``, ``inner_grad_norm`` |dL_T/dtheta|, ``outer_grad_norm`` |v|,
    ``residual_norm`` relative to |v|, ``iterations`` done, ``negative_curvature`` met or not,
    ``solution`` x, a vector over all parameters. A result handed over as ``warm=`` to the next call
    makes the solution start from its x.
    """

    iterations: int
    damping: float = 0.0
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        check_at_least(1, iterations=self.iterations)
        check_at_least(0, damping=self.damping, tolerance=self.tolerance)

    def solve(
        self, product: Product, v: Tensor, begin: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found = conjugate_gradient(
            lambda p: product(p) + self.damping * p, v, self.iterations, self.tolerance, begin
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
class Neumann(Implicit, InnerSGD):
    """ImplicitCG's hypergradient with H^-1 by ``terms`` terms of its Neumann series.

        x = eta sum_{j < terms} (I - eta H)^j v   ->   H^-1 v   for 0 < eta < 2 / |H|

    At an inner optimum this is Unrolled's hypergradient of as many steps of size eta; one term is
    T1T2 with v at theta instead of theta'. Along an eigenvector of H with eigenvalue h the error is
    (1 - eta h)^terms, so flat directions count as damped, and negative curvature or a large eta
    makes x grow: see ``last_term_norm``; ValueError (on a CPU) where terms grow a hundredfold.
    Cost: 2 forwards, 2 backwards and ``terms`` backwards through a backward; memory: the graph of
    dL_T/dtheta and 4 vectors of theta's size. For inner problems that are nearly solved, with eta
    that of their SGD.

    inner_lr: eta. terms: how many. The rest as ImplicitCG, ``warm`` too, with ``last_term_norm``,
    that of the last term relative to |x|, for the diagnostics between ``outer_grad_norm`` and
    ``solution``.
    """

    terms: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, terms=self.terms)

    def solve(
        self, product: Product, v: Tensor, begin: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        eta = self.eta
        term, x = eta * v, eta * v
        if begin is not None:  # the same series for what is left of v
            term = eta * (v - product(begin))
            x = begin + term
        for _ in range(self.terms - 1):
            term = term - eta * product(term)
            x += term
        if v.is_cpu and not isinstance(v, FakeTensor) and term.norm() > 100 * (eta * v).norm():
            raise ValueError(
                f"the terms of the Neumann series grow: inner_lr = {eta:g} is too large for the "
                "inner Hessian (it must be below 2 / |H|), or theta is no inner optimum; lower "
                "inner_lr, or take ImplicitCG with damping"
            )
        tiny = torch.finfo(x.dtype).tiny
        return x, {"last_term_norm": term.norm() / x.norm().clamp_min(tiny)}
