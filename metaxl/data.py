"""The sentences of a run: subwords and labels on the device; a batch is as long as its longest."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from common.errors import UserError
from common.files import file_digest
from metaxl import hub
from metaxl.config import SMALL, Config
from metaxl.corpora import DATASETS, corpus_checksums, load_corpus, running_text, sample
from metaxl.models import load_encoder
from metaxl.pretrain import Pretraining, encoder_checksums, pretrained_encoder
from metaxl.readers import counts, entity_types, label_list
from metaxl.tokens import encode, load_tokenizer
from metaxl.transformers_import import PreTrainedTokenizerFast, XLMRobertaModel

_PRETRAINED_TOGETHER = ("embedded", "masakhaner")  # all their languages in one small encoder


@dataclass(frozen=True)
class Batch:
    """Sentences: subwords, mask and labels, each (N, L).

    hidden: None, or the output (N, L, H) of layer ``depth``, computed beforehand.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    hidden: Tensor | None = None
    depth: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def halves(self) -> tuple[Self, Self]:
        """The sentences for training, and the same number or one more for the meta loss."""
        middle = len(self) // 2
        return (
            type(self)(self.input_ids[:middle], self.attention_mask[:middle], self.labels[:middle]),
            type(self)(self.input_ids[middle:], self.attention_mask[middle:], self.labels[middle:]),
        )

    def detached(self) -> Self:
        """The same batch, its hidden states without a graph."""
        return replace(self, hidden=self.hidden.detach())


class Split:
    """Sentences of one part of a corpus on the device.

    lengths: subwords of each, on the CPU, so that a batch is cut to its longest without waiting
    for the device.
    """

    def __init__(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, device: torch.device
    ) -> None:
        self.lengths = attention_mask.sum(1).cpu()
        self.tensors = [t.to(device) for t in (input_ids, attention_mask, labels)]
        self.device = device

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def labels(self) -> Tensor:
        """(N, L), IGNORED off the first subwords of words."""
        return self.tensors[2]

    def batch(self, index: Tensor) -> Batch:
        """The sentences ``index`` (n,), given on the CPU, as long as the longest of them."""
        length = int(self.lengths[index].max())
        index = index.to(self.device, non_blocking=True)
        input_ids, mask, labels = (tensor[index, :length] for tensor in self.tensors)
        return Batch(input_ids, mask, labels)

    def in_order_of_length(self, batch_size: int) -> Iterator[Tensor]:
        """Index tensors over all sentences, short ones together."""
        yield from self.lengths.argsort(stable=True).split(batch_size)

    def checksum(self) -> str:
        """SHA-256 over subwords and labels."""
        content = hashlib.sha256()
        for tensor in (self.tensors[0], self.tensors[2]):
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class Material:
    """What a run starts from.

    splits: source (training), source_dev, target (training), dev and test of the target language.
    labels: IOB2 labels by number. checksums: SHA-256 of corpora, encoder and splits, and
    what the splits hold (sentences, tokens, entities by type), by name.
    """

    encoder: XLMRobertaModel
    splits: dict[str, Split]
    labels: tuple[str, ...]
    checksums: dict[str, str]


def load_material(config: Config, device: torch.device) -> Material:
    """Corpora, tokenizer and encoder of a run; UserError says what is missing."""
    corpora = {
        language: load_corpus(config.dataset, language, config.data_dir)
        for language in (config.source, config.target)
    }
    source, target = corpora.values()
    everything = [s for corpus in corpora.values() for split in corpus.values() for s in split]
    types = DATASETS[config.dataset].types or entity_types(everything)
    if config.dataset == "wikiann":
        types = (*types, "MISC")
    labels = label_list(types)
    tokenizer, encoder, encoder_sums = _encoder(config)
    config.check_depth(encoder.config.num_hidden_layers)
    check_lengths(config, encoder)

    count = config.eval_sentences or None
    sentences = {
        "source": sample(source["train"], config.source_sentences, config.data_seed),
        "source_dev": source["dev"][:count],
        "target": sample(target["train"], config.target_sentences, config.data_seed),
        "dev": target["dev"][:count],
        "test": target["test"][:count],
    }
    splits = {}
    for name, chosen in sentences.items():
        length = config.train_length if name in ("source", "target") else config.eval_length
        splits[name] = Split(*encode(chosen, tokenizer, labels, length), device)
    checksums = corpus_checksums(config.dataset, tuple(corpora), config.data_dir)
    checksums |= encoder_sums
    checksums |= {f"split {name}": split.checksum() for name, split in splits.items()}
    checksums |= {f"count of {name}": str(value) for name, value in counts(sentences).items()}
    return Material(encoder, splits, labels, checksums)


def check_lengths(config: Config, encoder: XLMRobertaModel) -> None:
    """Raises UserError for sentences longer than the encoder takes."""
    longest = encoder.config.max_position_embeddings - 2
    for name in ("train_length", "eval_length"):
        if getattr(config, name) > longest:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} {getattr(config, name)} is more than the {longest} of the encoder"
            )


def _encoder(config: Config) -> tuple[PreTrainedTokenizerFast, XLMRobertaModel, dict[str, str]]:
    if config.encoder != SMALL:
        tokenizer = load_tokenizer(config.encoder)
        encoder = load_encoder(config.encoder, config.attention)
        return tokenizer, encoder, _published_checksums(config.encoder)
    languages: tuple[str, ...] = (config.source, config.target)
    if config.dataset in _PRETRAINED_TOGETHER:
        languages = DATASETS[config.dataset].languages
    settings = Pretraining(
        layers=config.small_layers,
        hidden_size=config.small_hidden,
        vocabulary=config.small_vocabulary,
        positions=max(config.train_length, config.eval_length),
        steps=config.pretraining_steps,
        seed=config.pretraining_seed,
    )
    texts = running_text(config.dataset, languages, config.data_dir)
    folder = pretrained_encoder(settings, config.dataset, texts)
    checksums = {f"encoder {name}": value for name, value in encoder_checksums(folder).items()}
    return load_tokenizer(folder), load_encoder(str(folder), config.attention), checksums


def _published_checksums(source: str) -> dict[str, str]:
    """SHA-256 of weights and tokenizer, by name; those of weights in one file."""
    folder = Path(source) if Path(source).is_dir() else hub.fetch(source, "tokenizer.json").parent
    names = ("model.safetensors", "tokenizer.json")
    return {f"encoder {n}": file_digest(folder / n) for n in names if (folder / n).is_file()}
