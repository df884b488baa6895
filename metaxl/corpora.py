"""The corpora by name: embedded, wikiann, masakhaner, conll.

embedded: synthetic mentions in real text (see ``embedded/README.md``); needs nothing.
wikiann: folder LANGUAGE/train, dev, test with lines ``language:token<TAB>tag``; else the hub.
masakhaner: folder LANGUAGE/train.txt, dev.txt, test.txt, CoNLL; else its repository.
conll: any folder LANGUAGE/train, dev, test (or .txt, .conll) with a token and an IOB2 tag on each
line; the entity types are those in the files.

The folder is --data-dir, or else EVOGRAD_DATA; the files may be some levels down, as in the
original archives. Sentences keep the order of the files.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from metaxl import embedded, masakhaner, wikiann
from metaxl.conll import find_files, parse_columns, parse_wikiann, read_folder
from metaxl.sentences import Corpus, Sentence, checksum


@dataclass(frozen=True)
class Source:
    """A data set. types: of its entities; () if they are those in the files. languages: those of
    its corpus, or of the paper; () if they are those in the folder. inside: where the languages may
    be in a folder, in the order tried. form: of a line."""

    title: str
    types: tuple[str, ...]
    languages: tuple[str, ...]
    inside: tuple[str, ...] = ()
    form: str = "lines `token tag`"
    how_to_get: str = ""


DATASETS = {
    "embedded": Source("The embedded corpus", embedded.TYPES, embedded.LANGUAGES),
    "wikiann": Source(
        "WikiAnn",
        wikiann.TYPES,
        wikiann.LANGUAGES,
        ("", "wikiann", "panx_dataset", "panx"),
        "lines `{language}:token<TAB>tag`",
        wikiann.HOW_TO_GET,
    ),
    "masakhaner": Source(
        "MasakhaNER",
        masakhaner.TYPES,
        masakhaner.LANGUAGES,
        ("", "masakhaner", "data", "MasakhaNER1.0/data", "masakhane-ner/data"),
        how_to_get=f"{masakhaner.HOW_TO_GET} and name it with --data-dir or EVOGRAD_DATA",
    ),
    "conll": Source(
        "A CoNLL corpus",
        (),
        (),
        ("", "conll"),
        how_to_get="name a folder that has it with --data-dir or EVOGRAD_DATA",
    ),
}


def load_corpus(dataset: str, language: str, data_dir: Path | None = None) -> Corpus:
    """Sentences by split of one language of a data set.

    Raises UserError if it is not available or has a single training sentence, or a file is
    malformed, has an unknown tag, or no entity.
    """
    corpus = _load(dataset, language, data_dir)
    if len(corpus["train"]) < 2:
        raise UserError(
            f"{DATASETS[dataset].title} of the language {language} has one training sentence: "
            "its files should have a blank line between sentences."
        )
    return corpus


def _load(dataset: str, language: str, data_dir: Path | None) -> Corpus:
    if dataset not in DATASETS:
        raise UserError(f"--dataset {dataset} is unknown: use {', '.join(DATASETS)}")
    if dataset == "embedded":
        return embedded.load_embedded(language)
    source = DATASETS[dataset]
    expected = f"{language}/train, dev and test with {source.form.format(language=language)}"
    if folder := _folder(source, language, data_dir, expected):
        parse = parse_wikiann(language) if dataset == "wikiann" else parse_columns
        return read_folder(folder, parse, source.types or None)
    if dataset == "wikiann":
        return wikiann.load_from_hub(language)
    if dataset == "masakhaner" and language in source.languages:
        return masakhaner.load_from_repository(language)
    known = f"its languages are {', '.join(source.languages)}; " if source.languages else ""
    raise UserError(
        f"{source.title} of the language {language} was not found (EVOGRAD_DATA: "
        f"{os.environ.get('EVOGRAD_DATA') or 'not set'}): {known}{source.how_to_get}, where it "
        f"should hold {expected}."
    )


def _folder(source: Source, language: str, data_dir: Path | None, expected: str) -> Path | None:
    """The folder with the language's files; None if none is given or EVOGRAD_DATA lacks it."""
    named = data_dir or os.environ.get("EVOGRAD_DATA")
    if not named:
        return None
    for inside in source.inside:
        place = Path(named).expanduser() / inside / language
        # Archives may be unpacked into a folder of their own name.
        for folder in (place, place / language):
            if find_files(folder):
                return folder
    if data_dir is None:
        return None
    raise UserError(
        f"{source.title} of the language {language} is not in the folder {data_dir} given as "
        f"--data-dir: it should hold {expected}; {source.how_to_get}."
    )


def sample(sentences: Sequence[Sentence], count: int, seed: int) -> list[Sentence]:
    """All sentences if there are at most ``count``; else ``count`` of them, drawn as in the
    authors' code by ``numpy.random.RandomState(seed).choice(..., replace=False)``."""
    if len(sentences) <= count:
        return list(sentences)
    chosen = np.random.RandomState(seed).choice(len(sentences), count, replace=False)
    return [sentences[i] for i in chosen]


def running_text(dataset: str, languages: Sequence[str], data_dir: Path | None = None) -> list[str]:
    """Plain sentences of the training parts, for a tokenizer and masked language modelling.

    The embedded corpus adds further sentences of the same material.
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
