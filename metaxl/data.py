"""The sentences of a run: subwords and labels on the device; a batch is as long as its longest."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.files import file_digest
from metaxl import hub
from metaxl.config import SMALL, Config
from metaxl.corpora import DATASETS, corpus_checksums, load_corpus, running_text, sample
from metaxl.models import load_encoder
from metaxl.pretrain import Pretraining, encoder_checksums, pretrained_encoder
from metaxl.readers import counts, entity_types, label_list
from metaxl.tokens import encode, load_tokenizer
from metaxl.transformers_import import PreTrainedTokenizerFast, XLMRobertaModel


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

    def halves(self) -> tuple["Batch", "Batch"]:
        """The sentences for training, and the same number or one more for the meta loss."""
        middle = len(self) // 2
        ids, mask, labels = self.input_ids, self.attention_mask, self.labels
        return (
            Batch(ids[:middle], mask[:middle], labels[:middle]),
            Batch(ids[middle:], mask[middle:], labels[middle:]),
        )

    def detached(self) -> "Batch":
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

    def batch(self, index: Tensor) -> Batch:
        """The sentences ``index`` (n,), given on the CPU, as long as the longest of them."""
        length = int(self.lengths[index].max())
        index = index.to(self.device, non_blocking=True)
        input_ids, mask, labels = (tensor[index, :length] for tensor in self.tensors)
        return Batch(input_ids, mask, labels)

    def in_order_of_length(self, batch_size: int) -> Sequence[Tensor]:
        """Index tensors over all sentences, short ones together."""
        return self.lengths.argsort(stable=True).split(batch_size)

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
    config.check_encoder(encoder.config)
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
    checksums = corpus_checksums(config.dataset, tuple(corpora), config.data_dir) | encoder_sums
    checksums |= {f"split {name}": split.checksum() for name, split in splits.items()}
    checksums |= {f"count of {name}": str(value) for name, value in counts(sentences).items()}
    return Material(encoder, splits, labels, checksums)


def _encoder(config: Config) -> tuple[PreTrainedTokenizerFast, XLMRobertaModel, dict[str, str]]:
    source = config.encoder
    if source != SMALL:
        folder = Path(source) if Path(source).is_dir() else None
        tokenizer, encoder = load_tokenizer(source), load_encoder(source, config.attention)
        folder = folder or hub.fetch(source, "tokenizer.json").parent
        names = ("model.safetensors", "tokenizer.json")  # of weights in one file
        found = {n: file_digest(folder / n) for n in names if (folder / n).is_file()}
        return tokenizer, encoder, {f"encoder {name}": value for name, value in found.items()}
    languages = DATASETS[config.dataset].languages or (config.source, config.target)
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
