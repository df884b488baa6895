"""The work on which libraries for hypergradients are compared, and the exact numbers of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metaweightnet.models import ResNet, VNet
from metaweightnet.train import normalised

ETA = 0.1
"""The inner step size."""


@dataclass
class Work:
    """A model, hyperparameters as a module, and both losses on fixed batches.

    train_loss(model, hyper, data), valid_loss(model, data): what they call may be the modules or a
    library's stand-ins for them.
    """

    model: nn.Module
    hyper: nn.Module
    train_loss: Callable[[Callable, Callable, dict[str, Tensor]], Tensor]
    valid_loss: Callable[[Callable, dict[str, Tensor]], Tensor]
    data: dict[str, Tensor]
    network: bool

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def base_step(self) -> None:
        """The model's own training step with the present hyperparameters."""
        self._descend(self.train_loss(self.model, self.hyper, self.data))

    def plain_step(self) -> None:
        """A training step without hyperparameters: the unit of all costs."""
        self._descend(self.valid_loss(self.model, self.data))

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Vector(nn.Module):
    """A vector of parameters, which calling gives."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self) -> Tensor:
        return self.values


def quadratic(at_optimum: bool, size: int = 20, hypers: int = 4) -> Work:
    """A bilevel problem in closed form, float64.

    L_T = 1/2 th' A th - th' B la + 1/2 (th^2)' D la,  L_V = 1/2 |th - t|^2
    """
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root = normal(size, size)
    data = {
        "A": root @ root.T / size + torch.eye(size, dtype=torch.float64),
        "B": normal(size, hypers),
        "D": normal(size, hypers).abs(),
        "t": normal(size),
    }
    la, theta = normal(hypers).abs(), normal(size)
    if at_optimum:
        theta = torch.linalg.solve(data["A"] + torch.diag(data["D"] @ la), data["B"] @ la)
    return Work(Vector(theta), Vector(la), quadratic_train, quadratic_valid, data, network=False)


def quadratic_train(model: Callable, hyper: Callable, data: dict[str, Tensor]) -> Tensor:
    theta, la = model(), hyper()
    curvature = theta @ data["A"] @ theta + theta.square() @ data["D"] @ la
    return 0.5 * curvature - theta @ data["B"] @ la


def quadratic_valid(model: Callable, data: dict[str, Tensor]) -> Tensor:
    return 0.5 * (model() - data["t"]).square().sum()


def sample_weights(batch_size: int) -> Work:
    """ResNet-32 on random images whose samples a small network weights, by their losses.

    The losses that the weights are computed from are given with the batch, so that all methods
    estimate the same number.
    """
    torch.manual_seed(0)
    model, hyper = ResNet(), VNet()
    data = {
        "train": torch.randn(batch_size, 3, 32, 32),
        "valid": torch.randn(batch_size, 3, 32, 32),
        "labels": torch.arange(batch_size) % 10,
    }
    with torch.no_grad():
        scores = copy.deepcopy(model)(data["train"])
    data["seen"] = F.cross_entropy(scores, data["labels"], reduction="none")
    return Work(model, hyper, weighted_train, weighted_valid, data, network=True)


def weighted_train(model: Callable, hyper: Callable, data: dict[str, Tensor]) -> Tensor:
    losses = F.cross_entropy(model(data["train"]), data["labels"], reduction="none")
    return (normalised(hyper(data["seen"])) * losses).sum()


def weighted_valid(model: Callable, data: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(data["valid"]), data["labels"])


def exact_numbers(work: Work) -> dict[str, Tensor]:
    """The exact hypergradients, in float64, flat, by what a method may claim to compute.

    With v = dL_V/dtheta, M = d2L_T/(dtheta dlambda), H = d2L_T/dtheta2:
    "one step": -eta v(theta - eta dL_T/dtheta) M; "at theta": -v(theta) M; "implicit":
    -v H^-1 M. By hand for the quadratic, by double backward for the network (no "implicit").
    """
    return _of_network(work) if work.network else _of_quadratic(work)


def _of_quadratic(work: Work) -> dict[str, Tensor]:
    data, modules = work.data, (work.model, work.hyper)
    theta, la = (module.get_parameter("values").detach() for module in modules)
    hessian = data["A"] + torch.diag(data["D"] @ la)
    mixed = theta[:, None] * data["D"] - data["B"]
    after = theta - ETA * (hessian @ theta - data["B"] @ la)
    return {
        "one step": -ETA * (after - data["t"]) @ mixed,
        "at theta": -(theta - data["t"]) @ mixed,
        "implicit": -torch.linalg.solve(hessian, theta - data["t"]) @ mixed,
    }


def _of_network(work: Work) -> dict[str, Tensor]:
    model, hyper = copy.deepcopy(work.model).double(), copy.deepcopy(work.hyper).double()
    data = {n: t.double() if t.is_floating_point() else t for n, t in work.data.items()}
    theta = dict(model.named_parameters())
    loss = work.train_loss(model, hyper, data)
    inner = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    stepped = {
        n: (p - ETA * g).detach().requires_grad_()
        for (n, p), g in zip(theta.items(), inner, strict=True)
    }
    exact = {}
    for name, scale, at in (("one step", ETA, stepped), ("at theta", 1.0, theta)):
        outer = work.valid_loss(lambda x, at=at: functional_call(model, at, (x,)), data)
        v = torch.autograd.grad(outer, list(at.values()))
        found = torch.autograd.grad(inner, list(hyper.parameters()), v, retain_graph=True)
        exact[name] = -scale * torch.cat([grad.reshape(-1) for grad in found])
    return exact
