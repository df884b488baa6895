"""Tables: a title, a data frame of cells, a caption and notes; as Markdown, LaTeX and CSV.

Cells are text or a ``Number``. Where the first column is named "block", a
row of Markdown and LaTeX heads the rows of each block. Captions and notes are inline Markdown:
`code`, **bold** and *italics*; titles and cells are plain text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import pandas as pd
from pylatexenc.latexencode import UnicodeToLatexEncoder

from common.files import write_atomic

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "±"
BLOCK = "block"
_LATEX = UnicodeToLatexEncoder(
    non_ascii_only=False, replacement_latex_protection="braces-after-macro"
)
_MARKUP = ((r"`([^`]+)`", "texttt"), (r"\*\*([^*]+)\*\*", "textbf"), (r"\*([^\s*][^*]*)\*", "emph"))


@dataclass(frozen=True)
class Number:
    """A number in a cell: value ± spread at ``digits`` decimals, then a mark such as *.

    The spread is half a 95 % interval unless the table says otherwise. sd: a sample standard
    deviation, for the CSV only.
    """

    value: float
    spread: float | None = None
    digits: int = 2
    signed: bool = False  # + for positive numbers, as in a column of differences
    mark: str = ""
    sd: float | None = None

    def __str__(self) -> str:
        """As read by people: 98.11 ± 0.32, with a true minus sign."""
        text = f"{self.value:{'+' if self.signed else ''}.{self.digits}f}"
        if self.signed and float(text) == 0:
            text = text.lstrip("+-")
        if self.spread is not None:
            text += f" {PLUS_MINUS} {self.spread:.{self.digits}f}"
        return text.replace("-", MINUS) + self.mark


Cell = str | Number


@dataclass(frozen=True)
class Table:
    """A table; see above."""

    title: str
    data: pd.DataFrame
    caption: str = ""
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without that of blocks."""
        return [str(name) for name in self.data.columns if name != BLOCK]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells, without the column of blocks."""
        cells = self.data.drop(columns=BLOCK, errors="ignore")
        return list(cells.itertuples(index=False, name=None))

    @property
    def blocks(self) -> list[str]:
        """The block of each row; "" where there are none."""
        return list(self.data[BLOCK]) if BLOCK in self.data else [""] * len(self.data)

    @property
    def parts(self) -> list[tuple[str, list[tuple[Cell, ...]]]]:
        """Each block with its rows."""
        found = groupby(zip(self.blocks, self.rows, strict=True), key=lambda pair: pair[0])
        return [(block, [row for _, row in pairs]) for block, pairs in found]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers (and gaps) only, so that it is aligned to the right."""
        kinds = [{type(c) for c in cells if c != MISSING} for cells in zip(*self.rows, strict=True)]
        return [kind == {Number} for kind in kinds] or [False] * len(self.columns)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown: title, table, caption and notes, ending in a newline."""
    parts = [table.title and f"**{escape_markdown(table.title)}**", markdown_grid(table)]
    parts.append(one_line(table.caption))
    parts.append("\n".join(f"- {one_line(note)}" for note in table.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_grid(table: Table) -> str:
    """The cells alone, in GitHub's Markdown."""
    lines = [[escape_markdown(name) for name in table.columns]]
    lines.append(["---:" if numeric else ":---" for numeric in table.numeric])
    for block, rows in table.parts:
        if block:
            lines.append([f"**{escape_markdown(block)}**"] + [""] * (len(table.columns) - 1))
        lines += [[escape_markdown(str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def to_latex(table: Table) -> str:
    """The table as a LaTeX float in ASCII; needs \\usepackage{booktabs}."""
    alignment = "".join("r" if numeric else "l" for numeric in table.numeric)
    title = table.title and f"{escape_latex(table.title.rstrip('.'))}. "
    lines = [r"\begin{table}", r"  \centering"]
    lines.append(rf"  \caption{{{title}{_latex_text(table.caption)}}}")
    lines += [rf"  \begin{{tabular}}{{{alignment}}}", r"    \toprule"]
    lines += [f"    {' & '.join(map(escape_latex, table.columns))} \\\\", r"    \midrule"]
    for index, (block, rows) in enumerate(table.parts):
        if block:
            head = rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{escape_latex(block)}}}}}"
            lines += [r"    \midrule"] * (index > 0) + [rf"    {head} \\"]
        lines += [f"    {' & '.join(map(_latex_cell, row))} \\\\" for row in rows]
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\smallskip{{\footnotesize {_latex_text(n)}}}" for n in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """The data as CSV for programs: plain numbers to six decimals, gaps empty.

    A column whose numbers have a spread is followed by one named "... spread", and by "... sd"
    where they have one.
    """
    columns: list[tuple[str, list[object]]] = []
    for name, cells in table.data.items():
        for part in ("value", "spread", "sd"):
            found = [getattr(cell, part, cell if part == "value" else None) for cell in cells]
            if part == "value" or any(value is not None for value in found):
                columns.append((f"{name} {part}".removesuffix(" value"), found))
    texts = [pd.Series(map(_csv_text, cells), name=name, dtype=str) for name, cells in columns]
    return pd.concat(texts, axis=1).to_csv(index=False, lineterminator="\n")


def write_table(table: Table, folder: str | Path, stem: str) -> list[Path]:
    """Write stem.md, stem.tex and stem.csv into ``folder``, each in one step."""
    texts = {"md": to_markdown(table), "tex": to_latex(table), "csv": to_csv(table)}
    return [write_atomic(Path(folder) / f"{stem}.{s}", text) for s, text in texts.items()]


def write_tables(tables: Mapping[str, Table], folder: str | Path) -> None:
    """Write each table under its name; see ``write_table``."""
    for stem, table in tables.items():
        write_table(table, folder, stem)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", one_line(text)).replace("<", "&lt;")
    # An underscore inside a word is no emphasis; escaped it would only be hard to read.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


@cache
def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    # A star or bracket at the beginning of a row would be read as an argument of the \\ before it.
    latex = _LATEX.unicode_to_latex(one_line(text).replace('"', "\N{RIGHT DOUBLE QUOTATION MARK}"))
    return latex.replace("*", "{*}").replace("[", "{[}")


def one_line(text: str) -> str:
    """Inline Markdown on one line."""
    return " ".join(text.split())


def _latex_text(text: str) -> str:
    """Inline Markdown in LaTeX; markup does not nest."""
    for pattern, macro in _MARKUP:
        if match := re.search(pattern, text):
            before, after = text[: match.start()], text[match.end() :]
            marked = rf"\{macro}{{{escape_latex(match[1])}}}"
            return _latex_text(before) + marked + _latex_text(after)
    space = " " if text[:1].isspace() else "", " " if text[-1:].isspace() else ""
    return space[0] * bool(text.strip()) + escape_latex(text) + space[1]


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Number):
        return escape_latex(str(cell))
    number = str(cell).removesuffix(cell.mark).replace(MINUS, "-").replace(PLUS_MINUS, r"\pm")
    return f"${number}${escape_latex(cell.mark)}"


def _csv_text(value: object) -> str:
    if value is None or value == MISSING:
        return ""
    return repr(round(float(value), 6)) if isinstance(value, float) else str(value)
