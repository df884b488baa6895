"""Bilevel problems that the estimators are held against, in float64."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import EvoGrad, EvoGradForward, EvoGradGraph
from common.training.cost import TensorMemory

EVOGRADS = {"graph": EvoGradGraph, "backward": EvoGrad, "forward": EvoGradForward}
"""The ways to EvoGrad's exact number."""


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(found, expected) -> float:
    """Euclidean error relative to the expected tensor, or tensors by name."""
    if isinstance(expected, Tensor):
        found, expected = {"": found}, {"": expected}
    error = sum((found[n] - expected[n]).square().sum() for n in expected)
    return (error / sum(grad.square().sum() for grad in expected.values())).sqrt().item()


def central_differences(function, hyper, radius: float = 1e-5):
    """d function / d hyper by name, entry by entry; function: of tensors by name, to a float."""
    found = {n: torch.zeros_like(h) for n, h in hyper.items()}
    for name, value in hyper.items():
        for index in range(value.numel()):
            sides = []
            for sign in (1, -1):
                shifted = value.clone()
                shifted.view(-1)[index] += sign * radius
                sides.append(function(hyper | {name: shifted}))
            found[name].view(-1)[index] = (sides[0] - sides[1]) / (2 * radius)
    return found


def inner_batch_for(estimator, batch):
    """What the estimator takes as inner_batch: a batch for each step where it makes several."""
    steps = getattr(estimator, "steps", None)
    return batch if steps is None else [batch] * steps


SMALL = {"num_candidates": 3, "inner_lr": 0.1, "steps": 2, "momentum": 0.9, "layers": 1}
SMALL |= {"iterations": 2, "damping": 5.0, "terms": 2}


def small(entry, **settings):
    """An estimator of the registry with settings that suit the problems here."""
    return entry.build(**{**SMALL, **settings})


class Quadratic:
    """A bilevel problem whose hypergradients have closed forms.

        L_T = 1/2 th' A th - th' (b + B la) + 1/2 sum_j la_j th' C_j th
        L_V = 1/2 |th - t|^2 + d' la + 1/2 e |la|^2

    theta is split over two tensors of different shape, to test the bookkeeping. An inner batch, if
    there is one, is a vector added to b. convex: la > 0, so that L_T is strongly convex.
    """

    def __init__(
        self,
        size: int = 6,
        hypers: int = 3,
        seed: int = 0,
        direct: bool = True,
        convex: bool = False,
    ) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        root, stretch = normal(size, size), normal(hypers, size, size)
        self.A = root @ root.T / size + torch.eye(size, dtype=torch.float64)
        self.C = stretch @ stretch.transpose(1, 2) / size
        self.B, self.b, self.t = normal(size, hypers), normal(size), normal(size)
        self.d = normal(hypers) * direct
        self.e = 0.7 * direct
        theta = normal(size)
        self.params = {"left": theta[:2].clone(), "right": theta[2:].reshape(2, -1).clone()}
        la = normal(hypers)
        self.hyper = {"la": la.abs() if convex else la}

    def batches(self, count: int) -> list[Tensor]:
        """Inner batches, no two alike."""
        g = torch.Generator().manual_seed(count)
        return list(torch.randn(count, len(self.b), generator=g, dtype=torch.float64))

    def run(self, estimator, inner_batch=None, generator=None, params=None, **given):
        params = self.params if params is None else params
        return estimator(self, params, self.hyper, inner_batch, None, generator, **given)

    @staticmethod
    def vector(params) -> Tensor:
        return torch.cat([params["left"], params["right"].reshape(-1)])

    def inner_loss(self, params, hyper, batch=None) -> Tensor:
        theta, la = self.vector(params), hyper["la"]
        curvature = torch.einsum("j,jab,a,b->", la, self.C, theta, theta)
        slope = self.b + self.B @ la + (0.0 if batch is None else batch)
        return 0.5 * theta @ self.A @ theta - theta @ slope + 0.5 * curvature

    def outer_loss(self, params, hyper, batch=None) -> Tensor:
        theta, la = self.vector(params), hyper["la"]
        loss = 0.5 * (theta - self.t).square().sum()
        return loss + (self.d @ la + 0.5 * self.e * la @ la if self.e else 0.0)

    def hessian(self) -> Tensor:
        """d2 L_T / dtheta2."""
        return self.A + torch.einsum("j,jab->ab", self.hyper["la"], self.C)

    def inner_grad(self, theta: Tensor) -> Tensor:
        return self.hessian() @ theta - self.b - self.B @ self.hyper["la"]

    def optimum(self) -> dict[str, Tensor]:
        """The parameters at which the inner gradient is zero."""
        theta = torch.linalg.solve(self.hessian(), self.b + self.B @ self.hyper["la"])
        return {"left": theta[:2], "right": theta[2:].reshape(2, -1)}

    def mixed(self, theta: Tensor) -> Tensor:
        """d2 L_T / dtheta dla, (size, hypers)."""
        return torch.einsum("jab,b->aj", self.C, theta) - self.B

    def direct(self) -> Tensor:
        return self.d + self.e * self.hyper["la"]

    def one_step_hypergradient(self, eta: float, at_theta: bool = False) -> Tensor:
        """-eta v . mixed + direct term, v = dL_V/dtheta at theta' (or at theta itself)."""
        theta = self.vector(self.params)
        point = theta if at_theta else theta - eta * self.inner_grad(theta)
        return -eta * (point - self.t) @ self.mixed(theta) + self.direct()

    def unrolled_hypergradient(self, eta: float, momentum: float, batches: list[Tensor]) -> Tensor:
        """Of SGD with momentum, a step per batch, by the recursion of theta and dtheta/dlambda."""
        theta = self.vector(self.params)
        move = torch.zeros_like(theta)
        d_theta = torch.zeros_like(self.B)
        d_move = torch.zeros_like(self.B)
        for batch in batches:
            d_move = momentum * d_move + self.hessian() @ d_theta + self.mixed(theta)
            move = momentum * move + self.inner_grad(theta) - batch
            theta, d_theta = theta - eta * move, d_theta - eta * d_move
        return (theta - self.t) @ d_theta + self.direct()

    def implicit_hypergradient(self, params, damping: float = 0.0) -> Tensor:
        """-v (H + damping I)^-1 mixed + direct term at ``params``, by a dense solve."""
        theta = self.vector(params)
        matrix = self.hessian() + damping * torch.eye(len(theta), dtype=torch.float64)
        return -torch.linalg.solve(matrix, theta - self.t) @ self.mixed(theta) + self.direct()


class Network:
    """A small image classifier with batch norm and dropout; hyperparameters wherever they occur.

    where: "inside", scales of channels before a batch norm; "loss", weights of the samples through
    an MLP on their losses (as Meta-Weight-Net); "direct", a weight decay that also enters the
    outer loss. smooth: SiLU and average pooling instead of ReLU and max pooling (no kinks).
    """

    def __init__(self, where: str, smooth: bool = True, dropout: float = 0.3, width: int = 6):
        torch.manual_seed(0)
        act = nn.SiLU if smooth else nn.ReLU
        pool = nn.AvgPool2d if smooth else nn.MaxPool2d
        self.where = where
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            act(),
            pool(2),
            nn.Conv2d(width, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            act(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * 16, 5),
        ).double()
        self.net.train()
        self.params = dict(self.net.named_parameters())
        self.hyper = {
            "inside": lambda: {"scale": 1 + 0.1 * torch.randn(3, dtype=torch.float64)},
            "loss": lambda: {
                "weight": torch.randn(4, 1, dtype=torch.float64),
                "bias": torch.randn(4, dtype=torch.float64),
                "out": torch.randn(1, 4, dtype=torch.float64),
            },
            "direct": lambda: {"log_decay": torch.tensor(-2.0, dtype=torch.float64)},
        }[where]()
        self.inner_batch = self.batch(12)
        self.outer_batch = self.batch(10)

    @staticmethod
    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 3, 8, 8, dtype=torch.float64), torch.randint(5, (size,))

    def logits(self, params, images: Tensor) -> Tensor:
        buffers = {n: b.clone() for n, b in self.net.named_buffers()}
        return functional_call(self.net, (dict(params), buffers), (images,))

    def inner_loss(self, params, hyper, batch) -> Tensor:
        images, labels = batch
        if self.where == "inside":
            images = images * hyper["scale"].view(1, 3, 1, 1)
        losses = F.cross_entropy(self.logits(params, images), labels, reduction="none")
        if self.where == "loss":
            hidden = torch.tanh(F.linear(losses.detach()[:, None], hyper["weight"], hyper["bias"]))
            weights = torch.sigmoid(F.linear(hidden, hyper["out"]))[:, 0]
            return (weights / weights.sum() * losses).sum()
        if self.where == "direct":
            return losses.mean() + self.decay(params, hyper)
        return losses.mean()

    def outer_loss(self, params, hyper, batch) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.logits(params, images), labels)
        return loss + 0.1 * self.decay(params, hyper) if self.where == "direct" else loss

    @staticmethod
    def decay(params, hyper) -> Tensor:
        return hyper["log_decay"].exp() * sum(p.square().sum() for p in params.values())

    def arguments(self):
        return self, self.params, self.hyper, self.inner_batch, self.outer_batch

    def run(self, estimator, generator=None, **given):
        return estimator(*self.arguments(), generator, **given)


class PartOf(Network):
    """A network's problem, without dropout, as a function of a few parameters, the rest fixed."""

    def __init__(self, where: str, names: list[str]) -> None:
        super().__init__(where, dropout=0.0)
        self.fixed = {n: p.detach() for n, p in self.params.items() if n not in names}
        self.params = {n: self.params[n].detach() for n in names}

    def inner_loss(self, params, hyper, batch) -> Tensor:
        return super().inner_loss({**params, **self.fixed}, hyper, batch)

    def outer_loss(self, params, hyper, batch) -> Tensor:
        return super().outer_loss({**params, **self.fixed}, hyper, batch)


class Wide:
    """A network whose activations dwarf its parameters; loss weights as hyperparameters."""

    def __init__(self, depth: int = 4, images: int = 32) -> None:
        torch.manual_seed(0)
        block = [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            *(layer for _ in range(depth) for layer in copy.deepcopy(block)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )
        self.params = dict(self.net.named_parameters())
        self.hyper = {"logits": torch.zeros(images)}
        self.batch = (torch.randn(images, 3, 32, 32), torch.randint(10, (images,)))

    def losses(self, params, batch):
        buffers = {n: b.clone() for n, b in self.net.named_buffers()}
        logits = functional_call(self.net, (dict(params), buffers), (batch[0],))
        return F.cross_entropy(logits, batch[1], reduction="none")

    def inner_loss(self, params, hyper, batch):
        return torch.softmax(hyper["logits"], 0) @ self.losses(params, batch)

    def outer_loss(self, params, hyper, batch):
        return self.losses(params, batch).mean()

    def arguments(self, estimator):
        inner_batch = inner_batch_for(estimator, self.batch)
        return self, self.params, self.hyper, inner_batch, self.batch

    def peak(self, estimator) -> int:
        with TensorMemory() as memory:
            estimator(*self.arguments(estimator))
        return memory.peak

    def saved(self, estimator) -> int:
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            estimator(*self.arguments(estimator))
        return total
