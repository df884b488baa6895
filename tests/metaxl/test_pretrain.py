"""The small encoder: its objective, and the cache that runs share."""

import pytest
import torch
from transformers import XLMRobertaForMaskedLM

from metaxl import pretrain
from metaxl.models import xlm_roberta_config
from metaxl.pretrain import (
    BLOCK_LENGTH,
    masked,
    pretrained_encoder,
    shift_matrix,
    start_with_local_attention,
    text_blocks,
)
from metaxl.tokens import train_tokenizer
from tests.experiments import small_settings

TEXTS = [f"the {a} {b} of {c}" for a in ("red", "old", "long") for b in ("house", "river", "road")
         for c in ("Lima", "Quito", "Asunción", "Wellington")]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, 80, tmp_path_factory.mktemp("tokenizer"))


def test_text_blocks_hold_all_texts_in_order(tokenizer):
    blocks = text_blocks(TEXTS, tokenizer)
    assert blocks.shape[1] == BLOCK_LENGTH
    assert (blocks[:, 0] == tokenizer.bos_token_id).all()
    expected = [
        i for text in TEXTS for i in (*tokenizer.encode(text)[1:-1], tokenizer.eos_token_id)
    ]
    stream = blocks[:, 1:].flatten().tolist()
    assert 0 <= len(stream) - len(expected) < BLOCK_LENGTH
    assert stream == (expected * 2)[: len(stream)]


def test_of_15_percent_most_are_masked_some_replaced_some_left(tokenizer):
    blocks = torch.randint(5, len(tokenizer), (2000, 64))
    blocks[:, 0] = tokenizer.bos_token_id
    seen, chosen = masked(blocks, tokenizer, torch.Generator().manual_seed(0))
    assert not chosen[:, 0].any()
    assert torch.equal(seen[~chosen], blocks[~chosen])
    assert chosen[:, 1:].float().mean().item() == pytest.approx(0.15, abs=0.005)
    is_mask = seen == tokenizer.mask_token_id
    assert is_mask[chosen].float().mean().item() == pytest.approx(0.8, abs=0.01)
    other = (seen != blocks) & ~is_mask
    # Of the tenth that is replaced, one in as many as there are subwords stays by chance.
    expected = 0.1 * (1 - 1 / len(tokenizer))
    assert other[chosen].float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("shift", [-2, 0, 1])
def test_a_shift_of_position_is_a_rotation_of_sinusoids(shift):
    frequencies = torch.tensor([1.0, 0.3], dtype=torch.float64)

    def position(i):
        return torch.stack([(frequencies * i).sin(), (frequencies * i).cos()], dim=1).flatten()

    torch.testing.assert_close(shift_matrix(frequencies, shift) @ position(7), position(7 + shift))


def test_heads_attend_to_neighbours_at_the_start():
    torch.manual_seed(0)
    config = xlm_roberta_config(
        vocab_size=80, hidden_size=96, num_attention_heads=3, num_hidden_layers=2,
        intermediate_size=96, max_position_embeddings=34,
    )  # fmt: skip
    model = XLMRobertaForMaskedLM._from_config(config, attn_implementation="eager").eval()
    start_with_local_attention(model.roberta)
    with torch.no_grad():
        output = model.roberta(torch.full((1, 32), 7), output_attentions=True)
    # The same subword everywhere: only positions tell. The ends have no neighbours.
    heads = [weights for layer in output.attentions for weights in layer[0]]
    for shift, weights in zip((-1, 1, 0, 2, -2, -1), heads, strict=True):
        middle = torch.arange(4, 28)
        assert torch.equal(weights.argmax(1)[middle], middle + shift)


def test_an_encoder_is_trained_once_and_leaves_torchs_random_state(tmp_path, monkeypatch):
    config = small_settings("metaxl", small_vocabulary=80)
    before = torch.get_rng_state()
    folder = pretrained_encoder(config, TEXTS, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    weights = (folder / "model.safetensors").read_bytes()
    again = pretrained_encoder(config, TEXTS, tmp_path / "elsewhere")
    assert (again / "model.safetensors").read_bytes() == weights
    other = config.changed({"pretraining_seed": 2})
    monkeypatch.setattr(pretrain, "_train", lambda *_: None)
    assert pretrained_encoder(config, TEXTS, tmp_path) == folder
    for changed, texts in ((other, TEXTS), (config, TEXTS[1:])):
        assert pretrained_encoder(changed, texts, tmp_path) != folder
