"""The corpora by name: embedded, wikiann, masakhaner, conll.

embedded: synthetic mentions in real text (see ``embedded/README.md``); needs nothing.
wikiann: folder LANGUAGE/train, dev, test with lines ``language:token<TAB>tag``; else the hub.
masakhaner: folder LANGUAGE/train.txt, dev.txt, test.txt, CoNLL; else its repository.
conll: any folder LANGUAGE/train, dev, test (or .txt, .conll) with a token and an IOB2 tag on each
line; the entity types are those in the files.

A folder is --data-dir, or else EVOGRAD_DATA; the files may be some levels down, as the original
archives have them. Sentences stand in the order of the files.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from metaxl import embedded, masakhaner, wikiann
from metaxl.conll import ParseLine, find_files, parse_columns, parse_wikiann, read_folder
from metaxl.sentences import Corpus, Sentence, checksum

TYPES: dict[str, tuple[str, ...]] = {
    "embedded": embedded.TYPES,
    "wikiann": wikiann.TYPES,
    "masakhaner": masakhaner.TYPES,
    "conll": (),
}
"""Entity types by data set; of conll, those that ``entity_types`` finds."""
LANGUAGES: dict[str, tuple[str, ...]] = {
    "embedded": embedded.LANGUAGES,
    "wikiann": wikiann.LANGUAGES,
    "masakhaner": masakhaner.LANGUAGES,
    "conll": (),
}
"""Languages by data set; wikiann has more, and conll those that the folder has."""


@dataclass(frozen=True)
class _Layout:
    """How a data set lies in a folder. inside: where in it, in the order tried."""

    title: str
    inside: tuple[str, ...]
    form: str
    how_to_get: str


_LAYOUTS = {
    "wikiann": _Layout(
        "WikiAnn",
        ("", "wikiann", "panx_dataset", "panx"),
        "lines `{language}:token<TAB>tag`",
        wikiann.HOW_TO_GET,
    ),
    "masakhaner": _Layout(
        "MasakhaNER",
        ("", "masakhaner", "data", "MasakhaNER1.0/data", "masakhane-ner/data"),
        "lines `token tag`",
        f"{masakhaner.HOW_TO_GET} and name it with --data-dir or EVOGRAD_DATA",
    ),
    "conll": _Layout(
        "A CoNLL corpus",
        ("", "conll"),
        "lines `token tag`",
        "name a folder that has it with --data-dir or EVOGRAD_DATA",
    ),
}


def load_corpus(dataset: str, language: str, data_dir: Path | None = None) -> Corpus:
    """Sentences by split of one language of a data set.

    Raises UserError, in one sentence, when it is missing or cannot be had, or a file of it is
    malformed, has an unknown tag or is empty.
    """
    if dataset not in TYPES:
        raise UserError(f"--dataset {dataset} is unknown: use {', '.join(TYPES)}")
    if dataset == "embedded":
        return embedded.load_embedded(language)
    parse: ParseLine = parse_wikiann(language) if dataset == "wikiann" else parse_columns
    if folder := _folder(dataset, language, data_dir):
        return read_folder(folder, parse, TYPES[dataset] or None)
    if dataset == "wikiann":
        return wikiann.load_from_hub(language)
    if dataset == "masakhaner" and language in masakhaner.LANGUAGES:
        return masakhaner.load_from_repository(language)
    known = f"its languages are {', '.join(LANGUAGES[dataset])}; " if LANGUAGES[dataset] else ""
    layout = _LAYOUTS[dataset]
    raise UserError(
        f"{layout.title} of the language {language} is not there (EVOGRAD_DATA: "
        f"{os.environ.get('EVOGRAD_DATA') or 'not set'}): {known}{layout.how_to_get}, where "
        f"{_expected(layout, language)}."
    )


def _folder(dataset: str, language: str, data_dir: Path | None) -> Path | None:
    """The folder with the language's files; None if none is given or EVOGRAD_DATA lacks it."""
    layout = _LAYOUTS[dataset]
    named = data_dir or os.environ.get("EVOGRAD_DATA")
    if not named:
        return None
    root = Path(named).expanduser()
    for folder in _candidates(root, layout, language):
        if find_files(folder):
            return folder
    if data_dir is None:
        return None
    raise UserError(
        f"{layout.title} of the language {language} is not in the folder {data_dir} given as "
        f"--data-dir: {_expected(layout, language)}; {layout.how_to_get}."
    )


def _candidates(root: Path, layout: _Layout, language: str) -> Iterator[Path]:
    for inside in layout.inside:
        yield root / inside / language
        # Archives unpacked into a folder of their own name.
        yield root / inside / language / language


def _expected(layout: _Layout, language: str) -> str:
    form = layout.form.format(language=language)
    return f"it should hold {language}/train, dev and test with {form}"


def sample(sentences: Sequence[Sentence], count: int, seed: int) -> list[Sentence]:
    """The sentences as they are if there are at most ``count``; else ``count`` of them, drawn as
    the authors' code draws, by ``numpy.random.RandomState(seed).choice(..., replace=False)``."""
    if len(sentences) <= count:
        return list(sentences)
    chosen = np.random.RandomState(seed).choice(len(sentences), count, replace=False)
    return [sentences[i] for i in chosen]


def running_text(dataset: str, languages: Sequence[str], data_dir: Path | None = None) -> list[str]:
    """Plain sentences, for a tokenizer and masked language modelling: the training parts.

    Of the embedded corpus, further sentences of the same material besides.
    """
    lines = []
    for language in languages:
        corpus = load_corpus(dataset, language, data_dir)
        lines += [" ".join(s.tokens) for s in corpus["train"]]
        if dataset == "embedded":
            lines += embedded.unlabelled(language)
    return lines


def corpus_checksums(
    dataset: str, languages: Sequence[str], data_dir: Path | None = None
) -> dict[str, str]:
    """SHA-256 of each split by "language split", see :func:`metaxl.sentences.checksum`."""
    return {
        f"{dataset} {language} {split}": checksum(sentences)
        for language in languages
        for split, sentences in load_corpus(dataset, language, data_dir).items()
    }
