"""XLM-R at small size, with a tokenizer of its own, trained on the text of a data set.

The objective is masked language modelling as in XLM-R and RoBERTa (Liu et al., 2019,
arXiv:1907.11692): of 15 % of the subwords, 80 % are masked, 10 % are replaced by random ones and
10 % are kept, and all of these must be predicted. The result is a folder in the layout of the
transformers library.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from common.files import checked_files, locked, write_checksums
from common.settings import ROOT
from common.training import new_generator
from metaxl import local_attention, tokens
from metaxl.local_attention import start_with_local_attention
from metaxl.models import xlm_roberta_config
from metaxl.tokens import train_tokenizer
from metaxl.transformers_import import PreTrainedTokenizerFast, XLMRobertaForMaskedLM

CACHE = ROOT / "runs" / "metaxl" / "encoders"
BLOCK_LENGTH = 32
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
MASKED_PART = 0.15
# Part of an encoder's name, so that changed code does not use encoders of the old code.
_FILES = (local_attention.__file__, tokens.__file__, __file__)
_RECIPE = [Path(file).read_text("utf-8") for file in _FILES]


@dataclass(frozen=True)
class Pretraining:
    """What decides the encoder, beside the text."""

    layers: int
    hidden_size: int
    vocabulary: int
    positions: int  # length of the longest sentence it takes
    steps: int
    seed: int

    def architecture(self, vocabulary: int) -> dict[str, float]:
        """XLM-R's proportions: inner size 4 times the hidden one; heads of 32 units."""
        return {
            "vocab_size": vocabulary,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.hidden_size // 32,
            "intermediate_size": 4 * self.hidden_size,
            "max_position_embeddings": self.positions + 2,
            # Smaller layers start with larger weights.
            "initializer_range": 0.05,
        }


def pretrained_encoder(
    settings: Pretraining, name: str, texts: Sequence[str], cache: Path | None = None
) -> Path:
    """The folder of the encoder and its tokenizer; trained once, then kept in ``cache``.

    If several processes need the same encoder, one trains it and the others wait. Raises UserError
    if the files of a kept encoder have changed.
    """
    cache = cache or CACHE
    described = json.dumps([asdict(settings), list(texts), _RECIPE], ensure_ascii=False)
    folder = cache / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    with locked(cache):
        if not folder.exists():
            # What a killed process leaves here is removed when the folder is locked again.
            with tempfile.TemporaryDirectory(".tmp", ".", cache) as temporary:
                made = Path(temporary) / "encoder"
                made.mkdir()
                _train(settings, texts, made)
                write_checksums(made)
                made.replace(folder)
    encoder_checksums(folder)
    return folder


def encoder_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a kept encoder; UserError if they have changed."""
    return checked_files(folder, "delete the folder of the encoder, and run again")


def _train(settings: Pretraining, texts: Sequence[str], folder: Path) -> None:
    """Writes the tokenizer and the model to ``folder``; does not change torch's random states."""
    tokenizer = train_tokenizer(texts, settings.vocabulary, folder)
    blocks = text_blocks(texts, tokenizer)
    config = xlm_roberta_config(**settings.architecture(len(tokenizer)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # the CPU's alone
        model = XLMRobertaForMaskedLM._from_config(config, attn_implementation="sdpa")
        start_with_local_attention(model.roberta)
        _fit(model, blocks, tokenizer, settings)
    model.save_pretrained(folder)


def text_blocks(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All texts in order, each followed by </s>, cut into blocks (N, BLOCK_LENGTH) that begin with
    <s>; the last block is filled up with the beginning."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    stream = [i for ids in encoded for i in (*ids, tokenizer.eos_token_id)]
    width = BLOCK_LENGTH - 1
    count = -(-len(stream) // width)
    repeated = stream * -(-count * width // len(stream))
    body = torch.tensor(repeated[: count * width]).view(count, width)
    return torch.cat([torch.full((count, 1), tokenizer.bos_token_id), body], dim=1)


def masked(
    blocks: Tensor, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Subwords as the model sees them, and which (bool) it must predict; never special ones."""
    special = torch.isin(blocks, torch.tensor(tokenizer.all_special_ids))
    draw = torch.rand(blocks.shape, generator=generator)
    chosen = (draw < MASKED_PART) & ~special
    others = torch.randint(len(tokenizer), blocks.shape, generator=generator)
    seen = torch.where(chosen & (draw < 0.8 * MASKED_PART), tokenizer.mask_token_id, blocks)
    return torch.where(chosen & (draw >= 0.9 * MASKED_PART), others, seen), chosen


def _fit(
    model: XLMRobertaForMaskedLM,
    blocks: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    settings: Pretraining,
) -> None:
    """Adam with a linear rise over a tenth of the steps, then a linear fall; no dropout, since in
    few passes over the text nothing is learned by heart."""
    generator = new_generator(settings.seed, "masked language model")
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rise = max(1, settings.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / rise, (settings.steps - step) / settings.steps),
    )
    model.eval()
    bar = tqdm(range(settings.steps), desc="encoder: masked language model", dynamic_ncols=True)
    for _ in bar:
        index = torch.randint(len(blocks), (BATCH_SIZE,), generator=generator)
        seen, chosen = masked(blocks[index], tokenizer, generator)
        hidden = model.roberta(seen).last_hidden_state[chosen]
        loss = F.cross_entropy(model.lm_head(hidden), blocks[index][chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
