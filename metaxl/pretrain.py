"""XLM-R at small size, with a tokenizer of its own, trained on the text of a data set.

The objective is masked language modelling as in XLM-R and RoBERTa (Liu et al., 2019,
arXiv:1907.11692): of 15 % of the subwords, 80 % are masked, 10 % are replaced by random ones and
10 % are kept, and all of these must be predicted. The result is a folder in the layout of the
transformers library.

With XLM-R's own initialisation, a small encoder learns only the frequencies of subwords in a few
thousand steps. So positions start as sinusoids (Vaswani et al., 2017, arXiv:1706.03762), and
queries and keys as projections on their fast frequencies, in which a shift of position is a
rotation: attention looks at neighbouring subwords. Training changes all of them.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from common.files import checked_files, locked, write_checksums
from common.settings import ROOT
from common.training import new_generator
from metaxl import tokens
from metaxl.config import Config
from metaxl.models import xlm_roberta_config
from metaxl.tokens import train_tokenizer
from metaxl.transformers_import import (
    PreTrainedTokenizerFast,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

CACHE = ROOT / "runs" / "metaxl" / "encoders"
BLOCK_LENGTH = 32
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
MASKED_PART = 0.15
# Parts of an encoder's name, beside the text: changed code does not use encoders of the old code.
_SETTINGS = ("small_layers", "small_hidden", "small_vocabulary", "pretraining_steps",
             "pretraining_seed")  # fmt: skip
_RECIPE = [Path(file).read_text("utf-8") for file in (tokens.__file__, __file__)]
SHIFTS = (-1, 1, 0, 2, -2)
"""The subword, relative to its own, that a head attends to at first; all heads of all layers in
turn."""
AMPLITUDE = 0.1
"""Of the sinusoids of positions at the start."""


def pretrained_encoder(config: Config, texts: Sequence[str], cache: Path | None = None) -> Path:
    """The folder of the small encoder and its tokenizer; trained once, then kept in ``cache``.

    If several processes need the same encoder, one trains it and the others wait. Raises UserError
    if the files of a kept encoder have changed.
    """
    cache = cache or CACHE
    positions = max(config.train_length, config.eval_length)
    settings = [positions, *(getattr(config, name) for name in _SETTINGS)]
    described = json.dumps([settings, _RECIPE, list(texts)])
    folder = cache / f"{config.dataset}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    with locked(cache):
        if not folder.exists():
            # What a killed process leaves here is removed when the folder is locked again.
            with tempfile.TemporaryDirectory(".tmp", ".", cache) as temporary:
                made = Path(temporary) / "encoder"
                made.mkdir()
                _train(config, positions, texts, made)
                write_checksums(made)
                made.replace(folder)
    encoder_checksums(folder)
    return folder


def encoder_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a kept encoder; UserError if they have changed."""
    return checked_files(folder, "delete the folder of the encoder, and run again")


def _train(config: Config, positions: int, texts: Sequence[str], folder: Path) -> None:
    """Writes the tokenizer and the model to ``folder``; does not change torch's random states.

    XLM-R's proportions: inner size 4 times the hidden one; heads of 32 units.
    """
    tokenizer = train_tokenizer(texts, config.small_vocabulary, folder)
    blocks = text_blocks(texts, tokenizer)
    architecture = xlm_roberta_config(
        vocab_size=len(tokenizer),
        num_hidden_layers=config.small_layers,
        hidden_size=config.small_hidden,
        num_attention_heads=config.small_hidden // 32,
        intermediate_size=4 * config.small_hidden,
        max_position_embeddings=positions + 2,
        initializer_range=0.05,  # smaller layers start with larger weights
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.pretraining_seed)  # the CPU's alone
        model = XLMRobertaForMaskedLM._from_config(architecture, attn_implementation="sdpa")
        start_with_local_attention(model.roberta)
        _fit(model, blocks, tokenizer, config.pretraining_steps, config.pretraining_seed)
    model.save_pretrained(folder)


def text_blocks(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All texts in order, each followed by </s>, cut into blocks (N, BLOCK_LENGTH) that begin with
    <s>; the last block is filled up with the beginning."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    stream = torch.tensor([i for ids in encoded for i in (*ids, tokenizer.eos_token_id)])
    width = BLOCK_LENGTH - 1
    count = -(-len(stream) // width)
    body = stream[torch.arange(count * width) % len(stream)].view(count, width)
    return F.pad(body, (1, 0), value=tokenizer.bos_token_id)


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
    steps: int,
    seed: int,
) -> None:
    """Adam with a linear rise over a tenth of the steps, then a linear fall; no dropout, since in
    few passes over the text nothing is learned by heart."""
    generator = new_generator(seed, "masked language model")
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rise = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / steps)
    )
    model.eval()
    bar = tqdm(range(steps), desc="encoder: masked language model", dynamic_ncols=True)
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


@torch.no_grad()
def start_with_local_attention(model: XLMRobertaModel) -> None:
    """Sets the position embeddings, and the queries and keys of all layers, of an XLM-R encoder.

    Position i has the entries sin(f_j i), cos(f_j i), f_j = 10000^(-2j/H), times AMPLITUDE. Keys
    are the first entries of the hidden state, as many as a head has; queries those of the hidden
    state turned by the head's shift s, so that scores begin with sum_j cos(f_j (i + s - i')).
    """
    hidden_size, heads = model.config.hidden_size, model.config.num_attention_heads
    frequencies = 10_000.0 ** (-torch.arange(0, hidden_size, 2) / hidden_size)
    embeddings = model.embeddings.position_embeddings.weight
    angles = torch.arange(len(embeddings)).unsqueeze(1) * frequencies
    embeddings[:, 0::2], embeddings[:, 1::2] = AMPLITUDE * angles.sin(), AMPLITUDE * angles.cos()
    first = torch.eye(hidden_size // heads, hidden_size)
    for number, layer in enumerate(model.encoder.layer):
        shifts = [SHIFTS[(number * heads + head) % len(SHIFTS)] for head in range(heads)]
        layer.get_parameter("attention.self.key.weight").copy_(first.repeat(heads, 1))
        layer.get_parameter("attention.self.query.weight").copy_(
            torch.cat([first @ shift_matrix(frequencies, s) for s in shifts])
        )


def shift_matrix(frequencies: Tensor, shift: int) -> Tensor:
    """The matrix (H, H) that takes the sinusoids of position i to those of i + shift."""
    angles = frequencies * shift
    blocks = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], dim=1)
    return torch.block_diag(*blocks.view(-1, 2, 2))
