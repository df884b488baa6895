"""ResNet with feature-wise transformations, and RelationNet on its feature maps.

He et al. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385; ResNet-10 as in
Chen et al. A Closer Look at Few-shot Classification. ICLR 2019, arXiv:1904.04232. Sung et al.
Learning to Compare: Relation Network for Few-Shot Learning. CVPR 2018, arXiv:1711.06025. Tseng,
Lee, Huang, Yang. Cross-Domain Few-Shot Classification via Learned Feature-Wise Transformation. ICLR
2020, arXiv:2001.08735.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Residual blocks of each stage."""
GAMMA_START, BETA_START = 0.3, 0.5
"""Where theta_gamma and theta_beta begin, and stay where they are fixed."""
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


def split_parameters(network: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The network's parameters by name: the model's, and the transformations' (lambda)."""
    named = dict(network.named_parameters())
    hyper = {name: p for name, p in named.items() if name.rsplit(".", 1)[-1] in _HYPER}
    return {name: p for name, p in named.items() if name not in hyper}, hyper


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
        for name in _HYPER:
            values = deviation(getattr(layer, name)).cpu()
            low, high = torch.quantile(values, torch.tensor([0.25, 0.75]).to(values)).tolist()
            for kind, value in (("mean", values.mean().item()), ("low", low), ("high", high)):
                curves.setdefault(f"{name.removeprefix('theta_')}_{kind}", []).append(value)
    return curves


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; a 1x1 convolution as shortcut where channels change.

    A transformation follows the last batch norm, and that of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, transformed: bool) -> None:
        super().__init__()
        last = TransformedBatchNorm2d if transformed else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = last(outputs)
        self.shortcut = None
        if inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, last(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """Four stages of residual blocks, channels width * (1, 2, 4, 8), no final pooling; convolutions
    Kaiming-normal (fan out).

    stem "imagenet": 7x7 convolution of stride 2 and 3x3 max-pool of stride 2, so that 224 px become
    maps of 7x7; "small": 3x3 convolution of stride 2, so that 32 px become maps of 2x2.
    transformed: with feature-wise transformations.
    """

    def __init__(
        self, name: str, width: int = 64, stem: str = "imagenet", transformed: bool = True
    ) -> None:
        super().__init__()
        size, padding = (7, 3) if stem == "imagenet" else (3, 1)
        self.conv = nn.Conv2d(3, width, size, 2, padding, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.channels = 8 * width
        blocks, inputs = [], width
        for stage, count in enumerate(BLOCKS[name]):
            outputs = width * 2**stage
            for _ in range(count):
                stride = 1 if inputs == outputs else 2
                blocks.append(ResidualBlock(inputs, outputs, stride, transformed))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps (N, 8 width, h, h) of images (N, 3, S, S), h = S / 32 or S / 16, up."""
        # Decoded photographs are channels last, which every layer would keep. In this format the
        # backward of a strided 1x1 convolution of fewer than 16 channels crashes on a CPU (torch
        # 2.13, oneDNN), and float32 is not faster.
        images = images.contiguous()
        return self.blocks(self.pool(F.relu(self.bn(self.conv(images)))))

    def side(self, image_size: int) -> int:
        """Side of the feature maps: each layer of stride 2 halves the side, rounding up."""
        return -(-image_size // (16 if isinstance(self.pool, nn.Identity) else 32))


class RelationHead(nn.Module):
    """Scores of pairs (class prototype, query) by a small network on their feature maps.

    Prototype: mean of the support maps. Two blocks of 3x3 convolution, batch norm, ReLU and 2x2
    max-pool on the 2C channels of a pair, then fully connected C side^2 -> 8 -> 1. Maps below
    10x10 are padded and 1x1 maps are not pooled, so any input size works. The batch norm always
    uses the statistics of the episode's pairs (none are kept), also in evaluation mode.

    The first convolution is linear in the pair, so it is applied to prototypes and queries
    separately, and the results are added: n_way + N convolutions of C channels instead of
    n_way * N of 2C, the same values up to rounding.
    """

    def __init__(self, channels: int, side: int, hidden: int = 8) -> None:
        super().__init__()
        self.padding = 1 if side < 10 else 0
        self.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=self.padding, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=self.padding, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, track_running_stats=False)
        self.bn2 = nn.BatchNorm2d(channels, track_running_stats=False)
        for _ in range(2):
            side = max(1, (side - 2 + 2 * self.padding) // 2)
        self.fc1 = nn.Linear(channels * side**2, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        _initialise(self)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support (n_way, n_shot, C, h, h), query (N, C, h, h) -> (N, n_way)."""
        prototypes = support.mean(1)
        left, right = self.conv1.weight.chunk(2, dim=1)
        of_prototypes = F.conv2d(prototypes, left, padding=self.padding)
        of_queries = F.conv2d(query, right, padding=self.padding)
        pairs = of_queries.unsqueeze(1) + of_prototypes.unsqueeze(0)
        maps = _pool(F.relu(self.bn1(pairs.flatten(0, 1))))
        maps = _pool(F.relu(self.bn2(self.conv2(maps))))
        scores = self.fc2(F.relu(self.fc1(maps.flatten(1))))
        return scores.view(len(query), len(prototypes))


def _pool(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 2) if maps.shape[-1] > 1 else maps


class RelationNet(nn.Module):
    """Backbone and relation head: the scores of an episode's queries."""

    def __init__(self, backbone: ResNet, image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = RelationHead(backbone.channels, backbone.side(image_size))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support (n_way, n_shot, 3, S, S), query (n_way, n_query, 3, S, S) ->
        scores (n_way * n_query, n_way), queries in the order of their classes.

        All images pass the backbone as one batch.
        """
        shots, queries = support.flatten(0, 1), query.flatten(0, 1)
        features = self.backbone(torch.cat([shots, queries]))
        support_features = features[: len(shots)].unflatten(0, support.shape[:2])
        return self.head(support_features, features[len(shots) :])


def auxiliary_classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Classes of the base domain from pooled features: three fully connected layers, ReLU."""
    hidden = [part for _ in range(2) for part in (nn.Linear(channels, channels), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(channels, num_classes))


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
