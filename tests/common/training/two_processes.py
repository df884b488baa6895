"""What each of two processes of test_processes.py computes.

python -m tests.common.training.two_processes FILE
"""

import sys

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import AnchoredEvoGrad, EvoGrad
from common.training import processes

CASES = {"K = 2": EvoGrad(2), "K = 5": EvoGrad(5), "anchored, K = 3": AnchoredEvoGrad(3)}


class Problem:
    """Weights of classes, learned, on a network with batch norm; lambda also in the outer loss."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def inner_loss(self, params, hyper, batch):
        losses = F.cross_entropy(self.scores(params, batch[0]), batch[1], reduction="none")
        return (hyper["weights"].softmax(0)[batch[1]] * losses).sum()

    def outer_loss(self, params, hyper, batch):
        loss = F.cross_entropy(self.scores(params, batch[0]), batch[1])
        return loss + hyper["weights"].square().sum()

    def scores(self, params, images):
        buffers = {name: b.clone() for name, b in self.network.named_buffers()}
        return functional_call(self.network, (dict(params), buffers), (images,))


def estimate(case: str) -> dict:
    """What an estimator finds. Process 1 begins with other parameters."""
    torch.manual_seed(processes.rank())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                            nn.Dropout(), nn.Linear(288, 10))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    own = {"generator": generator}
    batches = ((torch.randn(7, 3, 8, 8, **own), torch.randint(10, (7,), **own)) for _ in range(2))
    hyper, params = {"weights": torch.randn(10)}, dict(network.named_parameters())
    estimator = processes.over_processes(CASES[case])
    found = estimator(Problem(network), params, hyper, *batches, generator=generator)
    return {"grads": found.grads, "outer_loss": found.outer_loss, **found.diagnostics}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.together(torch.device("cpu")):
        torch.save({case: estimate(case) for case in CASES}, f"{sys.argv[1]}.{processes.rank()}")
