"""How the study measures each of the estimators in common/hypergrad/registry.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.hypergrad import (
    T1T2,
    AnchoredEvoGrad,
    EvoGrad,
    EvoGradAlongGradient,
    FiniteDifference,
    ForwardMode,
    HigherT1T2,
    ImplicitCG,
    LayerSampled,
    Neumann,
    Reversible,
    T1T2Forward,
    Unrolled,
)
from common.hypergrad.layer_sampled import layer_of
from common.hypergrad.registry import ESTIMATORS as REGISTRY
from common.hypergrad.registry import Entry
from common.study.case import Built

PLAIN = "plain"
"""The plain training step, as a row beside the methods."""


@dataclass(frozen=True)
class Method:
    """An estimator with its settings: one row of the study's tables.

    make: the estimator for a case. guess: how many plain steps it may cost, for what is measured
    first and what there is time for. always: measured however little time there is. inner_steps:
    length of the sequence of inner batches that it wants; 0: one batch as it is. compiles: measured
    under torch.compile too. most_hyper: entries of lambda it can cope with.
    """

    name: str
    make: Callable[[Built], Any]
    guess: float
    always: bool = False
    inner_steps: int = 0
    compiles: bool = False
    most_hyper: int | None = None


@dataclass(frozen=True)
class Estimator:
    """An estimator by its name in the registry, and the methods that measure it, the first for all.

    What the page says of it is in the registry too.
    """

    name: str
    methods: tuple[Method, ...]

    @property
    def entry(self) -> Entry:
        return REGISTRY[self.name]


def _evograd(mode: str, label: str, guesses: dict[int, float]) -> tuple[Method, ...]:
    """EvoGrad in a mode, for each K the guess of its cost."""

    def make(count: int) -> Callable[[Built], EvoGrad]:
        return lambda case: EvoGrad(count, mode=mode, perturb=case.perturb)

    return tuple(
        Method(
            f"EvoGrad{label}, K = {count}",
            make(count),
            guess,
            always=(mode, count) == ("streaming", 2),
            compiles=(mode, count) == ("streaming", 2),
        )
        for count, guess in guesses.items()
    )


def _last_layer(case: Built) -> list[str]:
    return [layer_of(list(case.params)[-1])]


def _implicit_cg(case: Built) -> ImplicitCG:
    # Damped so much that no iteration meets negative curvature or ends early: the network of a
    # cost case is untrained, and an iteration costs the same whatever it computes.
    return ImplicitCG(4, damping=1e6, tolerance=0.0)


ESTIMATORS = (
    Estimator(
        "evograd",
        methods=_evograd("streaming", "", {2: 4, 4: 7, 16: 20}),
    ),
    Estimator(
        "evograd_graph",
        methods=_evograd("graph", " graph", {2: 5, 4: 8, 16: 22}),
    ),
    Estimator(
        "evograd_forward",
        methods=_evograd("forward", " forward", {2: 5, 4: 10, 16: 38}),
    ),
    Estimator(
        "anchored",
        methods=(Method("AnchoredEvoGrad", lambda case: AnchoredEvoGrad(), 4),),
    ),
    Estimator(
        "along_gradient",
        methods=(Method("EvoGradAlongGradient", lambda case: EvoGradAlongGradient(), 4),),
    ),
    Estimator(
        "finite_difference",
        methods=(
            Method(
                "FiniteDifference", lambda case: FiniteDifference(case.inner_lr), 5, compiles=True
            ),
        ),
    ),
    Estimator(
        "t1t2",
        methods=(Method("T1T2", lambda case: T1T2(case.inner_lr), 6, always=True, compiles=True),),
    ),
    Estimator(
        "t1t2_higher",
        methods=(Method("HigherT1T2", lambda case: HigherT1T2(case.inner_lr), 6),),
    ),
    Estimator(
        "t1t2_forward",
        methods=(Method("T1T2Forward", lambda case: T1T2Forward(case.inner_lr), 5),),
    ),
    Estimator(
        "layer_sampled",
        methods=(
            Method(
                "LayerSampled, last layer",
                lambda case: LayerSampled(case.inner_lr, _last_layer(case)),
                5,
            ),
        ),
    ),
    Estimator(
        "unrolled",
        methods=(
            Method("Unrolled, 4 steps", lambda case: Unrolled(case.inner_lr, 4), 16, inner_steps=4),
        ),
    ),
    Estimator(
        "reversible",
        methods=(
            Method(
                "Reversible, 4 steps",
                lambda case: Reversible(case.inner_lr, 0.9, 4),
                24,
                inner_steps=4,
            ),
        ),
    ),
    Estimator(
        "forward_mode",
        methods=(
            Method(
                "ForwardMode, 4 steps",
                lambda case: ForwardMode(case.inner_lr, 4),
                18,
                inner_steps=4,
                most_hyper=16,
            ),
        ),
    ),
    Estimator(
        "implicit_cg",
        methods=(Method("ImplicitCG, 4 iterations", _implicit_cg, 14),),
    ),
    Estimator(
        "neumann",
        methods=(Method("Neumann, 4 terms", lambda case: Neumann(case.inner_lr, 4), 12),),
    ),
)


def all_methods() -> list[Method]:
    """Every method: those that are measured always, then the others, cheap ones first."""
    methods = [method for estimator in ESTIMATORS for method in estimator.methods]
    return sorted(methods, key=lambda method: (not method.always, method.guess))


def reason_to_exclude(method: Method, case: Built) -> str | None:
    """Why a method does not apply to a case; None if it does.

    A case excludes by the name of a method, with its K or steps or without ("EvoGrad forward"), or
    by that of an estimator's class, in whatever spelling ("T1T2Forward", "t1t2_forward").
    """
    kind = next(e.entry.kind.__name__ for e in ESTIMATORS if method in e.methods)
    names = {_bare(name) for name in (method.name, method.name.split(",")[0], kind)}
    for name, reason in case.excluded.items():
        if _bare(name) in names:
            return reason
    entries = sum(tensor.numel() for tensor in case.hyper.values())
    if method.most_hyper is not None and entries > method.most_hyper:
        return f"one backward for each of {entries:,} hyperparameters"
    return None


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
