"""The one table of all estimators: how the study measures each, and what docs/estimators.md says.

A new estimator is one entry here (and its file in common/hypergrad, and a parameter of the tests).
"""

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
    """An estimator as the page describes it, and the methods that measure it, the first for all."""

    kind: type
    needs: str
    exactness: str
    choose: str
    methods: tuple[Method, ...]


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
        EvoGrad,
        needs="first derivatives",
        exactness="an estimate: in expectation the direction of T1T2; noise shrinks as 1 / √K",
        choose="large networks, hyperparameters anywhere; the least memory",
        methods=_evograd("streaming", "", {2: 4, 4: 7, 16: 20}),
    ),
    Estimator(
        EvoGrad,
        needs="first derivatives; memory for K graphs where lambda acts inside the network",
        exactness="the same number",
        choose="reading, checking, vmap: the textbook",
        methods=_evograd("graph", " graph", {2: 5, 4: 8, 16: 22}),
    ),
    Estimator(
        EvoGrad,
        needs="forward-mode derivatives of the outer loss",
        exactness="the same number",
        choose="lambda after the network (loss weights), where even a plain step's memory is dear",
        methods=_evograd("forward", " forward", {2: 5, 4: 10, 16: 38}),
    ),
    Estimator(
        AnchoredEvoGrad,
        needs="first derivatives",
        exactness="an estimate as EvoGrad's for K = 2",
        choose="a base step that hands over its loss at theta (saves a forward; not measured here)",
        methods=(Method("AnchoredEvoGrad", lambda case: AnchoredEvoGrad(), 4),),
    ),
    Estimator(
        EvoGradAlongGradient,
        needs="first derivatives; a radius",
        exactness="a central difference along dL_V/dtheta at theta: no sampling noise",
        choose="first order without sampling noise, for the price of EvoGrad",
        methods=(Method("EvoGradAlongGradient", lambda case: EvoGradAlongGradient(), 4),),
    ),
    Estimator(
        FiniteDifference,
        needs="first derivatives; a radius",
        exactness="T1T2 up to O(r²) on smooth networks; kinks (ReLU) and rounding add to it",
        choose="T1T2's number in a plain step's memory, hyperparameters anywhere",
        methods=(
            Method(
                "FiniteDifference", lambda case: FiniteDifference(case.inner_lr), 5, compiles=True
            ),
        ),
    ),
    Estimator(
        T1T2,
        needs="double backward through every operation",
        exactness="exact for one unrolled step",
        choose="the reference, where its memory suffices",
        methods=(Method("T1T2", lambda case: T1T2(case.inner_lr), 6, always=True, compiles=True),),
    ),
    Estimator(
        HigherT1T2,
        needs="double backward; the higher library",
        exactness="exact for one unrolled step",
        choose="comparing with published timings only",
        methods=(Method("HigherT1T2", lambda case: HigherT1T2(case.inner_lr), 6),),
    ),
    Estimator(
        T1T2Forward,
        needs="forward-mode derivatives of the inner loss; lambda after the network",
        exactness="exact for one unrolled step",
        choose="loss weights: the exact number in a plain step's memory",
        methods=(Method("T1T2Forward", lambda case: T1T2Forward(case.inner_lr), 5),),
    ),
    Estimator(
        LayerSampled,
        needs="double backward through the chosen layers",
        exactness="layers drawn at random: unbiased for T1T2; a fixed choice: biased",
        choose="double backward too dear, and a few layers (the last) that say enough",
        methods=(
            Method(
                "LayerSampled, last layer",
                lambda case: LayerSampled(case.inner_lr, _last_layer(case)),
                5,
            ),
        ),
    ),
    Estimator(
        Unrolled,
        needs="double backward; memory for a graph per inner step",
        exactness="exact for k unrolled steps",
        choose="short horizons, any number of hyperparameters",
        methods=(
            Method("Unrolled, 4 steps", lambda case: Unrolled(case.inner_lr, 4), 16, inner_steps=4),
        ),
    ),
    Estimator(
        Reversible,
        needs="double backward; momentum; gradients reproducible bit for bit",
        exactness="exact for k steps on a grid of 2⁻⁴⁴",
        choose="long horizons, many hyperparameters",
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
        ForwardMode,
        needs="double backward; for every hyperparameter a backward and a vector like theta",
        exactness="exact for k unrolled steps",
        choose="long horizons, a handful of hyperparameters",
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
        ImplicitCG,
        needs="double backward; an inner optimum with positive curvature",
        exactness="exact at an inner optimum, given enough iterations",
        choose="solved inner problems: no step size, no trajectory",
        methods=(Method("ImplicitCG, 4 iterations", _implicit_cg, 14),),
    ),
    Estimator(
        Neumann,
        needs="double backward; near an inner optimum; a step size below 2 / |H|",
        exactness="exact at an inner optimum, given enough terms",
        choose="nearly solved inner problems",
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
    kind = next(e.kind.__name__ for e in ESTIMATORS if method in e.methods)
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
