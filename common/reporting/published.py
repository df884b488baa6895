"""The paper's numbers, from published.json beside this file.

Source: Bohdal, Yang, Hospedales, "EvoGrad: Efficient Gradient-Based Meta-Learning and
Hyperparameter Optimization", NeurIPS 2021, arXiv:2106.10575v2.
"""

import copy
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError

_COPIED = "_copied"


@dataclass(frozen=True)
class Published:
    """One published value with what the paper says about its spread."""

    mean: float
    spread: float | None = None
    kind: Literal["sd", "ci95"] | None = None  # what the spread is
    n: int | None = None  # runs behind the mean; for ci95, where known, test episodes
    copied: bool = False  # quoted by the paper from another paper, so run in another pipeline
    population: bool = False  # the sd divides by n, not by n - 1

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None where the paper gives no spread.

        ci95 / 1.96; sd / sqrt(n); and for a population sd, whose sample sd is
        sd sqrt(n / (n - 1)), sd / sqrt(n - 1).
        """
        if self.kind == "ci95":
            return self.spread / 1.96
        if self.kind == "sd" and self.n is not None and self.n > 1:
            return self.spread / math.sqrt(self.n - 1 if self.population else self.n)
        return None

    @property
    def single_run_error(self) -> float | None:
        """Standard error of one run like the published ones: their sample sd, or ci95 / 1.96.

        A confidence interval over test episodes is that of a single run already.
        """
        if self.standard_error is None or self.kind == "ci95":
            return self.standard_error
        return self.standard_error * math.sqrt(self.n)


def published(experiment: str) -> dict[str, Any]:
    """The paper's numbers for one experiment, as in published.json (a copy; toy_1d has none).

    Raises UserError for an unknown experiment.
    """
    data = _load()
    if experiment not in _LOOKUPS and experiment != "toy_1d":
        known = ", ".join(["toy_1d", *_LOOKUPS])
        raise UserError(f"There is no experiment {experiment!r}: choose one of {known}.")
    return copy.deepcopy(data.get(experiment, {}))


def published_value(experiment: str, *keys: str) -> Published | None:
    """One value of the paper's tables; None where the paper has none for that method.

        published_value("rotation", "evograd", "rotated")
        published_value("cross_domain_fewshot", "5shot", "resnet10", "lft_evograd", "cub")
        published_value("metaweightnet", "cifar10", "0.4", "evograd")
        published_value("metaxl", "evograd", "qu")

    Methods whose name ends in _copied are the columns that the paper quotes; Meta-Weight-Net's
    fine_tuning, l2rw and glc are quoted from the Meta-Weight-Net paper. Raises UserError for an
    unknown experiment, metric, data set, noise level, domain, backbone or language.
    """
    table = published(experiment)
    if not table:
        return None
    lookup, names = _LOOKUPS[experiment]
    if len(keys) != len(names):
        raise UserError(
            f"A published value of {experiment} is found by {', '.join(names)}, not by {keys}."
        )
    return lookup(table, *keys)


@functools.cache
def _load() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def _choose(options: dict[str, Any] | list[str], key: str, what: str) -> Any:
    """The entry for `key` (of a list: its index); UserError, naming the choices, without one."""
    if key not in options:
        raise UserError(
            f"There is no published {what} {key!r}: choose one of {', '.join(options)}."
        )
    return options.index(key) if isinstance(options, list) else options[key]


def _rotation(table: dict[str, Any], method: str, metric: str) -> Published | None:
    _choose(table["rows"]["baseline"], metric, "metric")
    value = table["rows"].get(method, {}).get(metric)
    return None if value is None else Published(*value, "sd", n=5, population=True)


def _cross_domain_fewshot(
    table: dict[str, Any], shots: str, backbone: str, method: str, domain: str
) -> Published | None:
    by_backbone = _choose({k: table[k] for k in ("1shot", "5shot")}, shots, "setting")
    by_method = _choose(by_backbone, backbone, "backbone")
    index = _choose(table["domains"], domain, "domain")
    if method not in by_method:
        return None
    return Published(*by_method[method][index], "ci95", n=1000, copied=method.endswith(_COPIED))


def _metaweightnet(
    table: dict[str, Any], dataset: str, noise: str, method: str
) -> Published | None:
    by_noise = _choose({k: table[k] for k in ("cifar10", "cifar100")}, dataset, "data set")
    by_method = _choose(by_noise, noise, "noise level")
    if method in by_method:
        return Published(*by_method[method], "sd", n=5, copied=method.endswith(_COPIED))
    related = table["related_work_same_network"][dataset]
    if method in related:
        return Published(*related[method][list(by_noise).index(noise)], "sd", n=5, copied=True)
    return None


def _metaxl(table: dict[str, Any], method: str, language: str) -> Published | None:
    index = _choose(table["languages"], language, "language")
    values = table.get(method)
    if not isinstance(values, list) or method == "languages":
        return None
    return Published(values[index], copied=method.endswith(_COPIED))


# experiment -> how its values are found, and what the keys are called
_LOOKUPS: dict[str, tuple[Callable[..., Published | None], tuple[str, ...]]] = {
    "rotation": (_rotation, ("method", "metric")),
    "cross_domain_fewshot": (
        _cross_domain_fewshot,
        ("shots", "backbone", "method", "domain"),
    ),
    "metaweightnet": (_metaweightnet, ("dataset", "noise", "method")),
    "metaxl": (_metaxl, ("method", "language")),
}
