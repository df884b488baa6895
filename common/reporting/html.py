"""The report: every table and figure in one HTML file that needs nothing but itself.

Figures are inlined as PNG, the style sheet (report.css) as text; there are no scripts, and the
page forbids itself to load anything from elsewhere.
"""

import base64
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_atomic
from common.reporting.figures import Figure
from common.reporting.markup import render_markup
from common.reporting.statistics import VERDICT_RULE
from common.reporting.tables import MISSING, Cell, Heading, Number, Table, VerdictCell, runs_text
from common.reporting.versions import versions_table

# A sign besides colour and border, for black and white and for those who do not see the colours.
_SIGNS = {"agrees": "✓", "near": "≈", "differs": "✗", "not judged": "·"}
_MARKUP = {
    "plain": html.escape,
    "code": lambda text: f"<code>{html.escape(text)}</code>",
    "bold": lambda text: f"<strong>{html.escape(text)}</strong>",
    "italic": lambda text: f"<em>{html.escape(text)}</em>",
}
_PIXEL_SCALE = 0.66  # CSS pixels per picture pixel: sharp on dense screens, readable on others


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
    runs = [provenance] if isinstance(provenance, Mapping) else list(provenance)
    anchors = _anchors([section.title for section in sections])
    body = [
        "<header>",
        f"<h1>{html.escape(title)}</h1>",
        _paragraphs(intro),
        "</header>",
        _contents(sections, anchors),
        "<main>",
        *(_section(section, anchor) for section, anchor in zip(sections, anchors, strict=True)),
        f'<section id="verdicts"><h2>How verdicts are judged</h2>{_verdict_rule()}</section>',
        '<section id="versions"><h2>Versions and devices</h2>',
        _table(versions_table(runs), wrap=True),
        "</section>",
        "</main>",
    ]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>\n{style}</style>",
        "</head>",
    ]
    return "\n".join([*head, "<body>", *body, "</body>", "</html>"]) + "\n"


def _contents(sections: Sequence[Section], anchors: Sequence[str]) -> str:
    """Contents, with the runs that are there and the verdicts of each section."""
    verdicts = [_count_verdicts(section) for section in sections]
    rows = []
    for section, anchor, count in zip(sections, anchors, verdicts, strict=True):
        cells = "".join(f'<td class="number">{count[v] or MISSING}</td>' for v in _SIGNS)
        link = f'<a href="#{anchor}">{html.escape(section.title)}</a>'
        rows.append(f'<tr><th scope="row">{link}</th><td>{_runs(section)}</td>{cells}</tr>')
    heads = "".join(f'<th scope="col" class="number">{_badge(v)}</th>' for v in _SIGNS)
    summary = []
    known = [s for s in sections if s.runs is not None and s.planned_runs is not None]
    if known:
        text = runs_text(sum(s.runs for s in known), sum(s.planned_runs for s in known))
        summary.append(f"<strong>{text}</strong> planned runs are in this report.")
    judged = sum(count[v] for count in verdicts for v in _SIGNS if v != "not judged")
    if judged:
        summary.append(f"{judged} numbers are judged against the paper's.")
    table = (
        '<div class="scroll"><table><thead><tr><th scope="col">section</th>'
        f'<th scope="col">runs</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    extra = (
        '<p>At the end: <a href="#verdicts">how verdicts are judged</a>, '
        '<a href="#versions">versions and devices</a>.</p>'
    )
    return f'<nav aria-label="Contents"><p>{" ".join(summary)}</p>{table}{extra}</nav>'


def _section(section: Section, anchor: str) -> str:
    parts = [f'<section id="{anchor}"><h2>{html.escape(section.title)}</h2>']
    if section.runs is not None:
        planned = " planned" if section.planned_runs is not None else ""
        parts.append(f'<p class="runs">{_runs(section)}{planned} runs are shown.</p>')
    parts.append(_paragraphs(section.intro))
    parts += [_table(table) for table in section.tables]
    parts += [_figure(figure) for figure in section.figures]
    parts += [_notes(section.notes), "</section>"]
    return "\n".join(part for part in parts if part)


def _table(table: Table, wrap: bool = False) -> str:
    numeric = [table.is_numeric(i) for i in range(len(table.columns))]
    spread = [table.has_spread(i) for i in range(len(table.columns))]
    columns = "".join(
        f'<th scope="col"{_number_class(n)}>{html.escape(c)}</th>'
        for c, n in zip(table.columns, numeric, strict=True)
    )
    rows = []
    for row in table.rows:
        if isinstance(row, Heading):
            span = f'<th scope="rowgroup" colspan="{len(table.columns)}">'
            rows.append(f'<tr class="block">{span}{html.escape(row.text)}</th></tr>')
            continue
        cells = [f'<th scope="row"{_number_class(numeric[0])}>{_cell(row[0], spread[0])}</th>']
        cells += [
            f"<td{_number_class(n)}>{_cell(cell, s)}</td>"
            for cell, n, s in zip(row[1:], numeric[1:], spread[1:], strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    name = html.escape(table.title)
    return "\n".join(
        [
            f"<h3>{name}</h3>" if name else "",
            _paragraphs(table.caption),
            # The region can be scrolled with the keyboard where the table is wider than the page.
            f'<div class="scroll" role="region" tabindex="0" aria-label="Table: {name}">',
            f"<table{' class=wrap' if wrap else ''}><thead><tr>{columns}</tr></thead>",
            f"<tbody>{''.join(rows)}</tbody></table></div>",
            _notes(table.notes),
        ]
    )


def _cell(cell: Cell, spread_column: bool) -> str:
    if isinstance(cell, VerdictCell):
        return _badge(cell.verdict)
    if not isinstance(cell, Number):
        return html.escape(str(cell))
    value, _, spread = str(cell).removesuffix(cell.mark).partition(" ")
    mark = f'<span class="mark">{html.escape(cell.mark)}</span>' if cell.mark else ""
    # Spread and mark have places of their own, so that the numbers of a column stand in line.
    if spread:
        return f'{value} <span class="spread">{spread}</span>{mark}'
    return value + mark + (' <span class="spread"></span>' if spread_column else "")


def _figure(figure: Figure) -> str:
    try:
        data = Path(figure.path_png).read_bytes()
    except OSError:
        raise UserError(
            f"The figure {figure.path_png} cannot be read: draw it again before the report."
        ) from None
    # A PNG's width and height stand at a fixed place; given here, the page does not jump.
    width, height = (round(int.from_bytes(data[i : i + 4]) * _PIXEL_SCALE) for i in (16, 20))
    encoded = base64.b64encode(data).decode("ascii")
    caption = f"<figcaption>{_inline(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f'<figure><img src="data:image/png;base64,{encoded}" alt="{html.escape(figure.alt)}" '
        f'width="{width}" height="{height}">{caption}</figure>'
    )


def _badge(verdict: str) -> str:
    style = verdict.replace(" ", "-")
    return f'<span class="badge {style}" data-sign="{_SIGNS[verdict]}">{verdict}</span>'


def _verdict_rule() -> str:
    badges = " ".join(_badge(verdict) for verdict in _SIGNS)
    return f"<p>{badges}</p><p>{html.escape(VERDICT_RULE)}</p>"


def _count_verdicts(section: Section) -> Counter[str]:
    rows = [row for t in section.tables for row in t.rows if not isinstance(row, Heading)]
    return Counter(c.verdict for row in rows for c in row if isinstance(c, VerdictCell))


def _runs(section: Section) -> str:
    return MISSING if section.runs is None else runs_text(section.runs, section.planned_runs)


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{_inline(note)}</li>" for note in notes)}</ul>'


def _paragraphs(text: str) -> str:
    """Paragraphs and lists of plain text; see Section."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines and all(line.startswith("- ") for line in lines):
            items = "".join(f"<li>{_inline(line[2:])}</li>" for line in lines)
            parts.append(f"<ul>{items}</ul>")
        elif lines:
            parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(parts)


def _inline(text: str) -> str:
    return render_markup(text, _MARKUP)


def _anchors(titles: Sequence[str]) -> list[str]:
    """One id per title, readable and unique; names of the closing sections are taken."""
    taken = {"verdicts", "versions"}
    anchors = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        anchor, number = base, 2
        while anchor in taken:
            anchor, number = f"{base}-{number}", number + 1
        taken.add(anchor)
        anchors.append(anchor)
    return anchors
