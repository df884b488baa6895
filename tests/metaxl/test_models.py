"""Transformation network and tagger: against their formulas and the transformers library."""

import math
import shutil

import pytest
import torch
from torch import nn
from transformers import BertConfig, XLMRobertaForMaskedLM, XLMRobertaModel

from common.errors import UserError
from metaxl.models import (
    Tagger,
    Transformation,
    TransformationNetwork,
    load_encoder,
    xlm_roberta_config,
)


def test_the_network_has_the_papers_number_of_parameters():
    network = Transformation(768, (12,), 384).networks["12"]
    assert sum(p.numel() for p in network.parameters()) == 591_361
    for layer in (network.fc1, network.fc2):
        assert not layer.bias.any()
        # Xavier: variance 2 / (inputs + outputs)
        expected = math.sqrt(2 / sum(layer.weight.shape))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.01)


def test_the_gate_is_the_sigmoid_of_the_last_unit():
    torch.manual_seed(0)
    network, hidden = TransformationNetwork(4, 3).double(), torch.randn(2, 5, 4).double()
    w1, b1, w2, b2 = (nn.init.normal_(p).detach() for p in network.parameters())
    output = torch.relu(hidden @ w1.T + b1) @ w2.T + b2
    expected = output[..., :4] / (1 + torch.exp(-output[..., 4:]))
    torch.testing.assert_close(network(hidden), expected)


def test_the_gradient_passes_the_skip_path_only():
    torch.manual_seed(0)
    transformation = Transformation(4, (1,), 3).double()
    hidden = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(6, 4, dtype=torch.float64)
    network = transformation.networks["1"]
    torch.testing.assert_close(transformation(1, hidden), hidden + network(hidden))
    (found,) = torch.autograd.grad(transformation(1, hidden), hidden, vector)
    assert torch.equal(found, vector)  # so exactly zero through the network
    (through,) = torch.autograd.grad(network(hidden), hidden, vector)
    assert through.abs().max() > 1e-3


def test_xlm_r_base_has_its_277_million_parameters():
    with torch.device("meta"):
        model = XLMRobertaModel(xlm_roberta_config(), add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == 277_453_056


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_encoder_in_parts_is_the_librarys(attention, small_encoder, sentences):
    torch.manual_seed(0)
    model = small_encoder(attention).double().eval()
    tagger, batch = Tagger(model, 3).double().eval(), sentences(4)
    real = batch.attention_mask.bool()
    expected = model(batch.input_ids, batch.attention_mask).last_hidden_state
    found = tagger.encoder(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(found[real], expected[real])
    scores = tagger(found)
    weight, bias = tagger.head.weight, tagger.head.bias
    torch.testing.assert_close(scores[real], expected[real] @ weight.T + bias)
    for depth in (0, 1, 2):
        lower = tagger.encoder(batch.input_ids, batch.attention_mask, stop=depth)
        upper = tagger.encoder(batch.input_ids, batch.attention_mask, hidden=lower, depth=depth)
        torch.testing.assert_close(upper, found)


@pytest.fixture
def published_folder(tmp_path, small_encoder):
    """A folder as XLM-R's: the whole language model, of which the tagger takes the encoder."""
    torch.manual_seed(3)
    model = XLMRobertaForMaskedLM(small_encoder().config)
    model.save_pretrained(tmp_path / "xlm-r")
    return tmp_path / "xlm-r", model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_folder_gives_its_weights(published_folder, attention):
    folder, model = published_folder
    loaded = load_encoder(str(folder), attention)
    assert loaded.config._attn_implementation == attention
    found, weights = loaded.state_dict(), model.roberta.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_what_is_not_xlm_r_is_refused_with_what_to_do(published_folder, tmp_path):
    folder, model = published_folder
    pickled, damaged, bert, incomplete = (tmp_path / n for n in ("pickled", "damaged", "b", "i"))
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    shutil.copytree(folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    BertConfig().save_pretrained(bert)
    state = {n: t for n, t in model.state_dict().items() if "layer.1.output" not in n}
    model.save_pretrained(incomplete, state_dict=state)
    for path, reason in (
        (tmp_path / "nowhere", "nowhere"),
        (bert, "is a bert model"),
        (pickled, "safetensors"),
        (damaged, "cannot be loaded"),
        (incomplete, "lacks weights such as encoder.layer.1.output"),
    ):
        with pytest.raises(UserError, match=rf"{reason}.*hf download") as error:
            load_encoder(str(path), "eager")
        assert "\n" not in str(error.value)
