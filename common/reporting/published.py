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


def published(experiment: str) -> dict[str, Any]:
    """The paper's numbers for one experiment, as in its published.json ({} without one)."""
    path = ROOT / experiment / "published.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def published_value(experiment: str, *keys: str) -> Published | None:
    """One value of the paper's tables; None where the paper has none for that method.

        published_value("rotation", "evograd", "rotated")
        published_value("cross_domain_fewshot", "5shot", "resnet10", "lft_evograd", "cub")

    The file says what the keys are (``keys``), what the spread is (``spread``), and which methods
    are ``quoted`` from other papers, besides those whose name ends in _copied. UserError for a key,
    other than the method, that its values do not have.
    """
    table = published(experiment)
    value: Any = table.get("values")
    for key, name in zip(keys, table.get("keys", ()), strict=bool(table)):
        if name != "method" and key not in value:
            raise UserError(f"There is no published {name} {key!r}: use one of {', '.join(value)}.")
        value = value.get(key)
        if value is None:
            return None
    if value is None:
        return None
    method = keys[table["keys"].index("method")]
    copied = method.endswith("_copied") or method in table.get("quoted", ())
    mean, spread = value if isinstance(value, list) else (value, None)
    return Published(mean, spread, copied=copied, **table.get("spread", {}))
