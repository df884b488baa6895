"""Sentences labelled with named entities in IOB2, and how they are read: files of one token and
its tag on a line, WikiAnn from the Hugging Face hub, MasakhaNER from its repository.

B-X begins an entity of type X, I-X continues it, O is outside of entities. Tags are read as by
seqeval, which computes F1: an I-X that does not follow a B-X or I-X of the same type begins an
entity. WikiAnn and MasakhaNER have a few of these; they are not changed.

WikiAnn (PAN-X): entities in Wikipedia by its links (Pan et al., ACL 2017; splits by Rahimi et al.,
ACL 2019). MasakhaNER 1.0: news in ten African languages, labelled by people (Adelani et al., TACL
2021); CC BY-NC 4.0, so this project contains no copy: ``masakhaner.json`` has the SHA-256 of each
split's content (see :func:`checksum`), which the line ends of a copy do not change.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from seqeval.metrics.sequence_labeling import get_entities

from common.datasets.fetch import Damaged, Dataset, Files, Missing, fetch, official
from common.errors import UserError
from metaxl import hub

SPLITS = ("train", "dev", "test")
TAG = re.compile(r"O|[BI]-(?P<type>\S+)")
NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
"""What the three splits' files may be called, with any of the endings."""
ENDINGS = ("", ".txt", ".conll", ".tsv", ".iob2", ".bio")
WIKIANN_TYPES = ("PER", "ORG", "LOC")
WIKIANN_HUB = "unimelb-nlp/wikiann"
GET_WIKIANN = (
    f"fetch the original files (linked from the page of the data set {WIKIANN_HUB} on the "
    "Hugging Face hub), unpack them to LANGUAGE/train, dev and test, and name the folder above "
    "with --data-dir or EVOGRAD_DATA"
)
MASAKHANER_TYPES = ("PER", "ORG", "LOC", "DATE")
MASAKHANER_SUMS = json.loads(Path(__file__).with_name("masakhaner.json").read_text("utf-8"))
MASAKHANER = "masakhane-io/masakhane-ner"
_RAW = f"https://raw.githubusercontent.com/{MASAKHANER}/main"


class Sentence(NamedTuple):
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


def as_lines(sentences: Iterable[Sentence]) -> str:
    """Lines ``token<TAB>tag``, with a blank line after each sentence."""
    rows = (map("\t".join, zip(s.tokens, s.tags, strict=True)) for s in sentences)
    return "".join("\n".join([*lines, "\n"]) for lines in rows)


def checksum(sentences: Iterable[Sentence]) -> str:
    """SHA-256 of :func:`as_lines` in UTF-8."""
    return hashlib.sha256(as_lines(sentences).encode()).hexdigest()


def parse_text(
    text: str, origin: str, types: Sequence[str] = (), language: str = ""
) -> list[Sentence]:
    """The sentences of a text, with a blank line between them.

    A line has columns, token first and tag last, separated by tabs where it has one, else by
    blanks; with ``language`` it is WikiAnn's ``language:token<TAB>tag``. types: the allowed entity
    types; () allows any. Lines that begin with -DOCSTART- are skipped. UserError names the line (of
    ``origin``) that is malformed or has an unknown tag, or says that there is no entity, or that
    the first column has running numbers.
    """
    form = f"{language}:token<TAB>tag" if language else "a token, a blank or tab, and a tag"
    sentences: list[Sentence] = []
    rows: list[list[str]] = []
    numbered = True  # whether the lines of all sentences begin with 1, 2, 3, ... or 0, 1, 2, ...
    # Line ends of any system, also twice over; not splitlines(), which would split at some
    # characters inside tokens.
    for number, line in enumerate([*re.split(r"\r*\n|\r", text), ""], start=1):
        if line.strip(" \t") and not line.startswith("-DOCSTART-"):
            if language:
                match = re.fullmatch(rf"{re.escape(language)}:(.*?)\t[ \t]*(.*?)[ \t]*", line)
                columns = list(match.groups()) if match else []
            else:
                columns = re.split(r" *\t[ \t]*" if "\t" in line else " +", line.strip(" \t"))
            place = f"{origin}, line {number}"
            if len(columns) < 2:
                raise UserError(f"{place}: {line[:40]!r} should have the form {form}")
            tag = TAG.fullmatch(columns[-1])
            if not tag or (types and tag["type"] and tag["type"] not in types):
                raise UserError(
                    f"{place}: {columns[-1][:40]!r} is not an IOB2 tag (O, B-X or I-X, with X: "
                    f"{', '.join(types) or 'any type X'})"
                )
            rows.append(columns)
        elif rows:
            first = [row[0] for row in rows if len(row) > 2]
            numbered &= first in ([str(i) for i in range(k, k + len(rows))] for k in (0, 1))
            sentences.append(Sentence(tuple(r[0] for r in rows), tuple(r[-1] for r in rows)))
            rows = []
    if sentences and numbered:
        raise UserError(f"{origin} has running numbers in its first column: remove that column")
    if not entity_types(sentences):
        raise UserError(f"{origin} has no entity: the tag should be in the last column")
    return sentences


def read_folder(
    places: Iterable[Path], types: Sequence[str] = (), language: str = ""
) -> Corpus | None:
    """The corpus in the first of the folders that has one of the splits' files, or whose folder of
    the same name (archives may be unpacked into one) has; None if there is none.

    UserError names a missing file, or one that is not UTF-8 text; see also :func:`parse_text`.
    """
    for folder in (inner for place in places for inner in (place, place / place.name)):
        paths = {s: [folder / (n + e) for n in NAMES[s] for e in ENDINGS] for s in SPLITS}
        found = {s: next((p for p in ps if p.is_file()), None) for s, ps in paths.items()}
        if lacking := [split for split, path in found.items() if path is None]:
            if len(lacking) < len(SPLITS):
                raise UserError(
                    f"{folder} lacks {' and '.join(lacking)}: it should hold the files train, dev "
                    "and test (each also with the ending .txt or .conll)"
                )
            continue
        corpus = {}
        for split, path in found.items():
            try:
                text = path.read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path} cannot be read as UTF-8 text ({error})") from None
            corpus[split] = parse_text(text, str(path), types, language)
        return corpus
    return None


def wikiann_from_hub(language: str) -> Corpus:
    """WikiAnn from the hub, or from its cache on this machine.

    UserError if a package is missing, or the hub or the language cannot be reached.
    """
    lacking = f"WikiAnn of the language {language} is in no folder (--data-dir, EVOGRAD_DATA)"
    labels, corpus = label_list(WIKIANN_TYPES), {}  # in the order of the hub's numbers
    try:
        import pyarrow.parquet as parquet

        for split in SPLITS:
            name = "validation" if split == "dev" else split
            path = hub.fetch(WIKIANN_HUB, f"{language}/{name}-00000-of-00001.parquet", "dataset")
            columns = parquet.read_table(path, columns=["tokens", "ner_tags"]).to_pydict()
            rows = zip(columns["tokens"], columns["ner_tags"], strict=True)
            corpus[split] = [Sentence(tuple(t), tuple(labels[n] for n in tags)) for t, tags in rows]
    except ImportError:
        raise UserError(
            f"{lacking}, and reading the hub's copy needs the package pyarrow: install that with "
            f"pip, or {GET_WIKIANN}"
        ) from None
    except hub.Unreachable as reason:
        raise UserError(
            f"{lacking} and is not available from the Hugging Face hub ({reason}): {GET_WIKIANN}"
        ) from None
    return corpus


def load_masakhaner(language: str, data_dir: Path | None = None) -> Corpus:
    """MasakhaNER's corpus of a language from a folder, the cache or the repository, with the
    published content; errors are those of ``fetch``."""
    if language not in MASAKHANER_SUMS:
        raise UserError(
            f"MasakhaNER has no language {language!r}: use {', '.join(MASAKHANER_SUMS)}; files of "
            "your own are read with --dataset conll."
        )

    def read(folder: Path) -> Files:
        inside = ("", "masakhaner", "data", "MasakhaNER1.0/data", "masakhane-ner/data")
        try:
            found = read_folder((folder / i / language for i in inside), MASAKHANER_TYPES)
        except UserError as error:
            raise Damaged(str(error).removesuffix(".")) from None
        if not found:
            raise Missing(f"no folder {language} in it")
        return {split: as_lines(own).encode() for split, own in found.items()}

    raw = [f"{_RAW}/{folder}data/{language}" for folder in ("", "MasakhaNER1.0/")]
    files = {f"{language}/{s}.txt": (tuple(f"{r}/{s}.txt" for r in raw), None) for s in SPLITS}
    dataset = Dataset(
        name=f"masakhaner-{language}",
        title=f"MasakhaNER of the language {language}",
        checksums=MASAKHANER_SUMS[language],
        read=read,
        expected=f"{language}/train.txt, dev.txt and test.txt",
        how_to_get=f"get the folder data of the GitHub repository {MASAKHANER}, or read files of "
        "your own with --dataset conll",
        sources=(official("0.5 MB", files),),
    )
    found, _ = fetch(dataset, data_dir)
    return {s: parse_text(found[s].decode(), s, MASAKHANER_TYPES) for s in SPLITS}
