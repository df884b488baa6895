"""Tables as data; `table_formats` writes them as Markdown, LaTeX and CSV, `html` for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.reporting.published import Published
from common.reporting.statistics import Measured, Verdict, judge

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "±"
_APART = "At another size or on other data: shown for orientation, not judged"


@dataclass(frozen=True)
class Number:
    """A number in a cell: value ± spread at `digits` decimals, then a mark such as *."""

    value: float
    spread: float | None = None
    digits: int = 2
    signed: bool = False  # + for positive numbers, as in a column of differences
    mark: str = ""

    def __str__(self) -> str:
        """As read by people: 98.11 ± 0.32, with a true minus sign."""
        text = f"{self.value:{'+' if self.signed else ''}.{self.digits}f}"
        if self.signed and float(text) == 0:
            text = text.lstrip("+-")
        if self.spread is not None:
            text += f" {PLUS_MINUS} {self.spread:.{self.digits}f}"
        return text.replace("-", MINUS) + self.mark


@dataclass(frozen=True)
class VerdictCell:
    """How a measured value stands to the published one, or a claim to the evidence; the report
    shows it as a badge."""

    verdict: Verdict | Literal["supported", "contradicted", "undecided"]

    def __str__(self) -> str:
        return self.verdict


@dataclass(frozen=True)
class Heading:
    """A row of one cell over all columns, which heads the rows below it."""

    text: str


Cell = str | Number | VerdictCell
Row = tuple[Cell, ...] | Heading


@dataclass(frozen=True)
class Table:
    """A table: column names, rows of cells, a caption, and notes to be read below it.

    Caption and notes may have the light markup of `markup.py`; titles and cells are plain text.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if not isinstance(row, Heading) and len(row) != len(self.columns):
                raise ValueError(
                    f"Table {self.title!r}: {len(self.columns)} columns, but a row of {len(row)}"
                )

    def has_spread(self, column: int) -> bool:
        """Whether a number of the column has a spread."""
        cells = [row[column] for row in self.rows if not isinstance(row, Heading)]
        return any(isinstance(cell, Number) and cell.spread is not None for cell in cells)

    def is_numeric(self, column: int) -> bool:
        """Whether the column holds numbers (and gaps) only, so that it is aligned to the right."""
        cells = [row[column] for row in self.rows if not isinstance(row, Heading)]
        numbers = [cell for cell in cells if isinstance(cell, Number)]
        return bool(numbers) and all(cell == MISSING for cell in cells if cell not in numbers)


@dataclass(frozen=True)
class Comparison:
    """One row of a comparison table: what was published and what was measured for one setting."""

    label: str | tuple[str, ...]  # one entry per label column
    published: Published | None
    measured: Measured | None
    planned: int | None = None  # runs that make the row complete
    digits: int = 2
    comparable: bool = True  # same size and data as the paper; only such rows are judged
    floor: float = 1.0  # differences up to here always agree, in the row's unit

    @property
    def verdict(self) -> Verdict:
        """`judge`, for comparable rows."""
        if not self.comparable:
            return "not judged"
        return judge(self.published, self.measured, self.floor)


def comparison_table(
    title: str,
    rows: Sequence[Comparison],
    *,
    label_columns: tuple[str, ...] = ("",),
    caption: str = "",
    notes: Sequence[str] = (),
    apart_heading: str = _APART,
) -> Table:
    """Published beside measured: labels | published | measured | runs | difference | verdict.

    The difference is measured minus published. Rows that are not comparable follow in a block of
    their own under `apart_heading`, without a verdict. Notes that say what ± means, and what a
    mark means, are added.
    """
    columns = (*label_columns, "published", "measured", "runs", "difference", "verdict")
    judged = [_comparison_row(row) for row in rows if row.comparable]
    apart = [_comparison_row(row) for row in rows if not row.comparable]
    if apart:
        apart.insert(0, Heading(apart_heading))
    return Table(title, columns, (*judged, *apart), caption, (*_spread_notes(rows), *notes))


def runs_text(present: int, planned: int | None) -> str:
    """How many runs are there: "3 of 5"; "3" where no number was planned or there are more."""
    return str(present) if planned is None or present > planned else f"{present} of {planned}"


def _comparison_row(row: Comparison) -> Row:
    theirs, ours, digits = row.published, row.measured, row.digits
    mark = "*" if theirs and theirs.copied else ""
    published = Number(theirs.mean, theirs.spread, digits, mark=mark) if theirs else MISSING
    measured = Number(ours.mean, _measured_spread(row), digits) if ours else MISSING
    both = theirs and ours
    difference = Number(ours.mean - theirs.mean, None, digits, signed=True) if both else MISSING
    labels = (row.label,) if isinstance(row.label, str) else row.label
    runs = runs_text(ours.n if ours else 0, row.planned)
    return (*labels, published, measured, runs, difference, VerdictCell(row.verdict))


def _measured_spread(row: Comparison) -> float | None:
    """The spread of the kind that the published value has, so that like stands beside like."""
    if row.published is None or row.published.kind is None:
        return row.measured.sd if row.measured.n > 1 else row.measured.ci95
    if row.published.kind == "ci95":
        return row.measured.ci95
    return row.measured.population_sd if row.published.population else row.measured.sd


def _spread_notes(rows: Sequence[Comparison]) -> list[str]:
    """What ± means in this table, from the kinds that occur in it."""
    found = [row.published for row in rows if row.published is not None]
    notes = []
    deviations = [p for p in found if p.kind == "sd"]
    if deviations:
        kind = "population" if any(p.population for p in deviations) else "sample"
        notes.append(f"{PLUS_MINUS}: {kind} standard deviation over runs.")
    if any(p.kind == "ci95" for p in found):
        notes.append(
            f"{PLUS_MINUS}: half-width of the 95 % confidence interval; published and single "
            "runs: over test episodes; several runs: of their mean, by Student's t."
        )
    several = any(row.measured is not None and row.measured.n > 1 for row in rows)
    if several and not any(p.kind for p in found):
        notes.append(f"{PLUS_MINUS}: sample standard deviation over runs.")
    if any(p.copied for p in found):
        notes.append("*: quoted by the paper from another paper, whose pipeline it comes from.")
    return notes
