"""The classifier, ResNet-32, and the network that weights their samples.

He et al. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385 (section 4.2).
Shu et al. Meta-Weight-Net. NeurIPS 2019, arXiv:1902.07379 (VNet).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VNet(nn.Module):
    """A sample's weight in (0, 1) from its loss: 1-hidden-1, ReLU, sigmoid; 301 parameters at
    100 hidden units.

    log_loss: the net's input is log(loss + 1e-3) in place of the loss.
    """

    def __init__(self, hidden: int = 100, log_loss: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(1, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        self.log_loss = log_loss

    def forward(self, losses: Tensor) -> Tensor:
        """Weights (N,) of losses (N,)."""
        seen = torch.log(losses + 1e-3) if self.log_loss else losses
        return torch.sigmoid(self.fc2(F.relu(self.fc1(seen.unsqueeze(1))))).squeeze(1)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; where the size changes, the shortcut takes every second
    pixel and pads channels with zeros (option A: no parameters)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.more - half))
        return F.relu(y + x)


class ResNet(nn.Module):
    """ResNet for 32x32 images: 3 stages of (depth - 2) / 6 blocks, 16-32-64 channels times width.

    464,154 parameters at depth 32, width 1, 10 classes. Convolutions and the classifier start
    Kaiming-normal.
    """

    def __init__(self, depth: int = 32, width: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        blocks, channels = (depth - 2) // 6, 16 * width
        self.conv1, self.bn1 = conv3x3(3, channels), nn.BatchNorm2d(channels)
        self.stage1 = _stage(channels, channels, blocks, stride=1)
        self.stage2 = _stage(channels, 2 * channels, blocks, stride=2)
        self.stage3 = _stage(2 * channels, 4 * channels, blocks, stride=2)
        self.fc = nn.Linear(4 * channels, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes) of normalised images (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
