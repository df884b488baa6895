"""Sentences labelled with named entities in IOB2: B-X begins an entity of type X, I-X continues it,
O is outside of entities.

Tags are read as by seqeval, which computes F1: an I-X that does not follow a B-X or I-X of the same
type begins an entity. WikiAnn and MasakhaNER have a few of these; they are not changed.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seqeval.metrics.sequence_labeling import get_entities

SPLITS = ("train", "dev", "test")
TAG = re.compile(r"O|[BI]-(?P<type>\S+)")


@dataclass(frozen=True)
class Sentence:
    """Tokens and, for each, its IOB2 tag."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


Corpus = dict[str, list[Sentence]]
"""Sentences by split: train, dev, test."""


def label_list(types: Iterable[str]) -> tuple[str, ...]:
    """All IOB2 tags of entity types, O first: ("O", "B-PER", "I-PER", ...)."""
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def entity_types(sentences: Iterable[Sentence]) -> tuple[str, ...]:
    """The entity types found, in alphabetical order."""
    return tuple(sorted({t[2:] for s in sentences for t in s.tags if t != "O"}))


def counts(corpus: Corpus) -> dict[str, int]:
    """Numbers of sentences, tokens and entities of each type by split, for the run record."""
    found = {}
    for split, sentences in corpus.items():
        found[f"{split} sentences"] = len(sentences)
        found[f"{split} tokens"] = sum(len(s.tokens) for s in sentences)
        kinds = [entity[0] for s in sentences for entity in get_entities(list(s.tags))]
        for kind in entity_types(sentences):
            found[f"{split} entities {kind}"] = kinds.count(kind)
    return found


def checksum(sentences: Sequence[Sentence]) -> str:
    """SHA-256 of :func:`as_lines` in UTF-8."""
    return hashlib.sha256(as_lines(sentences).encode()).hexdigest()


def as_lines(sentences: Iterable[Sentence]) -> str:
    """Lines ``token<TAB>tag``, with a blank line after each sentence."""
    rows = (zip(s.tokens, s.tags, strict=True) for s in sentences)
    return "".join("".join(f"{token}\t{tag}\n" for token, tag in r) + "\n" for r in rows)
