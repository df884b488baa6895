"""The sentences of a run: subwords and labels on the device; a batch is as long as its longest."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.files import file_digest
from metaxl import hub
from metaxl.config import SMALL, Config
from metaxl.corpora import DATASETS, load_corpus, running_text, sample
from metaxl.models import load_encoder
from metaxl.pretrain import encoder_checksums, pretrained_encoder
from metaxl.readers import checksum, counts, entity_types, label_list
from metaxl.tokens import encode, load_tokenizer
from metaxl.transformers_import import XLMRobertaModel


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
    """Sentences of one part of a corpus on the device: subwords, mask and labels, each (N, L).

    lengths: subwords of each, on the CPU, so that a batch is cut to its longest without waiting
    for the device.
    """

    def __init__(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, device: torch.device
    ) -> None:
        self.lengths = attention_mask.sum(1).cpu()
        self.tensors = [t.to(device) for t in (input_ids, attention_mask, labels)]

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor) -> Batch:
        """The sentences ``index`` (n,), given on the CPU, as long as the longest of them."""
        length = int(self.lengths[index].max())
        index = index.to(self.tensors[0].device, non_blocking=True)
        input_ids, mask, labels = (tensor[index, :length] for tensor in self.tensors)
        return Batch(input_ids, mask, labels)

    def checksum(self) -> str:
        """SHA-256 over subwords and labels."""
        content = hashlib.sha256()
        for tensor in (self.tensors[0], self.tensors[2]):
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()


class Material(NamedTuple):
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
    name, languages = config.dataset, (config.source, config.target)
    corpora = {lang: load_corpus(name, lang, config.data_dir) for lang in languages}
    source, target = corpora.values()
    everything = (s for corpus in corpora.values() for split in corpus.values() for s in split)
    types = DATASETS[name].types or entity_types(everything)
    labels = label_list((*types, "MISC") if name == "wikiann" else types)
    place: str | Path = config.encoder
    if place == SMALL:
        text = running_text(name, DATASETS[name].languages or languages, config.data_dir)
        place = pretrained_encoder(config, text)
    tokenizer, encoder = load_tokenizer(place), load_encoder(str(place), config.attention)
    config.check_encoder(encoder.config)
    count = config.eval_sentences or None
    sentences = {
        "source": sample(source["train"], config.source_sentences, config.data_seed),
        "source_dev": source["dev"][:count],
        "target": sample(target["train"], config.target_sentences, config.data_seed),
        "dev": target["dev"][:count],
        "test": target["test"][:count],
    }
    lengths = dict.fromkeys(("source", "target"), config.train_length)
    splits = {}
    for split, chosen in sentences.items():
        encoded = encode(chosen, tokenizer, labels, lengths.get(split, config.eval_length))
        splits[split] = Split(*encoded, device)
    checksums = {
        f"{name} {language} {split}": checksum(own)
        for language, corpus in corpora.items()
        for split, own in corpus.items()
    }
    checksums |= {f"encoder {file}": value for file, value in _files(place).items()}
    checksums |= {f"split {split}": own.checksum() for split, own in splits.items()}
    checksums |= {f"count of {what}": str(value) for what, value in counts(sentences).items()}
    return Material(encoder, splits, labels, checksums)


def _files(encoder: str | Path) -> dict[str, str]:
    """SHA-256 of the encoder's files; of a published one, of weights in one file and tokenizer."""
    if isinstance(encoder, Path):
        return encoder_checksums(encoder)
    folder = Path(encoder)
    if not folder.is_dir():
        folder = hub.fetch(encoder, "tokenizer.json").parent
    names = ("model.safetensors", "tokenizer.json")
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
