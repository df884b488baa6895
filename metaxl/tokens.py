"""Subwords: a tokenizer of our own or XLM-R's, and labelled words as tensors.

The first subword of a word has its label; the others, special tokens and padding have IGNORED,
which the loss leaves out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metaxl import hub
from metaxl.readers import Sentence
from metaxl.transformers_import import AutoTokenizer, PreTrainedTokenizerFast

IGNORED = -100
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""In the order of their numbers; the first four have XLM-R's."""


def train_tokenizer(texts: Sequence[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer with up to ``vocab_size`` subwords, trained on the texts and kept in ``folder``.

    Byte-pair encoding: the same texts always give the same subwords, unlike with the unigram model
    of XLM-R. Normalisation NFKC, the mark at the beginning of words, and the special tokens are as
    in XLM-R.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
        **{"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
    )
    fast.save_pretrained(str(folder))
    return fast


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, or of a model on the Hugging Face hub.

    UserError if there is none that can tell which word a subword belongs to.
    """
    folder = Path(source)
    with hub.loading(f"The tokenizer of --encoder {source}"):
        if not folder.is_dir():
            # The hub's cache has all files of a model in one folder.
            folder = hub.fetch(str(source), "tokenizer.json").parent
            hub.fetch(str(source), "config.json")
        if not (folder / "tokenizer.json").is_file():
            raise ValueError("it has no tokenizer.json, which a fast tokenizer needs")
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), use_fast=True)
    return tokenizer


def encode(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerFast,
    labels: tuple[str, ...],
    max_length: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences as at most ``max_length`` subwords each, <s> and </s> included: subwords, mask (0
    at padding) and labels, each int64 (N, L), L being the length of the longest.

    A sentence that is longer ends with the last word that fits whole. A word that gives no subword
    at all (WikiAnn has some of invisible characters) carries no label.
    """
    number = {label: i for i, label in enumerate(labels)}
    batch = tokenizer([list(s.tokens) for s in sentences], is_split_into_words=True, verbose=False)
    rows = []
    for i, sentence in enumerate(sentences):
        ids, words = batch["input_ids"][i], batch.word_ids(i)
        if len(ids) > max_length:
            end = max_length - 1
            while words[end] is not None and words[end] == words[end - 1]:
                end -= 1
            ids, words = [*ids[:end], ids[-1]], [*words[:end], None]
        marks = [
            IGNORED if word is None or word == words[j - 1] else number[sentence.tags[word]]
            for j, word in enumerate(words)
        ]
        rows.append(torch.tensor([ids, [1] * len(ids), marks]).T)
    fill = torch.tensor([tokenizer.pad_token_id, 0, IGNORED])
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    input_ids, mask, targets = torch.where(padded == -1, fill, padded).permute(2, 0, 1).contiguous()
    return input_ids, mask, targets


def decode_tags(
    label_ids: Tensor, predicted_ids: Tensor, labels: tuple[str, ...]
) -> tuple[list[list[str]], list[list[str]]]:
    """True and predicted tags of the words that carry a label, by sentence, as seqeval takes them.

    label_ids, predicted_ids: (N, L).
    """
    true, predicted = [], []
    for row, guesses in zip(label_ids, predicted_ids, strict=True):
        kept = row != IGNORED
        true.append([labels[i] for i in row[kept].tolist()])
        predicted.append([labels[i] for i in guesses[kept].tolist()])
    return true, predicted
