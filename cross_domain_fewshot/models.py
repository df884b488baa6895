"""Backbones with feature-wise transformation layers, and the few-shot network made of them.

He et al. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385; ResNet-10 and
the convolutional backbones as in Chen et al. A Closer Look at Few-shot Classification. ICLR 2019,
arXiv:1904.04232. A transformation layer follows the last batch norm of every block and that of its
1x1 shortcut; in the convolutional backbones it follows every batch norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cross_domain_fewshot.feature_transform import TransformedBatchNorm2d
from cross_domain_fewshot.heads import MatchingHead, ProtoHead, RelationHead

RESNET_BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
CONV_BLOCKS = {"conv4": 4, "conv6": 6}
BACKBONES = (*CONV_BLOCKS, *RESNET_BLOCKS)


def _norm(channels: int, transformed: bool) -> nn.BatchNorm2d:
    return TransformedBatchNorm2d(channels) if transformed else nn.BatchNorm2d(channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; a 1x1 convolution as shortcut where channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int, transformed: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = _norm(outputs, transformed)
        self.shortcut = None
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs, transformed)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """Four stages of residual blocks, channels width * (1, 2, 4, 8), no final pooling.

    stem "imagenet": 7x7 convolution of stride 2 and 3x3 max-pool of stride 2, so that 224 px become
    maps of 7x7; "small": 3x3 convolution of stride 2, so that 32 px become maps of 2x2.
    """

    def __init__(self, name: str, width: int, stem: str, transformed: bool) -> None:
        super().__init__()
        size, padding = (7, 3) if stem == "imagenet" else (3, 1)
        self.conv = nn.Conv2d(3, width, size, 2, padding, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        blocks, inputs = [], width
        for stage, count in enumerate(RESNET_BLOCKS[name]):
            for index in range(count):
                outputs = width * 2**stage
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(ResidualBlock(inputs, outputs, stride, transformed))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps (N, 8 width, h, h) of images (N, 3, S, S)."""
        # Decoded photographs are channels last, which every layer would keep. In this format the
        # backward of a strided 1x1 convolution of fewer than 16 channels crashes on a CPU (torch
        # 2.13, oneDNN), and float32 is not faster.
        images = images.contiguous()
        return self.blocks(self.pool(F.relu(self.bn(self.conv(images)))))


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pool, ``width`` channels each.

    The first ``pooled`` blocks have a max-pool: 4 for heads on vectors (84 px become 5x5), 2 for
    RelationNet, whose pooled blocks do not pad (84 px become 19x19).
    """

    def __init__(self, name: str, width: int, pooled: int, transformed: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for index in range(CONV_BLOCKS[name]):
            padding = 0 if pooled == 2 and index < pooled else 1
            self.convs.append(nn.Conv2d(3 if index == 0 else width, width, 3, padding=padding))
            self.norms.append(_norm(width, transformed))

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps (N, width, h, h) of images (N, 3, S, S)."""
        x = images
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if index < self.pooled:
                x = F.max_pool2d(x, 2)
        return x


def build_backbone(
    name: str, head: str, width: int = 64, stem: str = "imagenet", transformed: bool = True
) -> nn.Module:
    """The backbone for ``head``, convolutions Kaiming-normal (fan out).

    transformed: with feature-wise transformation layers.
    """
    if name in RESNET_BLOCKS:
        backbone: nn.Module = ResNet(name, width, stem, transformed)
    else:
        backbone = ConvNet(name, width, 2 if head == "relationnet" else 4, transformed)
    _initialise(backbone)
    return backbone


class FewShotNetwork(nn.Module):
    """Backbone and metric head: the scores of an episode's queries.

    RelationNet compares feature maps, the other heads vectors: a ResNet's maps averaged over
    their pixels, a convolutional backbone's flattened.
    """

    def __init__(self, backbone: nn.Module, head: str, image_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.kind = "maps" if head == "relationnet" else "mean"
        if isinstance(backbone, ConvNet) and self.kind == "mean":
            self.kind = "flat"
        self.channels, side = map_shape(backbone, image_size)
        if head == "relationnet":
            self.head = RelationHead(self.channels, side)
            _initialise(self.head)
        else:
            self.head = {"matchingnet": MatchingHead, "protonet": ProtoHead}[head]()

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support (n_way, n_shot, 3, S, S), query (n_way, n_query, 3, S, S) ->
        scores (n_way * n_query, n_way), queries in the order of their classes.

        All images pass the backbone as one batch.
        """
        shots, queries = support.flatten(0, 1), query.flatten(0, 1)
        features = self.embed(torch.cat([shots, queries]))
        support_features = features[: len(shots)].unflatten(0, support.shape[:2])
        return self.head(support_features, features[len(shots) :])

    def embed(self, images: Tensor) -> Tensor:
        """The features the head compares, of images (N, 3, S, S)."""
        maps = self.backbone(images)
        if self.kind == "maps":
            return maps
        return maps.flatten(1) if self.kind == "flat" else maps.mean((2, 3))

    def pooled(self, images: Tensor) -> Tensor:
        """Mean over the pixels of the feature maps, (N, channels): for classifiers."""
        return self.backbone(images).mean((2, 3))


class AuxiliaryClassifier(nn.Sequential):
    """Classes of the base domain from pooled features: three fully connected layers, ReLU."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, num_classes),
        )


@torch.no_grad()
def map_shape(backbone: nn.Module, image_size: int) -> tuple[int, int]:
    """Channels and side of the backbone's feature maps; ValueError if images are too small."""
    training = backbone.training
    device = next(backbone.parameters()).device
    try:
        maps = backbone.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    except RuntimeError:
        raise ValueError(f"image_size {image_size} is too small for this backbone") from None
    backbone.train(training)
    return maps.shape[1], maps.shape[2]


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
