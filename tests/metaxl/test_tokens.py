"""Labels on first subwords, whole words only, and the way back to tags."""

import pytest

from common.errors import UserError
from metaxl.readers import Sentence, label_list
from metaxl.tokens import IGNORED, SPECIAL, decode_tags, encode, load_tokenizer, train_tokenizer

LABELS = label_list(("PER", "ORG", "LOC"))
TRICKY = (
    "Anna-Maria", "O’Brien", "mbaʼe", "12‐nji", "Ürümqi", "(", "St.", "U.S.A.", "ﬁlm", "2,500",
    "🙂", "中文", "e\u0301", "the", "ñ",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A few subwords, so that most words have several."""
    texts = ["the people of Lima and the people of Peru", "nga tangata o Aotearoa", "Limapi"] * 5
    return train_tokenizer(texts, 60, tmp_path_factory.mktemp("tokenizer"))


def expected_row(sentence, tokenizer, labels):
    """Subwords word by word, independently of word_ids."""
    ids, marks = [tokenizer.bos_token_id], [IGNORED]
    for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
        subwords = tokenizer.encode(token, add_special_tokens=False)
        ids += subwords
        marks += [labels.index(tag)] + [IGNORED] * (len(subwords) - 1)
    return [*ids, tokenizer.eos_token_id], [*marks, IGNORED]


def test_the_first_subword_of_a_word_carries_its_label(tokenizer):
    tags = tuple(LABELS[i % len(LABELS)] for i in range(len(TRICKY)))
    sentences = [Sentence(TRICKY, tags), Sentence(("the", "Peruana"), ("O", "B-PER"))]
    input_ids, mask, labels = encode(sentences, tokenizer, LABELS, 200)
    for i, sentence in enumerate(sentences):
        ids, marks = expected_row(sentence, tokenizer, LABELS)
        n, rest = len(ids), len(labels[i]) - len(ids)
        assert input_ids[i].tolist() == ids + [tokenizer.pad_token_id] * rest
        assert labels[i].tolist() == marks + [IGNORED] * rest
        assert mask[i].tolist() == [1] * n + [0] * rest
    # The words are not all single subwords, else this would show nothing.
    assert (labels == IGNORED).sum() > 20
    # A word without subwords carries no label.
    gap = encode([Sentence(("the", "", "Peru"), ("O", "B-PER", "B-LOC"))], tokenizer, LABELS, 50)
    assert [LABELS[i] for i in gap[2][0].tolist() if i >= 0] == ["O", "B-LOC"]


def test_truncation_keeps_whole_words(tokenizer):
    sentence = Sentence(TRICKY, ("B-LOC",) * len(TRICKY))
    pieces = [len(tokenizer.encode(t, add_special_tokens=False)) for t in TRICKY]
    for max_length in range(2, 60):
        input_ids, _, labels = encode([sentence], tokenizer, LABELS, max_length)
        fitting = max(n for n in range(len(pieces) + 1) if sum(pieces[:n]) + 2 <= max_length)
        assert (labels != IGNORED).sum(1).tolist() == [fitting]
        kept = Sentence(TRICKY[:fitting], sentence.tags[:fitting])
        assert input_ids[0].tolist() == expected_row(kept, tokenizer, LABELS)[0]


def test_tags_come_back_for_labelled_words_only(tokenizer):
    sentences = [
        Sentence(("Limapi", "people"), ("B-LOC", "O")),
        Sentence(("the", "people", "of", "Peru"), ("O", "O", "O", "B-LOC")),
    ]
    _, _, labels = encode(sentences, tokenizer, LABELS, 50)
    guesses = labels.clamp(min=0)
    first = (labels[0] == LABELS.index("B-LOC")).nonzero().item()
    guesses[0, first] = LABELS.index("B-PER")
    true, predicted = decode_tags(labels, guesses, LABELS)
    assert true == [list(s.tags) for s in sentences]
    assert predicted == [["B-PER", "O"], ["O", "O", "O", "B-LOC"]]


def test_an_own_tokenizer_is_the_same_each_time_and_has_the_special_tokens(tmp_path):
    texts = [f"kawsay{i % 7} Lima{i % 5} runakuna{i}pi" for i in range(200)]
    made = [train_tokenizer(texts, 120, tmp_path / name) for name in "ab"]
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert len(made[0]) <= 120
    assert made[0].convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert made[0].decode(made[0].encode("Lima kawsay"), skip_special_tokens=True) == "Lima kawsay"


@pytest.mark.parametrize("content", [{"tokenizer.json": "{"}, {"config.json": "{}"}])
def test_a_folder_without_a_fast_tokenizer_is_refused_in_one_sentence(tmp_path, content):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=r"--encoder .*model.* cannot be loaded") as caught:
        load_tokenizer(folder)
    assert "hf download FacebookAI/xlm-roberta-base" in str(caught.value)
    assert "\n" not in str(caught.value)
