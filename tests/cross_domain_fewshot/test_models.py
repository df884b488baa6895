"""Transformation layers, ResNet and RelationNet against their formulas and published counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cross_domain_fewshot.models import (
    RelationHead,
    RelationNet,
    ResNet,
    TransformedBatchNorm2d,
    deviation_curves,
    split_parameters,
    transforms,
)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = TransformedBatchNorm2d(6).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.theta_gamma.copy_(torch.tensor([0.3, 0.1, 0.0, -0.02, 1.0, 0.01]))
    return layer


def test_the_transformation_is_its_formula_on_top_of_batch_norm(layer):
    x = torch.randn(5, 6, 4, 4).double()
    state = torch.get_rng_state()
    found = layer(x)
    torch.set_rng_state(state)
    n1, n2 = (torch.randn(6, dtype=torch.float64) for _ in range(2))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)

    def channel(values):
        return values.detach().view(1, 6, 1, 1)

    y = (x - channel(mean)) / (channel(variance) + layer.eps).sqrt()
    y = channel(layer.weight) * y + channel(layer.bias)
    # softplus with beta 100, written out
    gamma, beta = (
        torch.log1p(torch.exp(100 * theta)) / 100 for theta in (layer.theta_gamma, layer.theta_beta)
    )
    expected = (1 + channel(n1 * gamma)) * y + channel(n2 * beta)
    torch.testing.assert_close(found, expected)
    assert (found - y).abs().max() > 0.1
    torch.testing.assert_close(layer.running_mean, 0.1 * mean)
    assert layer.num_batches_tracked == 1


def test_the_transformation_is_off_in_evaluation(layer):
    x = torch.randn(5, 6, 4, 4).double()
    layer.running_mean.normal_()
    layer.eval()
    expected = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    state = torch.get_rng_state()
    assert torch.equal(layer(x), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("name", "count"), [("resnet10", 3712), ("resnet34", 9344)])
def test_number_of_transformation_parameters_is_the_published_one(name, count):
    with torch.device("meta"):
        network, plain = ResNet(name), ResNet(name, transformed=False)
    params, hyper = split_parameters(network)
    assert sum(p.numel() for p in hyper.values()) == count
    assert not any(p.requires_grad for p in hyper.values())
    assert list(params) == [n for n, _ in plain.named_parameters()]
    assert not split_parameters(plain)[1]


def test_resnet10_has_the_known_number_of_parameters():
    """4.9 million without classifier: stem 9,408 + 128; a block's convolutions 9 io + 9 oo, two
    norms of 2 o each, and where channels change a shortcut of io + 2 o."""
    total, inputs = 9408 + 128, 64
    for o in (64, 128, 256, 512):
        total += 9 * inputs * o + 9 * o * o + 4 * o + (inputs != o) * (inputs * o + 2 * o)
        inputs = o
    with torch.device("meta"):
        backbone = ResNet("resnet10", transformed=False)
        assert backbone.eval()(torch.zeros(1, 3, 224, 224)).shape[1:] == (512, 7, 7)
    assert sum(p.numel() for p in backbone.parameters()) == total


@pytest.mark.parametrize(("size", "stem"), [(32, "small"), (45, "imagenet"), (84, "imagenet")])
def test_scores_at_any_input_size(size, stem):
    network = RelationNet(ResNet("resnet10", 4, stem), size)
    scores = network(torch.randn(3, 2, 3, size, size), torch.randn(3, 4, 3, size, size))
    assert scores.shape == (12, 3)


@pytest.mark.parametrize("side", [1, 7, 19])
def test_the_relation_head_equals_the_network_on_concatenated_pairs(side):
    torch.manual_seed(0)
    head = RelationHead(4, side).double()
    support, query = torch.randn(3, 2, 4, side, side).double(), torch.randn(5, 4, side, side)
    query = query.double()
    pairs = [torch.cat([s.mean(0), q]) for q in query for s in support]
    x, padding = torch.stack(pairs), 1 if side < 10 else 0
    for conv, bn in ((head.conv1, head.bn1), (head.conv2, head.bn2)):
        x = F.conv2d(x, conv.weight, padding=padding)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + bn.eps).sqrt()
        x = x.clamp_min(0)
        x = F.max_pool2d(x, 2) if x.shape[-1] > 1 else x
    x = (x.flatten(1) @ head.fc1.weight.T + head.fc1.bias).clamp_min(0)
    expected = (x @ head.fc2.weight.T + head.fc2.bias).view(5, 3)
    torch.testing.assert_close(head(support, query), expected)
    # Nothing is remembered: evaluation mode gives the same.
    torch.testing.assert_close(head.eval()(support, query), expected)
    assert not list(head.buffers())


def test_deviations_by_layer_are_means_and_quartiles():
    backbone = ResNet("resnet10", 4)
    layers = list(transforms(backbone).values())
    assert len(layers) == 4 + 3
    with torch.no_grad():
        layers[2].theta_gamma.copy_(torch.linspace(1, 2, len(layers[2].theta_gamma)))
    curves = deviation_curves(backbone)
    assert curves["gamma_mean"] == pytest.approx([0.3, 0.3, 1.5, 0.3, 0.3, 0.3, 0.3])
    assert curves["gamma_low"][2] == pytest.approx(1.25)
    assert curves["gamma_high"][2] == pytest.approx(1.75)
    assert curves["beta_mean"] == pytest.approx([0.5] * 7)
