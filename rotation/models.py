"""LeNet, and rotation as a differentiable layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels."""


class LeNet(nn.Module):
    """conv 1-6 (5x5, padding 2), conv 6-16 (5x5), 2x2 max-pools, fully connected 400-120-84-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, 10) of normalised images (N, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] to mean 0 and standard deviation 1 over MNIST."""
    return (pixels - MEAN) / STD


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Images (N, C, H, W) turned counter-clockwise by ``angle`` (radians, scalar tensor).

    Bilinear sampling on an affine grid, differentiable in the angle; 0 outside the image.
    """
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # Row i maps output coordinates to input ones; image rows point down.
    matrix = torch.stack([torch.stack([cos, -sin, zero]), torch.stack([sin, cos, zero])])
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def rotation_layer(pixels: Tensor, angle: Tensor, turned: str) -> Tensor:
    """Pixels in [0, 1] to normalised images turned by ``angle``.

    turned: "normalised", 0 outside is mean grey; "pixels", 0 outside is black.
    """
    if turned == "normalised":
        return rotate(normalise(pixels), angle)
    return normalise(rotate(pixels, angle))
