"""Metric heads: from the features of an episode to the scores of its queries.

Every head maps support features (n_way, n_shot, ...) and query features (N, ...) to scores
(N, n_way), of which the episode's loss is the softmax cross-entropy.

Sung et al. Learning to Compare: Relation Network for Few-Shot Learning. CVPR 2018,
arXiv:1711.06025. Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016,
arXiv:1606.04080. Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017,
arXiv:1703.05175.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class ProtoHead(nn.Module):
    """Minus the squared Euclidean distance of the query to the mean of each class's support."""

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support (n_way, n_shot, D), query (N, D) -> (N, n_way)."""
        return -(query.unsqueeze(1) - support.mean(1)).square().sum(-1)


class MatchingHead(nn.Module):
    """Log-probabilities by attention over the support samples, without context embeddings.

    a = softmax over all support samples of sharpness * cos(query, sample),
    p(class) = sum of a over the samples of the class
    """

    def __init__(self, sharpness: float = 100.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support (n_way, n_shot, D), query (N, D) -> (N, n_way)."""
        n_way, n_shot = support.shape[:2]
        cosines = F.normalize(query, dim=-1) @ F.normalize(support.flatten(0, 1), dim=-1).T
        attention = torch.log_softmax(self.sharpness * cosines, dim=1)
        return attention.view(-1, n_way, n_shot).logsumexp(2)


HEADS = ("relationnet", "matchingnet", "protonet")
