"""Small XLM-R encoders and batches of random sentences."""

import pytest
import torch

from metaxl.data import Batch
from metaxl.models import random_encoder
from tests.experiments import one_thread  # noqa: F401


@pytest.fixture
def small_encoder():
    """Makes XLM-R of two layers of 8 units, with random weights."""

    def make(attention: str = "eager", **changes):
        architecture = {
            "vocab_size": 20,
            "num_hidden_layers": 2,
            "hidden_size": 8,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 16,
            # Large enough for tests to see every parameter's effect.
            "initializer_range": 0.5,
        }
        return random_encoder(attention, **{**architecture, **changes})

    return make


@pytest.fixture
def sentences():
    """Makes a batch of random sentences of 3 to ``length`` subwords with labels below 3."""

    def make(count: int, length: int = 6) -> Batch:
        input_ids = torch.randint(5, 20, (count, length))
        mask = torch.ones(count, length, dtype=torch.int64)
        labels = torch.randint(3, (count, length))
        labels[:, 0] = -100  # <s>
        for row in range(1, count):
            end = 3 + row % (length - 2)
            input_ids[row, end:], mask[row, end:], labels[row, end:] = 1, 0, -100
        return Batch(input_ids, mask, labels)

    return make
