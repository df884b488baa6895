"""An initialisation for small XLM-R encoders in which attention looks at neighbouring subwords.

With XLM-R's own initialisation, a small encoder learns only the frequencies of subwords in a few
thousand steps. So positions start as sinusoids (Vaswani et al., 2017, arXiv:1706.03762), and
queries and keys as projections on their fast frequencies, in which a shift of position is a
rotation. Training changes all of them.
"""

import torch
from torch import Tensor

from metaxl.transformers_import import XLMRobertaModel

SHIFTS = (-1, 1, 0, 2, -2)
"""The subword, relative to its own, that a head attends to; all heads of all layers in turn."""
AMPLITUDE = 0.1


@torch.no_grad()
def start_with_local_attention(model: XLMRobertaModel) -> None:
    """Sets the position embeddings, and the queries and keys of all layers, of an XLM-R encoder.

    Position i has the entries sin(f_j i), cos(f_j i), f_j = 10000^(-2j/H), times AMPLITUDE. Keys
    are the first entries of the hidden state, as many as a head has; queries those of the hidden
    state turned by the head's shift s, so that scores begin with sum_j cos(f_j (i + s - i')).
    """
    hidden_size, heads = model.config.hidden_size, model.config.num_attention_heads
    frequencies = 10_000.0 ** (-torch.arange(0, hidden_size, 2) / hidden_size)
    embeddings = model.embeddings.position_embeddings.weight
    angles = torch.arange(len(embeddings)).unsqueeze(1) * frequencies
    embeddings[:, 0::2], embeddings[:, 1::2] = AMPLITUDE * angles.sin(), AMPLITUDE * angles.cos()
    first = torch.eye(hidden_size // heads, hidden_size)
    for number, layer in enumerate(model.encoder.layer):
        shifts = [SHIFTS[(number * heads + head) % len(SHIFTS)] for head in range(heads)]
        layer.get_parameter("attention.self.key.weight").copy_(first.repeat(heads, 1))
        layer.get_parameter("attention.self.query.weight").copy_(
            torch.cat([first @ shift_matrix(frequencies, s) for s in shifts])
        )


def shift_matrix(frequencies: Tensor, shift: int) -> Tensor:
    """The matrix (H, H) that takes the sinusoids of position i to those of i + shift."""
    angles = frequencies * shift
    blocks = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], dim=1)
    return torch.block_diag(*blocks.view(-1, 2, 2))
