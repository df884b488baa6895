"""MasakhaNER 1.0: news in ten African languages, labelled by people (Adelani et al., TACL 2021).

CC BY-NC 4.0, so this project contains no copy: it is read from a folder, or downloaded from its
repository into the cache. ``masakhaner.json`` has the files' checksums.
"""

import json
import tempfile
from pathlib import Path

from common.datasets.dataset import CanonicalFile, Dataset, obtain
from common.datasets.sources import Download, Official, Piece, Pieces, Unavailable
from metaxl.conll import parse_columns, read_folder
from metaxl.sentences import SPLITS, Corpus

TYPES = ("PER", "ORG", "LOC", "DATE")
CHECKSUMS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
LANGUAGES = tuple(CHECKSUMS)

REPOSITORY = "masakhane-io/masakhane-ner"
_RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/main"
HOW_TO_GET = f"get the folder data of the GitHub repository {REPOSITORY}"


def _read(folder: Path) -> Pieces:
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    if not all(path.is_file() for path in paths.values()):
        raise Unavailable(f"it lacks {', '.join(path.name for path in paths.values())}")
    return {split: Piece(path.read_bytes(), str(path)) for split, path in paths.items()}


def dataset(language: str) -> Dataset:
    """The three files of a language and their sources."""
    sums = CHECKSUMS[language]
    downloads = tuple(
        Download(
            tuple(f"{_RAW}/{f}data/{language}/{s}.txt" for f in ("", "MasakhaNER1.0/")),
            f"{s}.txt",
            sums[s]["md5"],
        )
        for s in SPLITS
    )
    return Dataset(
        name=f"masakhaner-{language}",
        title=f"MasakhaNER of the language {language}",
        files=tuple(CanonicalFile(split, sums[split]["sha256"]) for split in SPLITS),
        read_folder=lambda folder: _read(folder / language),
        sources=(Official(downloads, _read, "0.5 MB"),),
        homepage=f"GitHub repository {REPOSITORY}",
        licence="CC BY-NC 4.0",
        expected_in_folder=f"{language}/train.txt, dev.txt and test.txt",
        how_to_get=HOW_TO_GET,
    )


def load_from_repository(language: str) -> Corpus:
    """The corpus from the cache, or downloaded; UserError if neither is possible."""
    copy = obtain(dataset(language))
    with tempfile.TemporaryDirectory() as workspace:
        folder = Path(workspace)
        for split, data in copy.files.items():
            (folder / split).write_bytes(data)
        return read_folder(folder, parse_columns, TYPES)
