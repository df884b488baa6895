"""The material of a language, divided among train, dev and test.

A mention belongs to one split, the same in all languages, by the SHA-256 of all its words; so does
the name of a language in a decoy. The sentences of the declaration are
divided in the order of their SHA-256, and no piece of text that recurs is in two splits.
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import checked_files
from metaxl.sentences import SPLITS

HERE = Path(__file__).resolve().parent
MATERIAL, WRITTEN = HERE / "material", HERE / "written"
FILES = "*/*.json"
"""What SHA256SUMS lists."""
LANGUAGES = ("eng", "quy", "mri", "tuk", "gug")

PARTS = ("given", "family", "place", "topic", "language", "noun")
LONGEST_PIECE, SHORTEST_PIECE = 22, 4
TOKEN = re.compile(r"\w+(?:[-‐’']\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Language:
    """What sentences of a language are made of.

    pieces: real text by split, each a sentence or part of one, as tokens. parts: names by kind
    (PARTS), of which :func:`split_of_mention` says what each split may make mentions.
    organisations: patterns of names, with slots {place}, {family}, {topic}. contexts: words around
    mentions, with slots {PER}, {ORG}, {LOC}; "{LOC}+in" puts the suffix "in" on the last word.
    decoys: phrases with capitals or names of languages that are not entities. joints: words that a
    phrase is set before. suffixes: by name, (regular expression for the word, suffix) in the order
    in which they are tried.
    """

    pieces: Mapping[str, tuple[tuple[str, ...], ...]]
    parts: Mapping[str, tuple[str, ...]]
    organisations: tuple[str, ...]
    contexts: tuple[str, ...]
    decoys: tuple[str, ...]
    joints: frozenset[str]
    suffixes: Mapping[str, Sequence[tuple[str, str]]]

    def suffixed(self, word: str, suffix: str) -> str:
        """``word`` with the form of ``suffix`` that fits it."""
        forms = self.suffixes[suffix]
        return word + next(form for ending, form in forms if re.search(ending, word.lower()))


def without_marks(text: str) -> str:
    """``text`` without accents and the like."""
    decomposed = unicodedata.normalize("NFD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", plain)


def _number(text: str) -> float:
    """A number in [0, 1) from the SHA-256 of a text, whatever its case and accents."""
    digest = hashlib.sha256(without_marks(text).casefold().encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def split_of_mention(name: str) -> str:
    """The split that a name belongs to: train, dev and test have 50, 15 and 35 % of them."""
    number = _number(name)
    return "train" if number < 0.5 else "dev" if number < 0.65 else "test"


def divided(sentences: Collection[str]) -> dict[str, str]:
    """The split that each sentence of a declaration is for: 65, 13 and 22 % of them.

    Their order among the splits is that of their SHA-256.
    """
    order = sorted(set(sentences), key=lambda sentence: (_number(sentence), sentence))
    ends = round(0.65 * len(order)), round(0.78 * len(order))
    return {s: SPLITS[sum(i >= end for end in ends)] for i, s in enumerate(order)}


def sentences_of(paragraph: str, real_mentions: Sequence[str] = ()) -> list[str]:
    """A paragraph's sentences, without those that mention a real organisation.

    Those contain one of ``real_mentions``: it would be an entity without a label.
    """
    sentences = re.split(r"(?<=[.;:])\s+", paragraph)
    return [s for s in sentences if not any(mention in s for mention in real_mentions)]


def pieces_of(sentence: str, joints: Collection[str] = ()) -> list[tuple[str, ...]]:
    """A sentence's tokens; in several pieces if it is long, cut after a comma or before a joint."""
    tokens = [token for token in TOKEN.findall(sentence) if token != "_"]
    pieces = []
    while len(tokens) > LONGEST_PIECE:
        inside = range(8, LONGEST_PIECE)
        cuts = [i + 1 for i in inside if tokens[i] == ","]
        cuts = cuts or [i for i in inside if tokens[i] in joints] or [LONGEST_PIECE]
        pieces.append(tokens[: cuts[-1]])
        tokens = tokens[cuts[-1] :]
    trimmed = [tuple(_trimmed(piece)) for piece in [*pieces, tokens]]
    return [piece for piece in trimmed if len(piece) >= SHORTEST_PIECE]


def _trimmed(tokens: list[str]) -> list[str]:
    """``tokens`` without punctuation at the ends, which the generator sets anew."""
    words = [i for i, token in enumerate(tokens) if token[0].isalnum()]
    return tokens[words[0] : words[-1] + 1] if words else []


@functools.cache
def load_language(code: str) -> Language:
    """The material of one of LANGUAGES; UserError if a file is not the one that shipped."""
    checked_files(HERE, "get the file again from the repository", FILES)
    taken, written = (_read(folder / f"{code}.json") for folder in (MATERIAL, WRITTEN))
    pieces: dict[str, list[tuple[str, ...]]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    sentences = [
        sentence
        for paragraphs in taken["declaration"].values()
        for paragraph in paragraphs
        for sentence in sentences_of(paragraph, written["real_mentions"])
    ]
    for sentence, split in divided(sentences).items():
        for piece in pieces_of(sentence, written["joints"]):
            key = " ".join(piece).casefold()
            if key not in seen:
                seen.add(key)
                pieces[split].append(piece)
    names = {
        "given": written["given"],
        "family": written["family"],
        "place": taken["places"] + written["places"],
        "topic": written["topics"],
        "noun": written["nouns"],
        "language": [n for n in taken["languages"] if n.endswith(written["language_ending"])],
    }
    if written["plain_vowels"]:
        names = {kind: [without_marks(name) for name in found] for kind, found in names.items()}
    return Language(
        pieces={split: tuple(found) for split, found in pieces.items()},
        parts={kind: tuple(sorted(set(found))) for kind, found in names.items()},
        organisations=tuple(written["organisations"]),
        contexts=tuple(written["contexts"]),
        decoys=tuple(written["decoys"]),
        joints=frozenset(written["joints"]),
        suffixes=written["suffixes"],
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
