"""The embedded corpus: what it promises, and that it is the one that results were measured on."""

import hashlib
import unicodedata

import pytest

from common.errors import UserError
from metaxl import embedded
from metaxl.corpora import load_corpus, running_text
from metaxl.embedded import LANGUAGES, unlabelled
from metaxl.readers import Sentence, checksum

SPLITS = ("train", "dev", "test")
# Of the program that made it, before its sentences were kept in a file.
CORPORA_SHA256 = "cae1c22695e52d5ec75807272b4e74bedb64d8acc4efb2ca92634373a8c79fa0"


@pytest.fixture(scope="module")
def corpora():
    return {language: load_corpus("embedded", language) for language in LANGUAGES}


def mentions(sentence: Sentence) -> list[tuple[str, tuple[str, ...]]]:
    """Types and words of the entities, read off strictly."""
    found = []
    for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [token]))
        elif tag.startswith("I-"):
            assert found[-1][0] == tag[2:]
            found[-1][1].append(token)
    return [(kind, tuple(words)) for kind, words in found]


def all_mentions(sentences) -> set[str]:
    """Without case and accents."""
    plain = (" ".join(words) for s in sentences for _, words in mentions(s))
    decomposed = (unicodedata.normalize("NFD", words).casefold() for words in plain)
    return {"".join(c for c in words if not unicodedata.combining(c)) for words in decomposed}


def test_it_is_the_one_that_results_were_measured_on(corpora):
    total = "".join(checksum(corpora[lang][split]) for lang in LANGUAGES for split in SPLITS)
    assert hashlib.sha256(total.encode()).hexdigest() == CORPORA_SHA256


@pytest.mark.parametrize("language", LANGUAGES)
def test_splits_share_no_mention(corpora, language):
    found = [all_mentions(corpora[language][split]) for split in SPLITS]
    assert all(len(names) > 100 for names in found)
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    source = all_mentions(corpora["eng"]["train"])
    assert language == "eng" or not source & found[2]


@pytest.mark.parametrize("language", LANGUAGES)
def test_running_text_is_the_training_part_and_more_of_its_kind(corpora, language):
    lines = running_text("embedded", (language,))
    training = [" ".join(s.tokens) for s in corpora[language]["train"]]
    assert lines == training + unlabelled(language)
    assert len(set(unlabelled(language))) == 2000
    for split in ("dev", "test"):
        assert not {" ".join(s.tokens) for s in corpora[language][split]} & set(lines)


def test_an_unknown_language_is_named():
    with pytest.raises(UserError, match=r"'xx'.*eng, quy, mri, tuk, gug"):
        load_corpus("embedded", "xx")


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "corpus.tar.xz"
    content = bytearray(embedded.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(embedded, "FILE", path)
    with pytest.raises(UserError, match=str(path)):
        embedded._texts.__wrapped__()
