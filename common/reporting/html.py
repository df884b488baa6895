"""The report: every table and figure in one HTML file that needs nothing but itself.

The page is the template ``report.html.j2``, which escapes all text. Figures are inlined as PNG, the
style sheet (report.css) as text; there are no scripts, and the page forbids itself to load anything
from elsewhere.
"""

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.errors import UserError
from common.files import write_atomic
from common.reporting.figures import Figure
from common.reporting.markup import split_markup
from common.reporting.statistics import VERDICT_RULE
from common.reporting.tables import MISSING, Heading, Number, Table, VerdictCell, runs_text
from common.reporting.versions import versions_table

# A sign besides colour and border, for black and white and for those who do not see the colours.
_JUDGEMENTS = {"agrees": "✓", "near": "≈", "differs": "✗", "not judged": "·"}
_SIGNS = _JUDGEMENTS | {"supported": "✓", "contradicted": "✗", "undecided": "?"}
_PIXEL_SCALE = 0.66  # CSS pixels per picture pixel: sharp on dense screens, readable on others
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """One part of the report, usually one experiment.

    `intro` is plain text with blank lines between paragraphs, lists of lines that begin with
    "- ", and the markup of `markup.py`, which notes and captions have too.
    """

    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    runs: int | None = None  # runs whose records are there
    planned_runs: int | None = None


def write_report(
    sections: Sequence[Section],
    path: str | Path,
    title: str,
    provenance: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    intro: str = "",
) -> Path:
    """Write the report to `path` in one step; returns the path.

    `provenance`: that of the process, or of every run shown (differing values are then listed
    with their number of runs). Raises UserError when a figure's file is missing.
    """
    return write_atomic(path, render_report(sections, title, provenance, intro))


def render_report(
    sections: Sequence[Section],
    title: str,
    provenance: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    intro: str = "",
) -> str:
    """The report as HTML text; see `write_report`."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.tests["list_item"] = lambda line: line.startswith("- ")
    parts: list[dict[str, Any]] = [
        {"section": section, "anchor": anchor, "runs": _runs(section), "verdicts": _count(section)}
        for section, anchor in zip(sections, _anchors(sections), strict=True)
    ]
    known = [s for s in sections if s.runs is not None and s.planned_runs is not None]
    return environment.get_template("report.html.j2").render(
        title=title,
        intro=intro,
        parts=parts,
        present=sum(s.runs for s in known),
        planned=sum(s.planned_runs for s in known),
        judged=sum(p["verdicts"][v] for p in parts for v in _JUDGEMENTS if v != "not judged"),
        judgements=list(_JUDGEMENTS),
        signs=_SIGNS,
        rule=VERDICT_RULE,
        versions=versions_table([provenance] if isinstance(provenance, Mapping) else provenance),
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        split_markup=split_markup,
        blocks=_blocks,
        runs_text=runs_text,
        number_parts=_number_parts,
        number_class=lambda t, i: Markup(' class="number"') if t.is_numeric(i) else "",
        picture_of=_picture,
    )


def _blocks(text: str) -> list[list[str]]:
    """The lines of each paragraph or list of a plain text."""
    return [
        [line.strip() for line in block.splitlines()]
        for block in re.split(r"\n\s*\n", text.strip())
        if block
    ]


def _number_parts(number: Number) -> tuple[str, str]:
    """Value, and ± spread or nothing."""
    value, _, spread = str(number).removesuffix(number.mark).partition(" ")
    return value, spread


def _picture(figure: Figure) -> dict[str, Any]:
    """A figure's PNG for the page; its width and height, so that the page does not jump."""
    try:
        data = Path(figure.path_png).read_bytes()
    except OSError:
        raise UserError(
            f"The figure {figure.path_png} cannot be read: draw it again before the report."
        ) from None
    width, height = (round(int.from_bytes(data[i : i + 4]) * _PIXEL_SCALE) for i in (16, 20))
    return {"data": base64.b64encode(data).decode("ascii"), "width": width, "height": height}


def _count(section: Section) -> Counter[str]:
    """How often each verdict occurs in a section's tables."""
    rows = [row for t in section.tables for row in t.rows if not isinstance(row, Heading)]
    return Counter(c.verdict for row in rows for c in row if isinstance(c, VerdictCell))


def _runs(section: Section) -> str:
    return MISSING if section.runs is None else runs_text(section.runs, section.planned_runs)


def _anchors(sections: Sequence[Section]) -> list[str]:
    """One id per section, readable and unique; names of the closing sections are taken."""
    taken = ["verdicts", "versions"]
    for section in sections:
        base = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        anchor, number = base, 2
        while anchor in taken:
            anchor, number = f"{base}-{number}", number + 1
        taken.append(anchor)
    return taken[2:]
