"""Which rows a case has, and which of them are still to be measured."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.reporting.record_files import load
from common.study.case import CostCase, Size
from common.study.estimators import PLAIN, Method, all_methods
from common.study.measuring import Rounds
from common.study.records import Measurement, Point, Settings, measurement_path

Cases = Callable[[Size], list[CostCase]]
"""``cases`` of an experiment's cost room, a function that another process can import."""


@dataclass(frozen=True)
class Row:
    """One row of a case's table: the plain step (method None), a method, or a step that the case
    brings along (method None)."""

    name: str
    method: Method | None = None
    compiled: bool = False

    @property
    def always(self) -> bool:
        """Whether it is measured however little time there is."""
        return self.method.always if self.method else self.name == PLAIN


@dataclass(frozen=True)
class Job:
    """A case and how it is to be measured.

    words: only methods whose names hold one of these; empty for all. compiled: also under
    torch.compile. device: by torch's name.
    """

    point: Point
    cases: Cases
    settings: Settings
    folder: Path
    device: str
    rounds: Rounds
    words: tuple[str, ...] = ()
    compiled: bool = False

    def case(self) -> CostCase:
        """Found again by figure and x, in whatever process."""
        found = self.cases(self.settings.size)
        return next(c for c in found if (c.figure, c.x) == (self.point.figure, self.point.x))

    def rows(self, own_steps: Sequence[str]) -> list[Row]:
        """All rows, the most important first; a case's own step replaces a method of its name."""
        methods = [m for m in all_methods() if m.name not in own_steps]
        rows = [Row(PLAIN)]
        rows += [Row(m.name, m) for m in methods if m.always]
        rows += [Row(name) for name in own_steps]
        if self.compiled:
            rows.append(Row(PLAIN, compiled=True))
            rows += [Row(m.name, m, compiled=True) for m in methods if m.compiles]
        rows += [Row(m.name, m) for m in methods if not m.always]
        return [row for row in rows if row.name == PLAIN or self._wants(row.name)]

    def _wants(self, name: str) -> bool:
        return not self.words or any(word.lower() in name.lower() for word in self.words)

    def finished(self, row: Row) -> Measurement | None:
        """The measurement of a row, if it is there and made with these settings."""
        path = measurement_path(self.folder, self.point, row.name, row.compiled)
        found = load(path, Measurement) if path.exists() else None
        same = found and (found.point, found.settings) == (self.point, self.settings)
        return found if same else None

    def pending(self) -> list[Row]:
        """Rows still to be measured. Before the plain step is, the case's own steps are unknown."""
        plain = self.finished(Row(PLAIN))
        return [
            row for row in self.rows(plain.own_steps if plain else ()) if not self.finished(row)
        ]

    def spent(self) -> float:
        """Seconds that went into what is there."""
        plain = self.finished(Row(PLAIN))
        rows = self.rows(plain.own_steps if plain else ())
        return sum(found.wall_seconds for row in rows if (found := self.finished(row)))


def allowances(jobs: Sequence[Job], seconds: float, clock: Callable[[], float]) -> Iterator[float]:
    """Seconds for each job in turn, so that all together take about ``seconds`` (inf: no end).

    What a job leaves over goes to those after it. An experiment's first case, which shows all
    methods where the others show their growth, gets three times the time of another. Time that
    went into measurements which are there already counts. clock: seconds, read when a job's turn
    comes.
    """
    start = clock() - sum(job.spent() for job in jobs)
    experiments = [job.point.experiment for job in jobs]
    weights = [1 if name in experiments[:i] else 3 for i, name in enumerate(experiments)]
    for index, weight in enumerate(weights):
        if math.isinf(seconds):
            yield seconds
            continue
        left = max(0.0, seconds - (clock() - start))
        yield left * weight / sum(weights[index:])
