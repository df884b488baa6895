"""The embedded corpus: synthetic mentions set into real text, for runs without any download.

``corpus.tar.xz`` holds LANGUAGE/train.txt, dev.txt and test.txt with lines ``token<TAB>tag``, and
LANGUAGE/unlabelled.txt with further sentences of the training part. ATTRIBUTION.md says how they
were made, and of what.
"""

import functools
import hashlib
import io
import tarfile
from pathlib import Path

from common.errors import UserError
from metaxl.readers import SPLITS, Corpus, parse_text

TYPES = ("PER", "ORG", "LOC")
LANGUAGES = ("eng", "quy", "mri", "tuk", "gug")
FILE = Path(__file__).with_name("corpus.tar.xz")
SHA256 = "2ed978aaeb00c8e42d6527057bda19a051e9037048984b35167ab0676fcb0a18"


@functools.cache
def _texts() -> dict[str, str]:
    """The archive's files by name; UserError unless it is the archive that shipped."""
    try:
        data, reason = FILE.read_bytes(), "is damaged"
    except OSError as error:
        data, reason = b"", f"cannot be read ({error.strerror})"
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"{FILE} {reason}: get the file again from the repository")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {file.name: archive.extractfile(file).read().decode() for file in archive}


def _text(language: str, file: str) -> str:
    if language not in LANGUAGES:
        raise UserError(
            f"The embedded corpus has no language {language!r}: use {', '.join(LANGUAGES)}."
        )
    return _texts()[f"{language}/{file}.txt"]


@functools.cache
def load_embedded(language: str) -> Corpus:
    """The corpus of a language; UserError if it has none. 4,000 training sentences of eng, 300 of
    the others; 200 dev and 300 test sentences of each."""
    return {s: parse_text(_text(language, s), f"{language}/{s}.txt", TYPES) for s in SPLITS}


def unlabelled(language: str) -> list[str]:
    """2,000 further sentences from the material of the training split, as plain text."""
    return _text(language, "unlabelled").removesuffix("\n").split("\n")
