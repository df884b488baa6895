"""Sentences of the embedded corpus: synthetic mentions in real text, the same on every machine.

A sentence is a piece of the Universal Declaration (several, if they are short) with up to three
phrases set into it at random places: a mention within a few words of context, a mention in the
place of a word, or a decoy, which looks like a mention but is not. One sentence in twenty is
all in lower case, and one in twenty has every word capitalised: case alone does not tell all.

Randomness is Python's ``random.Random(int).random()``, whose sequence the language guarantees.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from typing import TypeVar

from common.errors import UserError
from metaxl.embedded.material import LANGUAGES, Language, load_language, split_of_mention
from metaxl.sentences import SPLITS, Corpus, Sentence

TYPES = ("PER", "ORG", "LOC")
SOURCE = "eng"
SIZES = {
    SOURCE: {"train": 4000, "dev": 200, "test": 300},
    "target": {"train": 300, "dev": 200, "test": 300},
}
SHORTEST, LONGEST = 8, 40

SLOT = re.compile(r"\{(?P<kind>\w+)\}(?:\+(?P<suffix>\w+))?")
BARE = (", {X} ,", "( {X} )", "{X}", "{X} , {X}")
PERSONS = ("{given} {family}",) * 6 + ("{given}", "{family}", "{given} {given} {family}")

Tokens = list[tuple[str, str]]
"""Tokens with their tags."""
T = TypeVar("T")


class Draws:
    """Random choices by name of what they are for."""

    def __init__(self, name: str) -> None:
        self._random = random.Random(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def below(self, count: int) -> int:
        return int(self._random.random() * count)

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]


def load_embedded(language: str) -> Corpus:
    """The corpus of a language; UserError if it has none. Sizes: SIZES."""
    _check(language)
    sizes = SIZES[SOURCE if language == SOURCE else "target"]
    return {split: generate(language, split, sizes[split]) for split in SPLITS}


def unlabelled(language: str, count: int = 2000) -> list[str]:
    """Further sentences from the material of the training split, as plain text."""
    _check(language)
    return [" ".join(s.tokens) for s in generate(language, "train", count, "unlabelled")]


def _check(language: str) -> None:
    if language not in LANGUAGES:
        raise UserError(
            f"The embedded corpus has no language {language!r}: use {', '.join(LANGUAGES)}."
        )


def generate(code: str, split: str, count: int, stream: str = "labelled") -> list[Sentence]:
    """``count`` different sentences of a split. Streams are independent of one another."""
    language, draws = load_language(code), Draws(f"{code} {split} {stream}")
    sentences: dict[tuple[str, ...], Sentence] = {}
    while len(sentences) < count:
        made = _sentence(language, split, draws)
        if SHORTEST <= len(made) <= LONGEST:
            tokens, tags = zip(*made, strict=True)
            sentences.setdefault(tokens, Sentence(tokens, tags))
    return list(sentences.values())


def _sentence(language: Language, split: str, draws: Draws) -> Tokens:
    carrier = list(draws.one(language.pieces[split]))
    while len(carrier) < SHORTEST:
        carrier += [",", *draws.one(language.pieces[split])]
    if carrier[0][1:].islower():
        carrier[0] = carrier[0].lower()
    phrases: dict[int, Tokens] = {}
    replaced = set()
    for _ in range(draws.one((0, 1, 1, 1, 2, 2, 2, 3, 3))):
        if draws.chance(0.08):
            place = draws.below(len(carrier))
            if len(carrier[place]) > 3:
                replaced.add(place)
                phrases[place] = _filled("{X}", language, split, draws)
            continue
        if draws.chance(0.25):
            pattern = draws.one(language.decoys)
        else:
            pattern = draws.one(BARE if draws.chance(0.12) else language.contexts)
        places = range(len(carrier) + 1) if draws.chance(0.1) else _joints(carrier, language)
        phrases[draws.one(places)] = _filled(pattern, language, split, draws)
    tagged: Tokens = []
    for place, token in enumerate([*carrier, "."]):
        tagged += phrases.get(place, [])
        if place not in replaced:
            tagged.append((token, "O"))
    return _styled(_punctuated(tagged), draws)


def _joints(carrier: Sequence[str], language: Language) -> list[int]:
    """Where a phrase fits best: at either end, after a comma, and before some words."""
    inside = range(1, len(carrier))
    fitting = [i for i in inside if carrier[i - 1] == "," or carrier[i] in language.joints]
    return [0, *fitting, len(carrier)]


def _filled(pattern: str, language: Language, split: str, draws: Draws) -> Tokens:
    """A pattern's words, with mentions (or names of languages, untagged) in its slots."""
    kind_of_x = draws.one(TYPES)
    tagged: Tokens = []
    for word in pattern.split():
        slot = SLOT.fullmatch(word)
        if not slot:
            tagged.append((word, "O"))
            continue
        kind = kind_of_x if slot["kind"] == "X" else slot["kind"]
        words = _name(kind, language, split, draws).split()
        if slot["suffix"]:
            words[-1] = language.suffixed(words[-1], slot["suffix"])
        tags = ["O"] * len(words)
        if kind in TYPES:
            tags = [f"B-{kind}"] + [f"I-{kind}"] * (len(words) - 1)
        tagged += zip(words, tags, strict=True)
    return tagged


def _name(kind: str, language: Language, split: str, draws: Draws) -> str:
    """A name of one of TYPES, or of a language ("language"), that belongs to the split."""
    patterns = {"PER": PERSONS, "ORG": language.organisations, "LOC": ("{place}",)}
    while True:
        pattern = draws.one(patterns.get(kind, (f"{{{kind}}}",)))
        name = SLOT.sub(lambda slot: draws.one(language.parts[slot["kind"]]), pattern)
        if split_of_mention(name) == split:
            return name


def _punctuated(tagged: Tokens) -> Tokens:
    """Without commas at the beginning, beside other punctuation, or before the full stop."""
    kept: Tokens = []
    for token, tag in tagged:
        if token == "," and (not kept or kept[-1][0] in ",:("):
            continue
        while token == "." and tag == "O" and kept[-1][0] in ",:":
            kept.pop()
        kept.append((token, tag))
    return kept


def _styled(tagged: Tokens, draws: Draws) -> Tokens:
    """The first word capitalised; some in lower case, some with every word capitalised."""
    lower, title = draws.chance(0.05), draws.chance(0.05)
    if lower:
        return [(token.lower(), tag) for token, tag in tagged]
    # The first word may follow an opening bracket.
    first = next(i for i, (token, _) in enumerate(tagged) if token[0].isalnum())
    return [
        (token[:1].upper() + token[1:] if title or i == first else token, tag)
        for i, (token, tag) in enumerate(tagged)
    ]
