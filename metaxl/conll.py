"""Files with one token and its tag on a line, and a blank line between sentences."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

from common.errors import UserError
from metaxl.sentences import SPLITS, TAG, Corpus, Sentence

# What the three splits' files may be called.
NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
ENDINGS = ("", ".txt", ".conll", ".tsv", ".iob2", ".bio")

ParseLine = Callable[[str], tuple[str, str]]
"""A line to its token and tag; ValueError says what form is expected."""


def parse_columns(line: str) -> tuple[str, str]:
    """CoNLL: columns separated by blanks or tabs; the first is the token, the last the tag."""
    columns = re.split(r"[ \t]+", line.strip(" \t"))
    if len(columns) < 2:
        raise ValueError("a token, a blank and a tag")
    return columns[0], columns[-1]


def parse_wikiann(language: str) -> ParseLine:
    """WikiAnn's original files: ``language:token<TAB>tag``."""
    prefix = f"{language}:"

    def parse(line: str) -> tuple[str, str]:
        token, tab, tag = line.partition("\t")
        if not tab or not token.startswith(prefix):
            raise ValueError(f"{prefix}token<TAB>tag")
        return token.removeprefix(prefix), tag.strip(" \t")

    return parse


def read_file(path: Path, parse: ParseLine, types: Collection[str] | None = None) -> list[Sentence]:
    """The sentences of a file. types: the allowed entity types; None allows any.

    Lines that begin with -DOCSTART- are skipped. UserError names the file and a line that is
    malformed or has an unknown tag, or a file that is empty or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}).") from None
    sentences: list[Sentence] = []
    rows: list[tuple[str, str]] = []
    # Not splitlines(): it would split at some characters inside tokens.
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if line.strip(" \t") and not line.startswith("-DOCSTART-"):
            rows.append(_parse(line, parse, types, f"{path}, line {number}"))
        elif rows:
            tokens, tags = zip(*rows, strict=True)
            sentences.append(Sentence(tokens, tags))
            rows = []
    if not sentences:
        raise UserError(f"{path} is empty: it should hold lines of a token and its tag.")
    return sentences


def _parse(
    line: str, parse: ParseLine, types: Collection[str] | None, place: str
) -> tuple[str, str]:
    try:
        token, tag = parse(line)
    except ValueError as expected:
        raise UserError(f"{place}: {_short(line)} should have the form {expected}.") from None
    match = TAG.fullmatch(tag)
    if not match or (types is not None and match["type"] and match["type"] not in types):
        kinds = ", ".join(types) if types is not None else "any type X"
        raise UserError(
            f"{place}: {_short(tag)} is not an IOB2 tag (O, B-X or I-X, with X: {kinds})."
        )
    return token, tag


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

    UserError names a missing file; see also :func:`read_file`.
    """
    files = find_files(folder)
    if lacking := [split for split in SPLITS if split not in files]:
        raise UserError(
            f"{folder} lacks {' and '.join(lacking)}: it should hold the files train, dev and test "
            "(each also with the ending .txt or .conll)."
        )
    return {split: read_file(files[split], parse, types) for split in SPLITS}
