"""Feature-wise transformation: noise on the scale and shift of every channel, learned in size.

Tseng, Lee, Huang, Yang. Cross-Domain Few-Shot Classification via Learned Feature-Wise
Transformation. ICLR 2020, arXiv:2001.08735.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAMMA_START, BETA_START = 0.3, 0.5
"""Where theta_gamma and theta_beta begin, and stay for method ft."""
_HYPER = ("theta_gamma", "theta_beta")


def deviation(theta: Tensor) -> Tensor:
    """softplus with beta 100: the standard deviation that a parameter stands for."""
    return F.softplus(theta, beta=100)


def channel_noise(theta: Tensor) -> Tensor:
    """n ~ N(0, 1) per channel, (C,), from the global generator of theta's device."""
    return torch.randn_like(theta)


class TransformedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm y = w * z + b (z: normalised input), followed in training mode by

        y -> (1 + n1 softplus(theta_gamma)) * y + n2 softplus(theta_beta),   n1, n2 ~ N(0, 1),

    one n1 and one n2 per channel and forward pass; in evaluation mode plain batch norm.

    Both are affine maps of z, so they are applied as one: weight s * w and bias s * b + t, with
    s = 1 + n1 softplus(theta_gamma), t = n2 softplus(theta_beta). So the transformation's cost does
    not grow with the images. theta_gamma, theta_beta: (C,); as hyperparameters they do not require
    gradients.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.theta_gamma = nn.Parameter(torch.full((channels,), GAMMA_START), requires_grad=False)
        self.theta_beta = nn.Parameter(torch.full((channels,), BETA_START), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        if not self.training:
            return super().forward(x)
        scale = 1 + channel_noise(self.theta_gamma) * deviation(self.theta_gamma)
        shift = channel_noise(self.theta_beta) * deviation(self.theta_beta)
        self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            scale * self.weight,
            scale * self.bias + shift,
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )


def is_hyper(name: str) -> bool:
    """Whether a parameter's name in a network is that of a transformation's theta."""
    return name.rsplit(".", 1)[-1] in _HYPER


def split_parameters(network: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The network's parameters by name: the model's, and the transformations' (lambda)."""
    named = dict(network.named_parameters())
    params = {name: p for name, p in named.items() if not is_hyper(name)}
    return params, {name: p for name, p in named.items() if is_hyper(name)}


def transforms(network: nn.Module) -> dict[str, TransformedBatchNorm2d]:
    """The layers with a transformation by name, in the order of the network."""
    modules = network.named_modules()
    return {name: m for name, m in modules if isinstance(m, TransformedBatchNorm2d)}


@torch.no_grad()
def deviation_curves(network: nn.Module) -> dict[str, list[float]]:
    """Standard deviations over the layers: for gamma and beta the mean over a layer's channels and
    its quartiles, as ``gamma_mean``, ``gamma_low``, ``gamma_high`` and so on."""
    curves: dict[str, list[float]] = {}
    for layer in transforms(network).values():
        for short, name in zip(("gamma", "beta"), _HYPER, strict=True):
            values = deviation(getattr(layer, name)).cpu()
            low, high = torch.quantile(values, torch.tensor([0.25, 0.75]).to(values)).tolist()
            found = {"mean": values.mean().item(), "low": low, "high": high}
            for kind, value in found.items():
                curves.setdefault(f"{short}_{kind}", []).append(value)
    return curves
