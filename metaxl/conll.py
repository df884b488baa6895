"""Files with one token and its tag on a line, and a blank line between sentences."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from common.errors import UserError
from metaxl.sentences import SPLITS, TAG, Corpus, Sentence

# What the three splits' files may be called.
NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
ENDINGS = ("", ".txt", ".conll", ".tsv", ".iob2", ".bio")
# Of Unix, Windows, Windows twice over (\r\r\n), and old Macintosh; no others, since Python's
# splitlines() would split at some characters inside tokens.
LINE_END = re.compile(r"\r*\n|\r")

ParseLine = Callable[[str], list[str]]
"""A line to its columns, token first and tag last; ValueError says what form is expected."""


def parse_columns(line: str) -> list[str]:
    """CoNLL: columns separated by tabs where the line has one, else by blanks."""
    separator = r" *\t[ \t]*" if "\t" in line.strip(" \t") else " +"
    columns = re.split(separator, line.strip(" \t"))
    if len(columns) < 2:
        raise ValueError("a token, a blank or tab, and a tag")
    return columns


def parse_wikiann(language: str) -> ParseLine:
    """WikiAnn's original files: ``language:token<TAB>tag``."""
    prefix = f"{language}:"

    def parse(line: str) -> list[str]:
        token, tab, tag = line.partition("\t")
        if not tab or not token.startswith(prefix):
            raise ValueError(f"{prefix}token<TAB>tag")
        return [token.removeprefix(prefix), tag.strip(" \t")]

    return parse


def parse_text(
    text: str, parse: ParseLine, types: Collection[str] | None, origin: str
) -> list[Sentence]:
    """The sentences of a text. types: the allowed entity types; None allows any.

    Lines that begin with -DOCSTART- are skipped. UserError names the line (of ``origin``) that is
    malformed or has an unknown tag, or says that there is no entity, or that the first column has
    running numbers.
    """
    sentences: list[Sentence] = []
    rows: list[list[str]] = []
    numbered = True
    for number, line in enumerate([*LINE_END.split(text), ""], start=1):
        if line.strip(" \t") and not line.startswith("-DOCSTART-"):
            rows.append(_parse(line, parse, types, f"{origin}, line {number}"))
        elif rows:
            numbered &= _is_numbered(rows)
            sentences.append(Sentence(tuple(r[0] for r in rows), tuple(r[-1] for r in rows)))
            rows = []
    if not sentences:
        raise UserError(f"{origin} is empty: it should hold lines of a token and its tag.")
    if numbered:
        raise UserError(
            f"{origin} has the numbers of the words in its first column, where the tokens should "
            "be: remove that column."
        )
    if all(tag == "O" for sentence in sentences for tag in sentence.tags):
        raise UserError(
            f"{origin} has no entity, all its tags are O: the tag should be in the last column."
        )
    return sentences


def _is_numbered(rows: list[list[str]]) -> bool:
    """Whether a sentence's lines begin with 1, 2, 3, ... (or 0, 1, ...) before token and tag."""
    first = [row[0] for row in rows if len(row) > 2]
    return any(first == [str(i) for i in range(k, k + len(rows))] for k in (0, 1))


def read_file(path: Path, parse: ParseLine, types: Collection[str] | None = None) -> list[Sentence]:
    """The sentences of a file, see :func:`parse_text`; UserError if it is not UTF-8 text."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}).") from None
    return parse_text(text, parse, types, str(path))


def _parse(line: str, parse: ParseLine, types: Collection[str] | None, place: str) -> list[str]:
    try:
        columns = parse(line)
    except ValueError as expected:
        raise UserError(f"{place}: {_short(line)} should have the form {expected}.") from None
    match = TAG.fullmatch(columns[-1])
    if not match or (types is not None and match["type"] and match["type"] not in types):
        kinds = ", ".join(types) if types is not None else "any type X"
        raise UserError(
            f"{place}: {_short(columns[-1])} is not an IOB2 tag (O, B-X or I-X, with X: {kinds})."
        )
    return columns


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def find_files(folder: Path) -> dict[str, Path]:
    """The splits' files in ``folder``, under any of their usual names."""
    found = {}
    for split in SPLITS:
        names = [name + ending for name in NAMES[split] for ending in ENDINGS]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is not None:
            found[split] = path
    return found


def read_folder(folder: Path, parse: ParseLine, types: Collection[str] | None = None) -> Corpus:
    """The corpus in a folder with the files train, dev and test, see :func:`find_files`.

    UserError names a missing file; see also :func:`parse_text`.
    """
    files = find_files(folder)
    if lacking := [split for split in SPLITS if split not in files]:
        raise UserError(
            f"{folder} lacks {' and '.join(lacking)}: it should hold the files train, dev and test "
            "(each also with the ending .txt or .conll)."
        )
    return {split: read_file(files[split], parse, types) for split in SPLITS}
