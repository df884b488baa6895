"""Hypergradient estimators as pure tensor functions; usable without the rest of the project.

Every estimator is a small frozen dataclass, called the same way:

    result = estimator(problem, params, hyper, inner_batch, outer_batch, generator=None)

It leaves parameters, buffers, ``.grad`` and torch's random states as they were (with
``generator=None`` it draws its seeds from torch's global CPU generator, its only trace).
"""

from common.hypergrad.along_gradient import EvoGradAlongGradient
from common.hypergrad.anchored import Anchor, AnchoredEvoGrad
from common.hypergrad.evograd import EvoGrad
from common.hypergrad.finite_difference import FiniteDifference
from common.hypergrad.forward_mode import ForwardMode
from common.hypergrad.higher_t1t2 import HigherT1T2
from common.hypergrad.hyper_optimizer import HyperOptimizer
from common.hypergrad.implicit import ImplicitCG, Neumann
from common.hypergrad.layer_sampled import LayerSampled
from common.hypergrad.problem import BatchedCandidates, BilevelProblem, Hypergradient, Tensors
from common.hypergrad.reversible import Reversible
from common.hypergrad.t1t2 import T1T2, T1T2Forward
from common.hypergrad.unrolled import Unrolled

__all__ = [
    "T1T2",
    "Anchor",
    "AnchoredEvoGrad",
    "BatchedCandidates",
    "BilevelProblem",
    "EvoGrad",
    "EvoGradAlongGradient",
    "FiniteDifference",
    "ForwardMode",
    "HigherT1T2",
    "HyperOptimizer",
    "Hypergradient",
    "ImplicitCG",
    "LayerSampled",
    "Neumann",
    "Reversible",
    "T1T2Forward",
    "Tensors",
    "Unrolled",
]
