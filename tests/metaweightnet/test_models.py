"""Sizes and shapes of the networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.reporting import published
from metaweightnet.models import ResNet, VNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_networks_have_the_papers_numbers_of_parameters():
    figure = published("metaweightnet")["scaling_figure_digitised"]
    with torch.device("meta"):
        for width, expected in zip(figure["width"], figure["parameters_cifar10"], strict=True):
            assert count(ResNet(32, width)) == expected
        assert count(VNet(100)) == 301


def test_the_shortcut_pads_with_zero_channels():
    block = ResNet(8).stage2[0]
    for bn in (block.bn1, block.bn2):
        nn.init.zeros_(bn.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_convolutions_and_classifier_start_kaiming_normal():
    torch.manual_seed(0)
    for module in ResNet(8, 4).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 5_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize("log_loss", [False, True])
def test_vnet_is_the_formula(log_loss):
    vnet, losses = VNet(5, log_loss), torch.rand(4)
    seen = torch.log(losses + 1e-3) if log_loss else losses
    hidden = F.relu(seen[:, None] * vnet.fc1.weight.T + vnet.fc1.bias)
    expected = torch.sigmoid(hidden @ vnet.fc2.weight.T + vnet.fc2.bias)[:, 0]
    torch.testing.assert_close(vnet(losses), expected)
