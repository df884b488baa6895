"""The corpora by name: embedded, wikiann, masakhaner, conll.

embedded: synthetic mentions in real text (see ``embedded/ATTRIBUTION.md``); needs nothing.
wikiann: folder LANGUAGE/train, dev, test with lines ``language:token<TAB>tag``; else the hub.
masakhaner: folder LANGUAGE/train.txt, dev.txt, test.txt; else its repository. No other content.
conll: any folder LANGUAGE/train, dev, test (or .txt, .conll) with a token and an IOB2 tag on each
line; the entity types are those in the files.

The folder is --data-dir, or else EVOGRAD_DATA; the files may be some levels down, as in the
original archives. Sentences keep the order of the files.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.datasets.fetch import user_folder
from common.errors import UserError
from metaxl import embedded, readers
from metaxl.readers import Corpus, Sentence


class Source(NamedTuple):
    """A data set. types: of its entities; () if they are those in the files. languages: those whose
    text a small encoder is trained on; () if they are those of the run."""

    title: str
    types: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


DATASETS = {
    "embedded": Source("The embedded corpus", embedded.TYPES, embedded.LANGUAGES),
    "wikiann": Source("WikiAnn", readers.WIKIANN_TYPES),
    "masakhaner": Source("MasakhaNER", readers.MASAKHANER_TYPES, tuple(readers.MASAKHANER_SUMS)),
    "conll": Source("A CoNLL corpus"),
}


def load_corpus(dataset: str, language: str, data_dir: Path | None = None) -> Corpus:
    """Sentences by split of one language of a data set.

    Raises UserError if it is not available or has a single training sentence, or a file is
    malformed, has an unknown tag, or no entity.
    """
    if dataset == "embedded":
        return embedded.load_embedded(language)
    if dataset == "masakhaner":
        return readers.load_masakhaner(language, data_dir)
    title = f"{DATASETS[dataset].title} of the language {language}"
    form, how_to_get, inside, prefix = "`token tag`", "", ["", "conll"], ""
    if dataset == "wikiann":
        form, how_to_get = f"`{language}:token<TAB>tag`", f"; {readers.GET_WIKIANN}"
        inside, prefix = ["", "wikiann", "panx_dataset", "panx"], language
    setting, corpus = "EVOGRAD_DATA" if data_dir is None else "--data-dir", None
    if named := data_dir or os.environ.get("EVOGRAD_DATA"):
        places = (user_folder(setting, named) / i / language for i in inside)
        corpus = readers.read_folder(places, DATASETS[dataset].types, prefix)
    if corpus is None and dataset == "wikiann" and data_dir is None:
        corpus = readers.wikiann_from_hub(language)
    if corpus is None:
        raise UserError(
            f"{title} was not found ({setting}: {named or 'not set'}): name a folder with "
            f"--data-dir or EVOGRAD_DATA that holds {language}/train, dev and test with lines "
            f"{form}{how_to_get}"
        )
    if len(corpus["train"]) < 2:
        raise UserError(
            f"{title} has one training sentence: its files should have a blank line between "
            "sentences"
        )
    return corpus


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
        lines += embedded.unlabelled(language) if dataset == "embedded" else []
    return lines
