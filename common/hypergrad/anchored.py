"""EvoGrad with one candidate at theta itself, whose loss the base step computes anyway.

A variant of Bohdal, Yang, Hospedales (EvoGrad, NeurIPS 2021, arXiv:2106.10575).
"""

from dataclasses import dataclass

from .evograd import EvoGrad


@dataclass(frozen=True)
class AnchoredEvoGrad(EvoGrad):
    """EvoGrad(anchored=True): eps_1 = 0. For K = 2, with eps_2 = eps,

        theta* = theta + w_2 eps,  g = dL_V/dtheta at theta*
        indirect term = -(w_1 w_2 / tau) <g, eps> (dl_2/dlambda - dl_1/dlambda)

    whose mean, for small sigma, is half of EvoGrad's, whose candidates lie further apart; the noise
    around it is the same relative to it. With ``anchor`` from the base step the cost is 2 forwards,
    1 backward to theta and 1 to lambda, beside a base step that also asks for dL_T/dlambda.
    """

    anchored: bool = True
