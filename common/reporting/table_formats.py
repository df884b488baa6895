"""Tables as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
import re
from pathlib import Path

from common.files import write_atomic
from common.reporting.markup import render_markup
from common.reporting.tables import MISSING, Cell, Heading, Number, Table

_GREEK = {"α": "alpha", "β": "beta", "δ": "delta", "ε": "varepsilon", "η": "eta", "θ": "theta",
          "λ": "lambda", "μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi",
          "ω": "omega"}  # fmt: skip
_MATHS = {"\N{MINUS SIGN}": "-", "±": r"\pm", "×": r"\times", "°": r"^\circ", "≤": r"\leq",
          "≥": r"\geq", "≈": r"\approx", "→": r"\rightarrow", "√": r"\surd", "²": "^2"}  # fmt: skip
_LATEX = str.maketrans(
    {sign: rf"\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
       "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
       '"': r"\textquotedblright{}", "–": "--", "—": "---", "†": r"\dag{}", "…": r"\dots{}"}
    # At the beginning of a row, these would be read as arguments of the \\ before it.
    | {sign: f"{{{sign}}}" for sign in "[*"}
    | {sign: f"${text}$" for sign, text in _MATHS.items()}
    | {letter: rf"$\{name}$" for letter, name in _GREEK.items()}
)  # fmt: skip


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown: title, table, caption and notes, ending in a newline."""
    width = len(table.columns)
    lines = [
        [escape_markdown(column) for column in table.columns],
        ["---:" if table.is_numeric(i) else ":---" for i in range(width)],
    ]
    for row in table.rows:
        if isinstance(row, Heading):
            lines.append([f"**{escape_markdown(row.text)}**", *[""] * (width - 1)])
        else:
            lines.append([escape_markdown(str(cell)) for cell in row])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    parts = [f"**{escape_markdown(table.title)}**", text]
    if table.caption:
        parts.append(_markdown_text(table.caption))
    if table.notes:
        parts.append("\n".join(f"- {_markdown_text(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX float; needs \\usepackage{booktabs} and, before 2018, UTF-8 input.

    Numbers are set in mathematics, blocks are headed by a rule and a line in italics, notes stand
    below in small type.
    """
    width = len(table.columns)
    alignment = "".join("r" if table.is_numeric(i) else "l" for i in range(width))
    heading = " & ".join(escape_latex(column) for column in table.columns)
    lines = [r"\begin{table}", r"  \centering"]
    title = escape_latex(table.title.rstrip("."))
    lines.append(rf"  \caption{{{title}. {_latex_text(table.caption)}}}")
    lines += [rf"  \begin{{tabular}}{{{alignment}}}", r"    \toprule"]
    lines += [f"    {heading} \\\\", r"    \midrule"]
    for index, row in enumerate(table.rows):
        if isinstance(row, Heading):
            if index > 0:
                lines.append(r"    \midrule")
            text = rf"\textit{{{escape_latex(row.text)}}}"
            lines.append(rf"    \multicolumn{{{width}}}{{l}}{{{text}}} \\")
        else:
            lines.append(f"    {' & '.join(_latex_cell(cell) for cell in row)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\smallskip{{\footnotesize {_latex_text(n)}}}" for n in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(table: Table) -> str:
    """The table's cells as CSV for programs: plain numbers to six decimals, gaps empty.

    A column whose numbers have a spread is followed by one named "... spread"; where the table
    has headings, the first column, "block", repeats the heading above a row.
    """
    spreads = [table.has_spread(i) for i in range(len(table.columns))]
    headed = any(isinstance(row, Heading) for row in table.rows)
    names = ["block"] if headed else []
    for column, has_spread in zip(table.columns, spreads, strict=True):
        names += [column, f"{column} spread"] if has_spread else [column]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    block = ""
    for row in table.rows:
        if isinstance(row, Heading):
            block = row.text
            continue
        cells = [block] if headed else []
        for cell, has_spread in zip(row, spreads, strict=True):
            cells += _csv_cells(cell)[: 2 if has_spread else 1]
        writer.writerow(cells)
    return out.getvalue()


def write_table(table: Table, folder: str | Path, stem: str) -> list[Path]:
    """Write stem.md, stem.tex and stem.csv into `folder`, each in one step; returns the paths."""
    texts = {"md": to_markdown(table), "tex": to_latex(table), "csv": to_csv(table)}
    return [write_atomic(Path(folder) / f"{stem}.{s}", text) for s, text in texts.items()]


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _escape_markdown(_one_line(text))


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is; signs and Greek letters become mathematics."""
    return _escape_latex(_one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape_markdown(text: str) -> str:
    text = re.sub(r"([\\`*|\[\]<>])", r"\\\1", text)
    # An underscore inside a word is no emphasis; escaped it would only be hard to read.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)


# Captions and notes have light markup, see markup.py.
_MARKDOWN_MARKUP = {
    "plain": _escape_markdown,
    "code": lambda text: f"`{text}`",
    "bold": lambda text: f"**{_escape_markdown(text)}**",
    "italic": lambda text: f"*{_escape_markdown(text)}*",
}
_LATEX_MARKUP = {
    "plain": _escape_latex,
    "code": lambda text: rf"\texttt{{{_escape_latex(text)}}}",
    "bold": lambda text: rf"\textbf{{{_escape_latex(text)}}}",
    "italic": lambda text: rf"\emph{{{_escape_latex(text)}}}",
}


def _markdown_text(text: str) -> str:
    return render_markup(_one_line(text), _MARKDOWN_MARKUP)


def _latex_text(text: str) -> str:
    return render_markup(_one_line(text), _LATEX_MARKUP)


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Number):
        return escape_latex(str(cell))
    number = str(cell).removesuffix(cell.mark).replace("\N{MINUS SIGN}", "-")
    return f"${number.replace('±', chr(92) + 'pm')}${escape_latex(cell.mark)}"


def _csv_cells(cell: Cell) -> list[str]:
    if isinstance(cell, Number):
        spread = "" if cell.spread is None else repr(round(cell.spread, 6))
        return [repr(round(cell.value, 6)), spread]
    return ["" if cell == MISSING else str(cell), ""]
