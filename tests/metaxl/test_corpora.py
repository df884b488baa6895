"""Reading corpora from files, and what missing or malformed ones are answered."""

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from metaxl import hub, readers
from metaxl.corpora import load_corpus, running_text, sample
from metaxl.readers import Sentence, checksum, counts, parse_text


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch, tmp_path):
    """No folder or cache of the machine is looked into."""
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_corpus():
    """write(folder, line, suffix) puts a small corpus into folder/train, dev, test."""

    def write(folder: Path, line=lambda token, tag: f"{token} {tag}", suffix: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for split, sentences in EXPECTED.items():
            rows = [zip(s.tokens, s.tags, strict=True) for s in sentences]
            text = "\n".join("".join(line(*pair) + "\n" for pair in pairs) for pairs in rows)
            (folder / f"{split}{suffix}").write_text(text, encoding="utf-8")
        return folder

    return write


def wikiann_line(token, tag):
    return f"qu:{token}\t{tag}"


EXPECTED = {
    "train": [
        Sentence(("Anna", "Ruiz", "sings"), ("B-PER", "I-PER", "O")),
        Sentence(("Yes",), ("O",)),
    ],
    "dev": [Sentence(("Lima", "sings"), ("B-LOC", "O"))],
    "test": [Sentence(("Acme", "sings"), ("B-ORG", "O")), Sentence(("Peru",), ("I-LOC",))],
}


@pytest.mark.parametrize("inside", ["qu", "panx_dataset/qu/qu"])
def test_wikiann_in_the_original_layout(tmp_path, write_corpus, monkeypatch, inside):
    write_corpus(tmp_path / inside, wikiann_line)
    assert load_corpus("wikiann", "qu", tmp_path) == EXPECTED
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    assert load_corpus("wikiann", "qu") == EXPECTED


@pytest.fixture
def swahili(monkeypatch):
    """Takes EXPECTED for MasakhaNER's Swahili."""
    sums = {split: checksum(sentences) for split, sentences in EXPECTED.items()}
    monkeypatch.setitem(readers.MASAKHANER_SUMS, "swa", sums)


@pytest.mark.parametrize("inside", ["swa", "MasakhaNER1.0/data/swa"])
def test_masakhaner_in_its_repositorys_layout(tmp_path, write_corpus, swahili, inside):
    folder = write_corpus(tmp_path / inside, suffix=".txt")
    assert load_corpus("masakhaner", "swa", tmp_path) == EXPECTED
    for path in folder.iterdir():  # as git writes it on Windows
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_corpus("masakhaner", "swa", tmp_path) == EXPECTED


def test_other_content_is_not_taken_for_masakhaner(tmp_path, write_corpus):
    """The record would say masakhaner; a corpus of your own is named as such."""
    folder = write_corpus(tmp_path / "swa", suffix=".txt")
    with pytest.raises(UserError, match=rf"{folder.parent}.*--dataset conll"):
        load_corpus("masakhaner", "swa", tmp_path)
    assert load_corpus("conll", "swa", tmp_path) == EXPECTED


@pytest.mark.parametrize("suffix", ["", ".conll"])
def test_conll_with_any_ending_and_number_of_columns(tmp_path, write_corpus, suffix):
    write_corpus(tmp_path / "xx", lambda token, tag: f"{token} NOUN  x {tag}", suffix)
    assert load_corpus("conll", "xx", tmp_path) == EXPECTED
    assert running_text("conll", ("xx",), tmp_path) == ["Anna Ruiz sings", "Yes"]


LIMA = Sentence(("San", "Juan", "sings"), ("B-LOC", "I-LOC", "O"))


@pytest.mark.parametrize(
    "text",
    [
        "San B-LOC\nJuan I-LOC\nsings O",
        "-DOCSTART- X O\n\nSan B-LOC\nJuan I-LOC\nsings O\n\n\n",
        "San B-LOC\r\nJuan I-LOC\r\nsings O\r\n",
        "San B-LOC\r\r\nJuan I-LOC\r\r\nsings O\r\r\n",
        "San B-LOC\rJuan I-LOC\rsings O\r",
        " San x  y B-LOC \nJuan\tx y \t I-LOC \t\nsings\t\tO\n",
    ],
)
def test_one_sentence_in_the_forms_that_people_write(text):
    assert parse_text(text, "here") == [LIMA]


def test_tokens_are_taken_as_they_are():
    """Colons, blanks before a tab, invisible characters, those Python takes for line ends."""
    tokens = ("10:30", "qu:", "San Juan", "\u200e", "a\u2028b", "c\x85", "d\u00a0e")
    sentence = Sentence(tokens, ("B-PER",) * len(tokens))
    for start, language in (("qu:", "qu"), ("", "")):
        text = "".join(f"{start}{token}\tB-PER\n" for token in tokens)
        assert parse_text(text, "here", (), language) == [sentence]
    assert parse_text("d\u00a0e B-PER", "here")[0].tokens == ("d\u00a0e",)


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("qu", "qu:Lima\tB-LOC\nqu:Peru O\n", r"line 2: 'qu:Peru O'.*qu:token<TAB>"),
        ("qu", "qu:Lima\tB-LOC\n\nen:Peru\tO\n", r"line 3: .*qu:token<TAB>tag"),
        ("", "Lima B-DATE\n", r"line 1: 'B-DATE' is not .*PER, ORG, LOC"),
        ("", "Juma B-PER\nleo\n", r"line 2: 'leo'.*a token, a blank or tab"),
        ("", "a O\nLima S-LOC\n", r"line 2: 'S-LOC' is not an IOB2 tag"),
        ("", "Lima O\n\nPeru O\n", r"no entity"),
        ("", "1 Lima B-LOC\n2 Peru O\n\n1 Yes O\n", r"running numbers"),
    ],
)
def test_bad_lines_are_named(language, text, message):
    with pytest.raises(UserError, match=rf"a file.*{message}"):
        parse_text(text, "a file", ("PER", "ORG", "LOC"), language)


def test_files_of_one_sentence_or_another_encoding_are_refused(tmp_path, write_corpus):
    path = write_corpus(tmp_path / "xx") / "train"
    path.write_text("\ufeff" + path.read_text().replace("\n\n", "\n"))
    with pytest.raises(UserError, match="blank line between sentences"):
        load_corpus("conll", "xx", tmp_path)
    path.write_bytes(b"\xff O")
    with pytest.raises(UserError, match=f"{path} cannot be read as UTF-8"):
        load_corpus("conll", "xx", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("conll", r"--data-dir or EVOGRAD_DATA"),
        ("masakhaner", r"'en'.*amh, hau.*--dataset conll"),
        ("wikiann", r"pyarrow.*--data-dir or EVOGRAD_DATA"),
    ],
)
def test_what_is_missing_is_named_and_what_to_fetch(
    dataset, message, tmp_path, write_corpus, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=message):
        load_corpus(dataset, "en")
    with pytest.raises(UserError, match=rf"{tmp_path}.*swa/train"):
        load_corpus(dataset, "swa", tmp_path)
    (write_corpus(tmp_path / "swa") / "dev").unlink()
    with pytest.raises(UserError, match=r"swa lacks dev"):
        load_corpus(dataset, "swa", tmp_path)


@pytest.fixture
def parquet(monkeypatch):
    """What is used of pyarrow: every file holds the same two sentences."""
    content = {"tokens": [["Peru", "x"], ["y"]], "ner_tags": [[5, 0], [2]]}
    table = SimpleNamespace(to_pydict=lambda: content)
    parquet = SimpleNamespace(read_table=lambda path, columns: table)
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


def test_wikiann_of_the_hub_has_its_numbered_tags(monkeypatch, parquet):
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda *words: asked.append(words))
    # The hub's order: O, B-PER, I-PER, B-ORG, I-ORG, B-LOC, I-LOC.
    expected = [Sentence(("Peru", "x"), ("B-LOC", "O")), Sentence(("y",), ("I-PER",))]
    assert load_corpus("wikiann", "qu") == dict.fromkeys(("train", "dev", "test"), expected)
    file = "qu/validation-00000-of-00001.parquet"
    assert asked[1] == ("unimelb-nlp/wikiann", file, "dataset")


def test_the_hubs_cache_comes_first_and_an_unreachable_hub_is_asked_once(monkeypatch, parquet):
    asked = []

    def download(repository, file, repo_type, local_files_only=False):
        asked.append(local_files_only)
        if local_files_only and not cached:
            raise hub.LocalEntryNotFoundError("not there")
        return file

    def metadata(url, timeout):
        asked.append(timeout)
        if not reachable:
            raise ConnectionError("no route")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)
    cached, reachable = True, False
    assert hub.fetch("a/b", "c.json") == Path("c.json")
    assert asked == [True]
    asked.clear()
    cached, reachable = False, True
    assert hub.fetch("a/b", "c.json") == Path("c.json")
    assert asked == [True, hub.SECONDS, False]
    asked.clear()
    reachable = False
    with pytest.raises(UserError, match=r"hub \(.*no route\): fetch the original"):
        load_corpus("wikiann", "qu")
    assert asked == [True, hub.SECONDS]


def test_masakhaner_is_downloaded_into_the_cache_and_verified(
    monkeypatch, write_corpus, swahili, tmp_path
):
    served = write_corpus(tmp_path / "served" / "MasakhaNER1.0" / "data" / "swa", suffix=".txt")
    monkeypatch.setattr(readers, "_RAW", (tmp_path / "served").as_uri())
    assert load_corpus("masakhaner", "swa") == EXPECTED
    (served / "train.txt").unlink()
    assert load_corpus("masakhaner", "swa") == EXPECTED  # from the cache
    monkeypatch.setitem(readers.MASAKHANER_SUMS["swa"], "dev", "0" * 64)
    with pytest.raises(UserError, match=r"MasakhaNER of the language swa.*--dataset conll"):
        load_corpus("masakhaner", "swa")


def test_counts_take_entities_as_seqeval_does():
    tags = ("I-LOC", "I-LOC", "B-LOC", "I-PER", "O", "B-ORG", "I-ORG", "I-LOC", "O")
    found = counts({"train": [Sentence(tuple("abcdefghi"), tags), Sentence(("x",), ("O",))]})
    expected = {"sentences": 2, "tokens": 10}
    expected |= {"entities LOC": 3, "entities ORG": 1, "entities PER": 1}
    assert found == {f"train {name}": value for name, value in expected.items()}


def test_a_sample_is_numpys_choice_and_a_small_corpus_stays_as_it_is():
    sentences = [Sentence((str(i),), ("O",)) for i in range(2_000)]
    expected = np.random.RandomState(42).permutation(2_000)[:500]
    assert [int(s.tokens[0]) for s in sample(sentences, 500, 42)] == expected.tolist()
    assert sample(sentences[:100], 100, 42) == sentences[:100]


def test_checksums_are_of_lines():
    content = b"Lima\tB-LOC\nsings\tO\n\n"
    assert checksum(EXPECTED["dev"]) == hashlib.sha256(content).hexdigest()
