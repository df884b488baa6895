"""The settings at which the estimators of common/estimators.py are measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.cost_study.case import CostProblem
from common.estimators import ESTIMATORS
from common.hypergrad import EvoGrad
from common.hypergrad.base import Estimator
from common.hypergrad.layer_sampled import layer_of

PLAIN = "plain"
"""The plain training step, as a row beside the methods."""
NOT_RUN = "not measured at this size"
"""Why a method has no row: the case shows the main methods only."""
INNER_STEPS = 4


@dataclass(frozen=True)
class Method:
    """One row of the study's tables: an estimator (by its name in the registry) and its settings.

    A setting may be a function of the case. main: measured in every case. compiles: measured under
    torch.compile too. most_hyper: the largest number of hyperparameters that makes sense.
    """

    name: str
    estimator: str
    settings: Mapping[str, Any]
    main: bool = False
    compiles: bool = False
    most_hyper: int | None = None

    def make(self, case: CostProblem) -> Estimator:
        """The estimator for a case."""
        given = {n: v(case) if callable(v) else v for n, v in self.settings.items()}
        entry = ESTIMATORS[self.estimator]
        # EvoGrad alone: the others' rows are those of an estimator as it comes.
        perturb = {"perturb": case.perturb} if entry.kind is EvoGrad else {}
        return entry.build(inner_lr=case.inner_lr, **perturb, **given)

    @property
    def inner_steps(self) -> int:
        """Length of the sequence of inner batches that it wants; 0: one batch as it is."""
        return INNER_STEPS if ESTIMATORS[self.estimator].several_steps else 0


def _last_layer(case: CostProblem) -> list[str]:
    return [layer_of(list(case.params)[-1])]


# Damped so much that no iteration meets negative curvature or ends early: the network of a cost
# case is untrained, and an iteration costs the same whatever it computes.
_CG = {"iterations": 4, "damping": 1e6, "tolerance": 0.0}
_STEPS = {"steps": INNER_STEPS}
# Estimator -> words after its label, its settings, and how it is measured.
_SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "layer_sampled": (", last layer", {"layers": _last_layer}, {}),
    "unrolled": (f", {INNER_STEPS} steps", _STEPS, {}),
    "reversible": (f", {INNER_STEPS} steps", {**_STEPS, "momentum": 0.9}, {}),
    "forward_mode": (f", {INNER_STEPS} steps", _STEPS, {"most_hyper": 16}),
    "implicit_cg": (", 4 iterations", _CG, {}),
    "neumann": (", 4 terms", {"terms": 4}, {}),
    "t1t2": ("", {}, {"main": True, "compiles": True}),
    "finite_difference": ("", {}, {"main": True, "compiles": True}),
    **dict.fromkeys(
        ("t1t2_higher", "t1t2_forward", "t1t2_mixed", "along_gradient"), ("", {}, {"main": True})
    ),
}
_CANDIDATES = (2, 4, 16)
_BY_CANDIDATES = ("evograd", "evograd_graph", "evograd_forward")


def methods_of(estimator: str) -> list[Method]:
    """The rows of an estimator, the first standing for all."""
    label = ESTIMATORS[estimator].label
    if estimator in _BY_CANDIDATES:
        rows = []
        for count in _CANDIDATES:
            main = estimator == "evograd" and count == 2
            settings = {"num_candidates": count}
            rows.append(Method(f"{label}, K = {count}", estimator, settings, main, compiles=main))
        return rows
    words, settings, how = _SETTINGS.get(estimator, ("", {}, {}))
    return [Method(label + words, estimator, settings, **how)]


METHODS = tuple(method for name in ESTIMATORS for method in methods_of(name))


def reason_to_exclude(method: Method, case: CostProblem) -> str | None:
    """Why a method does not apply to a case; None if it does.

    A case excludes by the name of a method, with its K or steps or without ("EvoGrad forward"), or
    by that of an estimator, its class or registry name ("T1T2Forward", "t1t2_forward").
    """
    kind = ESTIMATORS[method.estimator].kind.__name__
    names = (method.name, method.name.split(",")[0], kind, method.estimator)
    for name, reason in case.excluded.items():
        if _bare(name) in map(_bare, names):
            return reason
    entries = sum(tensor.numel() for tensor in case.hyper.values())
    if method.most_hyper is not None and entries > method.most_hyper:
        return f"one backward for each of {entries:,} hyperparameters"
    return None


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
