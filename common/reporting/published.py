"""The paper's numbers: each experiment has them in its published.json.

Source: Bohdal, Yang, Hospedales, "EvoGrad: Efficient Gradient-Based Meta-Learning and
Hyperparameter Optimization", NeurIPS 2021, arXiv:2106.10575v2.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
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
    """The paper's numbers for one experiment, as in its published.json ({} without one).

    UserError for an unknown experiment.
    """
    folder = ROOT / experiment
    if not (folder / "config.py").exists():
        raise UserError(f"There is no experiment {experiment!r}: no folder has that name.")
    path = folder / "published.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def published_value(experiment: str, *keys: str) -> Published | None:
    """One value of the paper's tables; None where the paper has none for that method.

        published_value("rotation", "evograd", "rotated")
        published_value("cross_domain_fewshot", "5shot", "resnet10", "lft_evograd", "cub")

    The file says what the keys are (``keys``), what the spread is (``spread``), and which methods
    are ``quoted`` from other papers, besides those whose name ends in _copied. UserError for
    another number of keys and for a key, other than the method, that its values do not have.
    """
    table = published(experiment)
    if not table:
        return None
    names = table["keys"]
    if len(keys) != len(names):
        raise UserError(
            f"A published value of {experiment} is found by {', '.join(names)}, not by {keys}."
        )
    value: Any = table["values"]
    for key, name in zip(keys, names, strict=True):
        if key not in value:
            if name == "method":
                return None
            raise UserError(
                f"There is no published {name} {key!r}: choose one of {', '.join(value)}."
            )
        value = value[key]
    if value is None:
        return None
    method = keys[names.index("method")]
    copied = method.endswith(_COPIED) or method in table.get("quoted", ())
    mean, spread = value if isinstance(value, list) else (value, None)
    return Published(mean, spread, copied=copied, **table.get("spread", {}))
