"""Reading corpora from files, and what missing or malformed ones are answered."""

import functools
import hashlib
import http.server
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from metaxl import hub, masakhaner
from metaxl.corpora import DATASETS, corpus_checksums, load_corpus, running_text, sample
from metaxl.sentences import Sentence, checksum, counts, entity_types, label_list


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


@pytest.mark.parametrize("inside", ["qu", "wikiann/qu", "panx_dataset/qu", "qu/qu"])
def test_wikiann_in_the_original_layout(tmp_path, write_corpus, inside):
    write_corpus(tmp_path / inside, wikiann_line)
    assert load_corpus("wikiann", "qu", tmp_path) == EXPECTED


@pytest.fixture
def swahili(monkeypatch):
    """Takes EXPECTED for MasakhaNER's Swahili."""
    sums = {split: checksum(sentences) for split, sentences in EXPECTED.items()}
    monkeypatch.setitem(masakhaner.CHECKSUMS, "swa", sums)


@pytest.mark.parametrize(
    "inside", ["swa", "data/swa", "masakhaner/swa/swa", "MasakhaNER1.0/data/swa"]
)
def test_masakhaner_in_its_repositorys_layout(tmp_path, write_corpus, swahili, inside):
    folder = write_corpus(tmp_path / inside, suffix=".txt")
    assert load_corpus("masakhaner", "swa", tmp_path) == EXPECTED
    for path in folder.iterdir():  # as git writes it on Windows
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_corpus("masakhaner", "swa", tmp_path) == EXPECTED


@pytest.mark.parametrize("language", ["swa", "yor"])
def test_other_content_is_not_taken_for_masakhaner(tmp_path, write_corpus, language):
    """The record would say masakhaner; a corpus of one's own is named as such."""
    folder = write_corpus(tmp_path / language, suffix=".txt")
    with pytest.raises(UserError, match=rf"{folder}.*--dataset conll"):
        load_corpus("masakhaner", language, tmp_path)
    assert load_corpus("conll", language, tmp_path) == EXPECTED


@pytest.mark.parametrize("suffix", ["", ".txt", ".conll"])
def test_conll_with_any_ending_number_of_columns_and_types(tmp_path, write_corpus, suffix):
    write_corpus(tmp_path / "xx", lambda token, tag: f"{token} NOUN  x {tag}", suffix)
    corpus = load_corpus("conll", "xx", tmp_path)
    assert corpus == EXPECTED
    assert entity_types(corpus["train"] + corpus["test"]) == ("LOC", "ORG", "PER")
    path = tmp_path / "xx" / f"dev{suffix}"
    path.write_text("-DOCSTART- X O\n\nfoo B-GPE\r\nbar I-GPE\r\n\r\n\r\n")
    (sentence,) = load_corpus("conll", "xx", tmp_path)["dev"]
    assert sentence == Sentence(("foo", "bar"), ("B-GPE", "I-GPE"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"])
def test_line_ends_of_every_system_give_the_same_sentences(tmp_path, write_corpus, end):
    folder = write_corpus(tmp_path / "xx")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert load_corpus("conll", "xx", tmp_path) == EXPECTED


def test_where_a_line_has_a_tab_the_tab_separates(tmp_path, write_corpus):
    folder = write_corpus(tmp_path / "xx", lambda token, tag: f"{token}\tx y \t {tag} \t")
    assert load_corpus("conll", "xx", tmp_path) == EXPECTED
    (folder / "dev").write_text("San Juan\tB-LOC\nsings\tO\n")
    (sentence,) = load_corpus("conll", "xx", tmp_path)["dev"]
    assert sentence == Sentence(("San Juan", "sings"), ("B-LOC", "O"))


@pytest.mark.parametrize("start", [0, 1])
def test_a_first_column_of_numbers_is_refused(tmp_path, write_corpus, start):
    folder = write_corpus(tmp_path / "xx")
    for path in folder.iterdir():
        sentences = path.read_text().strip("\n").split("\n\n")
        numbered = [[f"{i} {r}" for i, r in enumerate(s.split("\n"), start)] for s in sentences]
        path.write_text("\n\n".join("\n".join(rows) for rows in numbered))
    with pytest.raises(UserError, match="numbers of the words in its first column"):
        load_corpus("conll", "xx", tmp_path)


def test_a_training_part_of_one_sentence_is_refused(tmp_path, write_corpus):
    folder = write_corpus(tmp_path / "xx")
    path = folder / "train"
    path.write_text(path.read_text().replace("\n\n", "\n"))
    with pytest.raises(UserError, match="blank line between sentences"):
        load_corpus("conll", "xx", tmp_path)


def test_the_folder_may_be_in_the_environment(tmp_path, write_corpus, monkeypatch):
    write_corpus(tmp_path / "qu", wikiann_line)
    monkeypatch.setenv("EVOGRAD_DATA", str(tmp_path))
    assert load_corpus("wikiann", "qu") == EXPECTED


def test_tokens_are_taken_as_they_are(tmp_path, write_corpus):
    """Colons, invisible characters and characters that Python takes for line ends."""
    folder = write_corpus(tmp_path / "qu", wikiann_line)
    tokens = ("10:30", "qu:", "\u200e", "a\u2028b", "c\x85", "d\u00a0e")
    text = "".join(f"qu:{token}\tB-PER\n" for token in tokens)
    (folder / "dev").write_text("\ufeff" + text, encoding="utf-8")
    assert load_corpus("wikiann", "qu", tmp_path)["dev"] == [Sentence(tokens, ("B-PER",) * 6)]
    folder = write_corpus(tmp_path / "xx")
    (folder / "dev").write_text("d\u00a0e B-PER\n", encoding="utf-8")
    assert load_corpus("conll", "xx", tmp_path)["dev"] == [Sentence(("d\u00a0e",), ("B-PER",))]


@pytest.mark.parametrize(
    ("dataset", "language", "text", "message"),
    [
        ("wikiann", "qu", "qu:Lima\tB-LOC\nqu:Peru O\n", r"line 2: 'qu:Peru O'.*qu:token<TAB>tag"),
        ("wikiann", "qu", "qu:Lima\tB-LOC\n\nen:Peru\tO\n", r"line 3: .*qu:token<TAB>tag"),
        (
            "wikiann",
            "qu",
            "qu:Lima\tB-DATE\n",
            r"line 1: 'B-DATE' is not .*PER, ORG, LOC",
        ),
        ("masakhaner", "swa", "Juma B-PER\nleo\n", r"line 2: 'leo'.*a token, a blank or tab"),
        ("masakhaner", "swa", "leo B-TIME\n", r"line 1: 'B-TIME'.*PER, ORG, LOC, DATE"),
        ("conll", "xx", "a O\nLima S-LOC\n", r"line 2: 'S-LOC' is not an IOB2 tag"),
        ("conll", "xx", "Lima LOC\n", r"line 1: 'LOC' is not an IOB2 tag"),
        ("conll", "xx", "Lima B-\n", r"line 1: 'B-' is not an IOB2 tag"),
        ("conll", "xx", "Lima\tNNP B-LOC\n", r"line 1: 'NNP B-LOC' is not an IOB2 tag"),
        ("conll", "xx", "Lima O\n\nPeru O\n", r"dev has no entity"),
        ("conll", "xx", "", r"dev is empty"),
        ("conll", "xx", "\n \n\n", r"dev is empty"),
        ("conll", "xx", b"\xff\xfe O\n", r"dev cannot be read as UTF-8"),
    ],
)
def test_bad_files_are_named_in_one_sentence(
    tmp_path, write_corpus, dataset, language, text, message
):
    folder = write_corpus(
        tmp_path / language, wikiann_line if dataset == "wikiann" else lambda *row: " ".join(row)
    )
    (folder / "dev").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(dataset, language, tmp_path)
    assert str(folder / "dev") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["wikiann", "masakhaner", "conll"])
def test_a_folder_without_the_language_says_what_it_should_hold(tmp_path, dataset):
    with pytest.raises(UserError, match=r"--data-dir") as caught:
        load_corpus(dataset, "swa", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "swa/train" in str(caught.value)


def test_a_missing_file_is_named(tmp_path, write_corpus):
    folder = write_corpus(tmp_path / "qu", wikiann_line)
    (folder / "dev").unlink()
    with pytest.raises(UserError, match=r"qu lacks dev"):
        load_corpus("wikiann", "qu", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "language", "message"),
    [
        ("magic", "en", r"--dataset magic is unknown: use embedded, wikiann, masakhaner, conll"),
        ("conll", "en", r"--data-dir or EVOGRAD_DATA"),
        ("masakhaner", "en", r"'en'.*amh, hau.*--dataset conll"),
    ],
)
def test_without_a_folder_it_says_what_to_fetch(dataset, language, message):
    with pytest.raises(UserError, match=message):
        load_corpus(dataset, language)


def test_wikiann_without_pyarrow_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow.*--data-dir or EVOGRAD_DATA"):
        load_corpus("wikiann", "qu")


@pytest.fixture
def parquet(monkeypatch):
    """What is used of pyarrow: every file holds the same two sentences."""
    content = {"tokens": [["Peru", "x"], ["y"]], "ner_tags": [[5, 0], [2]]}

    def read_table(path, columns):
        return SimpleNamespace(to_pydict=lambda: {name: content[name] for name in columns})

    parquet = SimpleNamespace(read_table=read_table)
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


def test_wikiann_of_the_hub_has_its_numbered_tags(monkeypatch, parquet, tmp_path):
    asked = []

    def fetch(*arguments):
        asked.append(arguments)
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    corpus = load_corpus("wikiann", "qu")
    # The hub's order: O, B-PER, I-PER, B-ORG, I-ORG, B-LOC, I-LOC.
    expected = [Sentence(("Peru", "x"), ("B-LOC", "O")), Sentence(("y",), ("I-PER",))]
    assert corpus == dict.fromkeys(("train", "dev", "test"), expected)
    assert asked[1] == (
        "unimelb-nlp/wikiann", "qu/validation-00000-of-00001.parquet", "dataset"
    )  # fmt: skip


def test_wikiann_without_a_connection_says_what_to_fetch(monkeypatch, parquet):
    def fails(*arguments, **options):
        raise OSError("no\nconnection")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(UserError, match=r"hub \(.*no connection\): fetch the original") as caught:
        load_corpus("wikiann", "qu")
    assert "\n" not in str(caught.value)


def test_the_hubs_cache_comes_first_and_an_unreachable_hub_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def download(repository, file, repo_type, local_files_only=False):
        asked.append(local_files_only)
        if local_files_only and not cached:
            raise hub.LocalEntryNotFoundError("not there")
        return str(tmp_path / file)

    def metadata(url, timeout):
        asked.append(timeout)
        if not reachable:
            raise ConnectionError("no route")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub.huggingface_hub, "get_hf_file_metadata", metadata)
    cached, reachable = True, False
    assert hub.fetch("a/b", "c.json") == tmp_path / "c.json"
    assert asked == [True]
    cached, reachable = False, True
    assert hub.fetch("a/b", "c.json") == tmp_path / "c.json"
    assert asked[1:] == [True, hub.SECONDS, False]
    reachable = False
    with pytest.raises(hub.Unreachable, match=r"c\.json of a/b: no route"):
        hub.fetch("a/b", "c.json")
    assert asked[4:] == [True, hub.SECONDS]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of the test's own, of the folder "served"."""
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_masakhaner_is_downloaded_into_the_cache_and_verified(
    monkeypatch, write_corpus, swahili, tmp_path, server
):
    served = write_corpus(tmp_path / "served" / "MasakhaNER1.0" / "data" / "swa", suffix=".txt")
    monkeypatch.setattr(masakhaner, "_RAW", server)
    assert load_corpus("masakhaner", "swa") == EXPECTED
    (served / "train.txt").unlink()
    assert load_corpus("masakhaner", "swa") == EXPECTED  # from the cache
    monkeypatch.setitem(masakhaner.CHECKSUMS["swa"], "dev", "0" * 64)
    with pytest.raises(UserError, match=r"MasakhaNER of the language swa.*--dataset conll"):
        load_corpus("masakhaner", "swa")


def test_labels_and_languages():
    assert label_list(("PER", "LOC")) == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert DATASETS["masakhaner"].types == ("PER", "ORG", "LOC", "DATE")


def test_counts_take_entities_as_seqeval_does():
    tags = ("I-LOC", "I-LOC", "B-LOC", "I-PER", "O", "B-ORG", "I-ORG", "I-LOC", "O")
    corpus = {"train": [Sentence(tuple("abcdefghi"), tags), Sentence(("x",), ("O",))], "dev": []}
    assert counts(corpus) == {
        "train sentences": 2,
        "train tokens": 10,
        "train entities LOC": 3,
        "train entities ORG": 1,
        "train entities PER": 1,
        "dev sentences": 0,
        "dev tokens": 0,
    }


def test_a_sample_is_numpys_choice_and_a_small_corpus_stays_as_it_is():
    sentences = [Sentence((str(i),), ("O",)) for i in range(20_000)]
    expected = np.random.RandomState(42).permutation(20_000)[:5_000]
    chosen = sample(sentences, 5_000, 42)
    assert [int(s.tokens[0]) for s in chosen] == expected.tolist()
    assert len(set(chosen)) == 5_000
    assert sample(sentences[:100], 100, 42) == sample(sentences[:100], 5_000, 1) == sentences[:100]


def test_checksums_are_of_lines_and_tell_changes(tmp_path, write_corpus):
    folder = write_corpus(tmp_path / "xx")
    sums = corpus_checksums("conll", ("xx",), tmp_path)
    assert list(sums) == ["conll xx train", "conll xx dev", "conll xx test"]
    expected = hashlib.sha256(b"Lima\tB-LOC\nsings\tO\n\n").hexdigest()
    assert sums["conll xx dev"] == expected
    (folder / "dev").write_text("Lima B-LOC\n\nsings O\n")
    assert corpus_checksums("conll", ("xx",), tmp_path)["conll xx dev"] != expected


def test_running_text_is_the_training_part(tmp_path, write_corpus):
    write_corpus(tmp_path / "xx")
    assert running_text("conll", ("xx",), tmp_path) == ["Anna Ruiz sings", "Yes"]
