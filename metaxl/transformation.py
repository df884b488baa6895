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
    """One transformation network f_l for each of a set of layers l:

        h_l -> h_l + f_l(stop_gradient(h_l))

    A source sentence passes the encoder once for each layer of the set, transformed there only;
    the losses of these passes are averaged with the weights softmax(mixing). One mixing parameter
    per layer, 0 at the start; for a single layer its weight is 1 whatever the parameter is.

    detach_input: stop_gradient as above; False lets the gradient pass f_l too.
    """

    def __init__(
        self, hidden_size: int, layers: Sequence[int], bottleneck: int, detach_input: bool = True
    ) -> None:
        super().__init__()
        self.layers, self.detach_input = tuple(sorted(layers)), detach_input
        self.networks = nn.ModuleDict(
            {str(layer): TransformationNetwork(hidden_size, bottleneck) for layer in self.layers}
        )
        self.mixing = nn.Parameter(torch.zeros(len(self.layers)))

    def forward(self, layer: int, hidden: Tensor) -> Tensor:
        """The output (N, L, H) of ``layer``, one of the set, transformed."""
        seen = hidden.detach() if self.detach_input else hidden
        return hidden + self.networks[str(layer)](seen)

    @property
    def heaviest(self) -> int:
        """The layer of greatest weight (the lowest of equals): the one to evaluate with."""
        return self.layers[int(self.mixing.argmax())]
