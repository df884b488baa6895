"""The representation transformation network: the hyperparameters.

Xia, Zheng, Mukherjee, Shokouhi, Neubig, Awadallah. MetaXL: Meta Representation Transformation for
Low-resource Cross-lingual Learning. NAACL 2021, arXiv:2104.07908.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformationNetwork(nn.Module):
    """The change of one layer's hidden state h, gated: with [u, s] = W2 relu(W1 h + b1) + b2,

        f(h) = sigmoid(s) u

    where s is one unit and u has the size of h. Xavier-normal weights, zero biases; 591,361
    parameters at 768-384-769.
    """

    def __init__(self, hidden_size: int, bottleneck: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, bottleneck)
        self.fc2 = nn.Linear(bottleneck, hidden_size + 1)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """f(h), (..., H), of hidden states (..., H)."""
        output = self.fc2(F.relu(self.fc1(hidden)))
        return torch.sigmoid(output[..., -1:]) * output[..., :-1]


class Transformation(nn.Module):
    """Transformation networks f_l on a set of layers, mixed by softmax weights:

        h_l -> h_l + softmax(a)_l f_l(h_l)   for the layers l of the set; other layers pass through

    One mixing parameter a_l per layer, 0 at the start; for a single layer its weight is 1 whatever
    a is. detach: the first h_l is a constant to the gradient.
    """

    def __init__(
        self, hidden_size: int, layers: Sequence[int], bottleneck: int, detach: bool
    ) -> None:
        super().__init__()
        self.layers, self.detach = tuple(sorted(layers)), detach
        self.networks = nn.ModuleDict(
            {str(layer): TransformationNetwork(hidden_size, bottleneck) for layer in self.layers}
        )
        self.mixing = nn.Parameter(torch.zeros(len(self.layers)))

    def forward(self, layer: int, hidden: Tensor) -> Tensor:
        """The output (N, L, H) of layer ``layer``, transformed if the layer is one of the set."""
        if layer not in self.layers:
            return hidden
        weight = torch.softmax(self.mixing, dim=0)[self.layers.index(layer)]
        kept = hidden.detach() if self.detach else hidden
        return kept + weight * self.networks[str(layer)](hidden)
