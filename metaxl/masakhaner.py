"""MasakhaNER 1.0: news in ten African languages, labelled by people (Adelani et al., TACL 2021).

CC BY-NC 4.0, so this project contains no copy: it is read from a folder, or downloaded from its
repository into the cache. ``masakhaner.json`` has the SHA-256 of each split's content (see
:func:`metaxl.sentences.checksum`), which the line ends of a copy do not change.
"""

import json
from pathlib import Path

from common.datasets.fetch import Damaged, Dataset, Missing, Official, Piece, Pieces, fetch
from common.errors import UserError
from metaxl.conll import find_files, parse_columns, parse_text, read_folder
from metaxl.sentences import SPLITS, Corpus, as_lines

TYPES = ("PER", "ORG", "LOC", "DATE")
CHECKSUMS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
LANGUAGES = tuple(CHECKSUMS)
REPOSITORY = "masakhane-io/masakhane-ner"
_RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/main"


def dataset(language: str) -> Dataset:
    """The three splits of a language and their sources."""

    def read(folder: Path) -> Pieces:
        inside = ("", "masakhaner", "data", "MasakhaNER1.0/data", "masakhane-ner/data")
        places = [folder / name / language for name in inside]
        for place in (p for outer in places for p in (outer, outer / language)):
            if find_files(place):
                try:
                    corpus = read_folder(place, parse_columns, TYPES)
                except UserError as error:
                    raise Damaged(str(error).removesuffix(".")) from None
                return {
                    split: Piece(as_lines(sentences).encode(), f"{place}, {split},")
                    for split, sentences in corpus.items()
                }
        raise Missing(f"no folder {language} in it")

    files = {
        f"{language}/{s}.txt": (
            tuple(f"{_RAW}/{f}data/{language}/{s}.txt" for f in ("", "MasakhaNER1.0/")),
            None,
        )
        for s in SPLITS
    }
    return Dataset(
        name=f"masakhaner-{language}",
        title=f"MasakhaNER of the language {language}",
        checksums=CHECKSUMS[language],
        read=read,
        expected=f"{language}/train.txt, dev.txt and test.txt",
        how_to_get=f"get the folder data of the GitHub repository {REPOSITORY}, or read files of "
        "your own with --dataset conll",
        sources=(Official(files, "0.5 MB"),),
    )


def load_masakhaner(language: str, data_dir: Path | None = None) -> Corpus:
    """The corpus of a language, with the published content; errors are those of ``fetch``."""
    if language not in LANGUAGES:
        raise UserError(
            f"MasakhaNER has no language {language!r}: use {', '.join(LANGUAGES)}; files of your "
            "own are read with --dataset conll."
        )
    files = fetch(dataset(language), data_dir).files
    return {s: parse_text(files[s].decode(), parse_columns, TYPES, s) for s in SPLITS}
