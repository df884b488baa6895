"""The report: Markdown with every table and figure, as one HTML file that needs nothing but itself.

Figures are inlined, the style sheet is report.css; there are no scripts, and the page forbids
itself to load anything. Beside the page lie the files that it links to.
"""

import base64
import html
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markdown import markdown
from markdown.extensions.toc import slugify

from common.errors import UserError
from common.files import write_atomic
from common.reporting.comparisons import runs_text
from common.reporting.figures import Figure
from common.reporting.tables import MISSING, Table, escape_markdown, markdown_grid, one_line

_PIXEL_SCALE = 0.66  # CSS pixels per picture pixel: sharp on dense screens, readable on others
_VERSIONS = {
    "python": "Python", "torch": "PyTorch", "torchvision": "torchvision", "higher": "higher",
    "numpy": "NumPy", "platform": "platform", "cpu": "processor", "cpu_cores": "processor cores",
    "torch_threads": "PyTorch threads", "devices": "GPUs", "cuda": "CUDA", "cudnn": "cuDNN",
    "git_commit": "commit", "git_dirty": "uncommitted changes",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One part of the report, usually one experiment. intro: Markdown. tables: by the stem of
    their files in ``folder``."""

    title: str
    intro: str = ""
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    folder: Path | None = None
    runs: int | None = None  # runs whose records are there
    planned_runs: int | None = None


def write_report(
    sections: Sequence[Section],
    path: str | Path,
    title: str,
    provenance: Sequence[Mapping[str, Any]],
    intro: str = "",
    figures: Sequence[Figure] = (),
) -> Path:
    """Writes the report to ``path`` in one step. intro, figures: of the first screen. provenance:
    of every run shown. UserError when a figure's file is missing."""
    path = Path(path)
    first = "".join(_figure(figure, path.parent) for figure in figures)
    parts = [f"# {escape_markdown(title)}", intro, f'<div class="first">{first}</div>']
    lines = ["| section | runs |", "|---|---|"]
    for s in sections:
        link = f"[{escape_markdown(s.title)}](#{slugify(s.title, '-')})"
        runs = MISSING if s.runs is None else runs_text(s.runs, s.planned_runs)
        lines.append(f"| {link} | {runs} |")
    parts += ["## Contents", "\n".join(lines)]
    for section in sections:
        parts += [f"## {escape_markdown(section.title)}", section.intro.strip()]
        for stem, table in section.tables.items():
            parts += _table(table, section.folder, stem, path.parent)
        parts += [_figure(figure, path.parent) for figure in section.figures]
    parts.append("## Versions and devices")
    parts += _table(versions_table(provenance), None, "", path.parent)
    return write_atomic(path, _document(title, "\n\n".join(filter(None, parts))))


def versions_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """What the runs were made with; where runs differ, each value with its number of runs."""
    rows = []
    for key, name in _VERSIONS.items():
        counts = Counter(_text(run.get(key)) for run in runs)
        if set(counts) - {MISSING}:
            several = len(counts) > 1
            texts = (f"{t} (runs: {n})" if several else t for t, n in counts.most_common())
            rows.append((name, "; ".join(texts)))
    if finished := sorted(run["finished"] for run in runs if "finished" in run):
        rows.append(("runs finished (UTC)", f"{finished[0]} to {finished[-1]}"))
    if seconds := [run["wall_seconds"] for run in runs if "wall_seconds" in run]:
        rows.append(("wall time", f"{sum(seconds) / 3600:.1f} hours in {len(seconds)} runs"))
    return Table("", pd.DataFrame(rows, columns=["what", "value"]))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{n} × {item}" for item, n in Counter(map(str, value)).items()) or MISSING
    return MISSING if value is None else str(value)


def _table(table: Table, folder: Path | None, stem: str, page: Path) -> list[str]:
    """Heading, caption, cells, notes, and links to the table's files."""
    parts = [f"### {escape_markdown(table.title)}" if table.title else ""]
    parts += [one_line(table.caption), markdown_grid(table)]
    notes = [one_line(note) for note in table.notes]
    if folder is not None:
        place = _relative(folder, page)
        notes.append(" ".join(f"[{s}]({place}/{stem}.{s})" for s in ("csv", "tex", "md")))
    return [*parts, "\n".join(f"- {note}" for note in notes)]


def _relative(folder: Path, page: Path) -> str:
    return Path(os.path.relpath(folder, page)).as_posix()


def _figure(figure: Figure, page: Path) -> str:
    """The figure as HTML, with its width and height, so that the page does not jump."""
    try:
        data = figure.path_png.read_bytes()
    except OSError:
        raise UserError(
            f"The figure {figure.path_png} cannot be read: draw it again before the report."
        ) from None
    width, height = (round(int.from_bytes(data[i : i + 4]) * _PIXEL_SCALE) for i in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    pdf = _relative(figure.path_pdf.parent, page) + f"/{figure.path_pdf.name}"
    caption = markdown(one_line(f"{figure.caption} [pdf]({pdf})")).removeprefix("<p>")
    return (
        f'<figure><img src="{source}" alt="{html.escape(figure.alt)}" width="{width}" '
        f'height="{height}"><figcaption>{caption.removesuffix("</p>")}</figcaption></figure>'
    )


def _document(title: str, text: str) -> str:
    """The page of a Markdown text: wide tables scroll."""
    body = markdown(text, extensions=["tables", "toc"])
    # With the keyboard too where the table is wider than the page.
    body = body.replace("<table>", '<div class="scroll" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")

    def block(row: re.Match[str]) -> str:
        return f'<tr class="block"><td colspan="{row[0].count("<td")}">{row[1]}</td></tr>'

    # Markdown has no cell over several columns: a bold cell followed by empty ones heads a block.
    empty = r"(?:\s*<td[^>]*></td>)+"
    body = re.sub(rf"<tr>\s*<td[^>]*><strong>(.*?)</strong></td>{empty}\s*</tr>", block, body)
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
