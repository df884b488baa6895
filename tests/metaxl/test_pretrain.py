"""The small encoder: its objective, and the cache that runs share."""

from dataclasses import replace

import pytest
import torch
from transformers import XLMRobertaForMaskedLM

from metaxl import pretrain
from metaxl.local_attention import shift_matrix, start_with_local_attention
from metaxl.models import xlm_roberta_config
from metaxl.pretrain import BLOCK_LENGTH, Pretraining, masked, pretrained_encoder, text_blocks
from metaxl.tokens import train_tokenizer

TEXTS = [f"the {a} {b} of {c}" for a in ("red", "old", "long") for b in ("house", "river", "road")
         for c in ("Lima", "Quito", "Asunción", "Wellington")]  # fmt: skip
SETTINGS = Pretraining(layers=1, hidden_size=32, vocabulary=80, positions=64, steps=3, seed=1)


def test_text_blocks_hold_all_texts_in_order(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 80, tmp_path)
    blocks = text_blocks(TEXTS, tokenizer)
    assert blocks.shape[1] == BLOCK_LENGTH
    assert (blocks[:, 0] == tokenizer.bos_token_id).all()
    stream = blocks[:, 1:].flatten().tolist()
    position = 0
    for text in TEXTS:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert stream[position : position + len(ids)] == ids
        position += len(ids)
    rest = stream[position:]
    assert len(rest) < BLOCK_LENGTH
    assert rest == stream[: len(rest)]


def test_of_15_percent_most_are_masked_some_replaced_some_left(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 80, tmp_path)
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
    torch.manual_seed(7)
    before = torch.get_rng_state()
    folder = pretrained_encoder(SETTINGS, "some", TEXTS, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    weights = (folder / "model.safetensors").read_bytes()
    again = pretrained_encoder(SETTINGS, "some", TEXTS, tmp_path / "elsewhere")
    assert (again / "model.safetensors").read_bytes() == weights
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_train", None)  # would fail
        assert pretrained_encoder(SETTINGS, "some", TEXTS, tmp_path) == folder
    for settings, texts in ((replace(SETTINGS, seed=2), TEXTS), (SETTINGS, TEXTS[1:])):
        assert pretrained_encoder(settings, "some", texts, tmp_path) != folder
