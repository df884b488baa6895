"""The rows of the study: estimators at the settings at which they are measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.cost_study.case import CostCase, CostProblem
from common.estimators import ESTIMATORS
from common.hypergrad.base import Estimator
from common.hypergrad.layer_sampled import layer_of

How = Literal["", "shared", "released", "compiled"]
PLAIN, EVOGRAD, T1T2, HIGHER = "plain", "evograd num_candidates=2", "t1t2", "t1t2_higher"
_HOW = {
    "": "", "shared": "sharing the base step", "released": "as released", "compiled": "compiled"
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What is measured: the plain step, or a step with an estimator (by its name in the registry)
    at some options.

    how: "": hypergradient, then base step; shared: what both need is computed once; released: as in
    the authors' code; compiled: as "", under torch.compile.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    how: How = ""

    @property
    def key(self) -> str:
        """As it is typed, and found in tables: "evograd num_candidates=2 released"."""
        return " ".join([self.method, *self._words, *([self.how] if self.how else [])])

    @property
    def label(self) -> str:
        """As it is read."""
        name = ESTIMATORS[self.method].label if self.method in ESTIMATORS else self.method
        return ", ".join(filter(None, (" ".join([name, *self._words]), _HOW[self.how])))

    @property
    def _words(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.options.items()]


STEPS = {"steps": 4}
_CANDIDATES = [{"num_candidates": count} for count in (2, 4, 16)]
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("evograd", "evograd_graph", "evograd_forward"), _CANDIDATES),
    "layer_sampled": [{"layers": "last"}],
    **{name: [STEPS] for name in ("unrolled", "reversible", "forward_mode")},
    "implicit_cg": [{"iterations": 4}],
    "neumann": [{"terms": 4}],
}
# What else an estimator is given. CG: damped so much that no iteration meets negative curvature or
# ends early, since the network of a cost case is untrained, and an iteration costs the same.
_GIVEN: dict[str, dict[str, Any]] = {
    "reversible": {"momentum": 0.9},
    "implicit_cg": {"damping": 1e6, "tolerance": 0.0},
}
MOST_HYPER = {"forward_mode": 16}
"""The largest number of hyperparameters that makes sense."""
ALL = [Row(name, options) for name in ESTIMATORS for options in _OPTIONS.get(name, [{}])]
"""The rows of all estimators, in the order of the tables; the first of an estimator's stands for
all of them."""
MAIN = (EVOGRAD, "along_gradient", "finite_difference", T1T2, HIGHER, "t1t2_forward", "t1t2_mixed")
"""Measured in every case."""
COMPILED = (EVOGRAD, "finite_difference", T1T2)
_OWN = [
    Row("evograd", {"num_candidates": 2}, "shared"),
    *(
        Row(name, options, "released")
        for name, options in (("evograd", {"num_candidates": 2}), ("t1t2", {}))
    ),
]
ORDER = [
    Row(PLAIN),
    *(Row(n, how="shared") for n, e in ESTIMATORS.items() if e.shares),
    *_OWN,
    *ALL,
]
BY_KEY = {row.key: row for row in ORDER}
RANK = {key: rank for rank, key in enumerate(BY_KEY)}


def rows_of(case: CostCase, compiled: bool = False) -> Iterator[Row]:
    """The rows of a case, in the order of the tables."""
    yield Row(PLAIN)
    for row in ORDER[1:]:
        own = row.key in case.own or (case.shared and row.how == "shared" and not row.options)
        main = not row.how and (row.key in MAIN or case.all_methods)
        if own or main:
            yield row
    if compiled:
        yield Row(PLAIN, how="compiled")
        for key in COMPILED:
            yield Row(BY_KEY[key].method, BY_KEY[key].options, "compiled")


def named(key: str, word: str) -> bool:
    """Whether a word stands for a row: it is the row's key, or no row's and in this one's."""
    return key == word or (word not in BY_KEY and word in key)


def estimator_of(row: Row, case: CostProblem) -> Estimator:
    """The estimator of a row, for a case."""
    entry, options = ESTIMATORS[row.method], dict(row.options)
    if "layers" in options:
        options["layers"] = [layer_of(list(case.params)[-1])]
    given = {"inner_lr": case.inner_lr, "perturb": case.perturb, **_GIVEN.get(row.method, {})}
    return entry.build(**given | options)


def reason_to_exclude(row: Row, case: CostProblem) -> str | None:
    """Why a row does not apply to a case; None if it does."""
    if row.method in case.excluded:
        return case.excluded[row.method]
    entries = sum(tensor.numel() for tensor in case.hyper.values())
    if entries > MOST_HYPER.get(row.method, entries):
        return f"one backward for each of {entries:,} hyperparameters"
    return None
