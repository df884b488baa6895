"""Hypergradient estimators as pure tensor functions; usable without the rest of the project.

Every estimator is a small frozen dataclass, called the same way:

    result = estimator(problem, params, hyper, inner_batch, outer_batch, generator=None)

It leaves parameters, buffers, ``.grad`` and torch's random states as they were (with
``generator=None`` it draws its seeds from torch's global CPU generator, its only trace).
"""

from .along_gradient import EvoGradAlongGradient, FiniteDifference
from .base import Anchor, Estimate, Estimator, InnerSGD, OneStep, Point
from .checks import NotFiniteError
from .compare import Comparison, compare
from .evograd import EvoGrad
from .evograd_variants import (
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    EvoGradDifferences,
    EvoGradForward,
    EvoGradGraph,
    textbook_evograd,
)
from .higher_t1t2 import HigherT1T2
from .hyper_optimizer import HyperOptimizer
from .implicit import ImplicitCG, Neumann
from .inner_step import LearnedLR
from .layer_sampled import LayerSampled
from .problem import BatchedCandidates, BilevelProblem, Hypergradient, Tensors
from .reversible import Reversible
from .self_test import Report, check
from .t1t2 import T1T2, T1T2Forward, T1T2MixedMode
from .unrolled import ForwardMode, Unrolled

__version__ = "0.2.0"

__all__ = [
    "T1T2", "Anchor", "AnchoredEvoGrad", "AnchoredEvoGradDifferences", "BatchedCandidates",
    "BilevelProblem", "Comparison", "Estimate", "Estimator", "EvoGrad", "EvoGradAlongGradient",
    "EvoGradDifferences", "EvoGradForward", "EvoGradGraph", "FiniteDifference", "ForwardMode",
    "HigherT1T2", "HyperOptimizer", "Hypergradient", "ImplicitCG", "InnerSGD", "LayerSampled",
    "LearnedLR", "Neumann", "NotFiniteError", "OneStep", "Point", "Report", "Reversible",
    "T1T2Forward", "T1T2MixedMode", "Tensors", "Unrolled", "check", "compare", "textbook_evograd",
]  # fmt: skip
