"""Sizes and shapes of the networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.reporting import published
from metaweightnet.models import ResNet, VNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_resnet32_has_the_papers_number_of_parameters(width):
    figure = published("metaweightnet")["scaling_figure_digitised"]
    expected = dict(zip(figure["width"], figure["parameters_cifar10"], strict=True))[width]
    assert count(ResNet(32, width)) == expected


def test_vnet_has_301_parameters():
    assert count(VNet(100)) == 301
    assert count(VNet(7)) == 22


def test_the_shortcut_pads_with_zero_channels():
    network = ResNet(8)
    block = network.stage2[0]
    for bn in (block.bn1, block.bn2):
        nn.init.zeros_(bn.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_convolutions_and_classifier_start_kaiming_normal():
    torch.manual_seed(0)
    network = ResNet(32, 4)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 5_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_vnet_is_the_formula():
    vnet, losses = VNet(5), torch.rand(4)
    hidden = F.relu(losses[:, None] * vnet.fc1.weight.T + vnet.fc1.bias)
    expected = torch.sigmoid(hidden @ vnet.fc2.weight.T + vnet.fc2.bias)[:, 0]
    torch.testing.assert_close(vnet(losses), expected)


def test_the_weight_net_may_see_the_logarithm_of_the_loss():
    torch.manual_seed(0)
    plain, log = VNet(5), VNet(5, log_loss=True)
    log.load_state_dict(plain.state_dict())
    losses = torch.tensor([0.0, 0.5, 3.0])
    torch.testing.assert_close(log(losses), plain(torch.log(losses + 1e-3)))
