"""The mixed second derivative of T1-T2 by a central difference of first derivatives.

Liu, Simonyan, Yang. DARTS: Differentiable Architecture Search. ICLR 2019, arXiv:1806.09055.
Choe et al. Making Scalable Meta Learning Practical (SAMA). NeurIPS 2023, arXiv:2310.05674.
"""

from dataclasses import dataclass

from .along_gradient import shifted
from .base import Estimate, OneStep, Point, check_positive
from .problem import norm, zeros_for_none


@dataclass(frozen=True)
class FiniteDifference(OneStep):
    """T1T2's hypergradient with its mixed derivative by a central difference along v.

        theta+- = theta +- r v / |v|,   v = dL_V/dtheta at theta' = theta - eta dL_T/dtheta
        indirect term = -eta |v| (dL_T/dlambda(theta+) - dL_T/dlambda(theta-)) / (2 r)

    The error is O(r^2) on smooth networks; a kink (ReLU) between theta- and theta+ adds an error
    that does not vanish with r, and in float32 rounding grows as 1/r. Cost: 4 forwards, 2 backwards
    to theta, 2 to lambda; memory: a plain step's.

    inner_lr: as T1T2. radius: r, in units of theta's Euclidean norm, not relative. outer_loss is
    L_V at theta'. Diagnostics as T1T2.
    """

    radius: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(radius=self.radius)

    def estimate(self, at: Point) -> Estimate:
        inner_loss, step = at.stepped(self.inner_lr)
        outer_loss, v, direct = at.outer_step(step.theta)
        step.theta.clear()
        direction = step.pulled_back(v)
        length = norm(direction)
        points = [shifted(at, direction, length, s * self.radius) for s in (1, -1)]
        sides = [at.hyper_gradient(point)[1] for point in points]
        plus, minus = (zeros_for_none(side, at.hyper) for side in sides)
        factor = step.factor * length / (2 * self.radius)
        found = {n: factor * (plus[n] - minus[n]) for n in at.hyper}
        diagnostics = {"inner_loss": inner_loss, "outer_grad_norm": norm(v)}
        return Estimate(outer_loss, found, direct, diagnostics)
