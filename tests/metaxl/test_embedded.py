"""The embedded corpus: what it promises, and that it is the one that results were measured on."""

import hashlib
import unicodedata

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from common.errors import UserError
from metaxl import embedded
from metaxl.corpora import load_corpus, running_text
from metaxl.embedded import LANGUAGES, unlabelled
from metaxl.readers import SPLITS, checksum

# Of the program that made it, before its sentences were kept in a file.
CORPORA_SHA256 = "cae1c22695e52d5ec75807272b4e74bedb64d8acc4efb2ca92634373a8c79fa0"


def mentions(sentences) -> set[str]:
    """The words of all entities, without case and accents."""
    found = set()
    for sentence in sentences:
        for _, first, last in get_entities(list(sentence.tags)):
            words = " ".join(sentence.tokens[first : last + 1])
            plain = unicodedata.normalize("NFD", words).casefold()
            found.add("".join(c for c in plain if not unicodedata.combining(c)))
    return found


def test_it_is_the_one_that_results_were_measured_on_and_splits_share_no_mention():
    corpora = {language: load_corpus("embedded", language) for language in LANGUAGES}
    total = "".join(checksum(corpora[lang][split]) for lang in LANGUAGES for split in SPLITS)
    assert hashlib.sha256(total.encode()).hexdigest() == CORPORA_SHA256
    source = mentions(corpora["eng"]["train"])
    for language, corpus in corpora.items():
        train, dev, test = (mentions(corpus[split]) for split in SPLITS)
        assert min(map(len, (train, dev, test))) > 100
        assert not (train & dev or train & test or dev & test)
        assert language == "eng" or not source & test
        lines, more = running_text("embedded", (language,)), unlabelled(language)
        assert lines == [" ".join(s.tokens) for s in corpus["train"]] + more
        assert len(set(more)) == 2000
        assert not {" ".join(s.tokens) for s in corpus["dev"] + corpus["test"]} & set(lines)


def test_what_is_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"'xx'.*eng, quy, mri, tuk, gug"):
        load_corpus("embedded", "xx")
    path = tmp_path / "corpus.tar.xz"
    path.write_bytes(embedded.FILE.read_bytes()[:-1])
    monkeypatch.setattr(embedded, "FILE", path)
    with pytest.raises(UserError, match=str(path)):
        embedded._texts.__wrapped__()
