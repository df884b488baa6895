"""The mixed second derivative of T1-T2 by a central difference of first derivatives.

Liu, Simonyan, Yang. DARTS: Differentiable Architecture Search. ICLR 2019, arXiv:1806.09055.
Choe et al. Making Scalable Meta Learning Practical (SAMA). NeurIPS 2023, arXiv:2310.05674.
"""

from dataclasses import dataclass

from .along_gradient import both_sides
from .base import Estimate, InnerSGD, Point, check_positive
from .problem import norm, zeros_for_none


@dataclass(frozen=True)
class FiniteDifference(InnerSGD):
    """T1T2's hypergradient with its mixed derivative by a central difference along v.

        theta+- = theta +- r v / |v|,   v = dL_V/dtheta at theta' = theta - eta dL_T/dtheta
        indirect term = -eta |v| (dL_T/dlambda(theta+) - dL_T/dlambda(theta-)) / (2 r)

    The error is O(r^2) on smooth networks; a kink (ReLU) between theta- and theta+ adds an error
    that does not vanish with r, and in float32 rounding grows as 1/r. Cost: 4 forwards, 2 backwards
    to theta, 2 to lambda; memory: a plain step's.

    inner_lr: eta. radius: r, in units of theta's Euclidean norm, not relative. outer_loss is L_V at
    theta'. Diagnostics as T1T2.
    """

    radius: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(radius=self.radius)

    def estimate(self, at: Point) -> Estimate:
        eta = self.eta
        inner_loss, theta_next = at.sgd_step(eta)
        outer_loss, v, direct = at.outer_step(theta_next)
        del theta_next
        length = norm(v)
        sides = [grads for _, grads in both_sides(at, v, length, self.radius)]
        plus, minus = (zeros_for_none(side, at.hyper) for side in sides)
        factor = -eta * length / (2 * self.radius)
        found = {n: factor * (plus[n] - minus[n]) for n in at.hyper}
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": length}
        return Estimate(outer_loss, found, direct, diagnostics, reached=sides)
