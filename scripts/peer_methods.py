"""The compared work and methods: this project's, and those of Betty, TorchOpt and higher, each as
its documentation uses it."""

import copy
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import higher
import torch
import torchopt
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from common.estimators import ESTIMATORS
from common.hypergrad import HyperOptimizer
from common.hypergrad.compare import Rounds, cast, in_turns
from common.hypergrad.memory import peak_memory
from metaweightnet.models import ResNet, VNet
from metaweightnet.train import normalised
from scripts.peers import HERE, Found

LIBRARIES = {n: importlib.metadata.version(n) for n in ("betty-ml", "torchopt", "higher")}
ETA = 0.1
"""The inner step size."""
META_LR = 1e-3
Claim = Literal["one step", "at theta", "implicit"]
"""Which exact number a method computes. With v = dL_V/dtheta, M = d2L_T/(dtheta dlambda),
H = d2L_T/dtheta2: -eta v(theta - eta dL_T/dtheta) M; -v(theta) M; -v H^-1 M."""


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
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
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

    def train(model: Callable, hyper: Callable, data: dict[str, Tensor]) -> Tensor:
        theta, la = model(), hyper()
        curvature = theta @ data["A"] @ theta + theta.square() @ data["D"] @ la
        return 0.5 * curvature - theta @ data["B"] @ la

    def valid(model: Callable, data: dict[str, Tensor]) -> Tensor:
        return 0.5 * (model() - data["t"]).square().sum()

    return Work(Vector(theta), Vector(la), train, valid, data, network=False)


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

    def train(model: Callable, hyper: Callable, data: dict[str, Tensor]) -> Tensor:
        losses = F.cross_entropy(model(data["train"]), data["labels"], reduction="none")
        return (normalised(hyper(data["seen"])) * losses).sum()

    def valid(model: Callable, data: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(data["valid"]), data["labels"])

    return Work(model, hyper, train, valid, data, network=True)


def exact_numbers(work: Work) -> dict[str, Tensor]:
    """The exact hypergradients, in float64, flat, by what a method may claim to compute; by hand
    for the quadratic, by double backward for the network (no "implicit")."""
    if not work.network:
        data, modules = work.data, (work.model, work.hyper)
        at, la = (module.get_parameter("values").detach() for module in modules)
        hessian = data["A"] + torch.diag(data["D"] @ la)
        mixed = at[:, None] * data["D"] - data["B"]
        after = at - ETA * (hessian @ at - data["B"] @ la)
        return {
            "one step": -ETA * (after - data["t"]) @ mixed,
            "at theta": -(at - data["t"]) @ mixed,
            "implicit": -torch.linalg.solve(hessian, at - data["t"]) @ mixed,
        }
    model, hyper = copy.deepcopy(work.model).double(), copy.deepcopy(work.hyper).double()
    data = cast(work.data, torch.float64)
    theta = dict(model.named_parameters())
    loss = work.train_loss(model, hyper, data)
    inner = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    stepped = {
        n: (p - ETA * g).detach().requires_grad_()
        for (n, p), g in zip(theta.items(), inner, strict=True)
    }
    exact = {}
    for name, scale, point in (("one step", ETA, stepped), ("at theta", 1.0, theta)):
        outer = work.valid_loss(lambda x, at=point: functional_call(model, at, (x,)), data)
        v = torch.autograd.grad(outer, list(point.values()))
        found = torch.autograd.grad(inner, list(hyper.parameters()), v, retain_graph=True)
        exact[name] = -scale * torch.cat([gradient.reshape(-1) for gradient in found])
    return exact


class Step:
    """A method at work: one that gives a hypergradient, while its user steps hyperparameters and
    model.

    hypergradient: by hyperparameter, in the order of ``work.hyper.parameters()``. scale: of the
    exact number that the method claims to compute.
    """

    scale = 1.0

    def __init__(self, work: Work, find: Callable[[Work], Sequence[Tensor]] | None = None) -> None:
        self.work, self.find = work, find
        self.optimizer = torch.optim.Adam(work.hyper.parameters(), lr=META_LR)

    def hypergradient(self) -> Sequence[Tensor]:
        return self.find(self.work)

    def training_step(self) -> None:
        """Hypergradient, step of the hyperparameters, step of the model."""
        found = self.hypergradient()
        for parameter, gradient in zip(self.work.hyper.parameters(), found, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.work.base_step()


class Ours(Step):
    """An estimator of this project through HyperOptimizer."""

    def __init__(self, work: Work, name: str, options: dict[str, Any]) -> None:
        super().__init__(work)
        given = {n: v(work) if callable(v) else v for n, v in options.items()}
        estimator = ESTIMATORS[name].build(**given)
        self.scale = getattr(estimator, "effective_inner_lr", 1.0)
        self.meta = HyperOptimizer(
            work.model,
            work.hyper,
            lambda model, hyper, _: work.train_loss(model, hyper, work.data),
            lambda model, hyper, _: work.valid_loss(model, work.data),
            estimator,
            self.optimizer,
            torch.Generator().manual_seed(1),
        )

    def hypergradient(self) -> Sequence[Tensor]:
        return list(self.meta.backward(None, None).grads.values())

    def training_step(self) -> None:
        self.meta.step(None, None)
        self.work.base_step()


def by_higher(work: Work) -> Sequence[Tensor]:
    """One step of SGD inside ``higher.innerloop_ctx``."""
    optimizer = torch.optim.SGD(work.model.parameters(), lr=ETA)
    with higher.innerloop_ctx(work.model, optimizer) as (model, inner):
        inner.step(work.train_loss(model, work.hyper, work.data))
        loss = work.valid_loss(model, work.data)
        return torch.autograd.grad(loss, list(work.hyper.parameters()))


def by_meta_sgd(work: Work) -> Sequence[Tensor]:
    """One step of ``torchopt.MetaSGD``, then the model's own parameters put back."""
    inner = torchopt.MetaSGD(work.model, lr=ETA)
    start = torchopt.extract_state_dict(work.model, by="reference")
    inner.step(work.train_loss(work.model, work.hyper, work.data))
    loss = work.valid_loss(work.model, work.data)
    found = torch.autograd.grad(loss, list(work.hyper.parameters()))
    torchopt.recover_state_dict(work.model, start)
    return found


def by_custom_root(work: Work) -> Sequence[Tensor]:
    """``torchopt.diff.implicit.custom_root`` with its conjugate gradients, at the optimum."""

    def train(theta: Tensor, la: Tensor) -> Tensor:
        return work.train_loss(lambda: theta, lambda: la, work.data)

    solve = torchopt.linear_solve.solve_cg(maxiter=40, atol=1e-12, rtol=1e-12)

    @torchopt.diff.implicit.custom_root(grad(train), argnums=1, solve=solve)
    def optimum(theta: Tensor, la: Tensor) -> Tensor:
        return theta

    la = work.hyper.get_parameter("values")
    theta = optimum(work.model.get_parameter("values").detach().requires_grad_(), la)
    loss = work.valid_loss(lambda: theta, work.data)
    return torch.autograd.grad(loss, [la])


class Recorder(torch.optim.Adam):
    """Keeps the gradients it is given, since Betty clears them."""

    def step(self, closure: Any = None) -> Any:
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(closure)


class Betty(Step):
    """Betty's engine, one inner step for each outer one; it makes the model's step itself."""

    def __init__(self, work: Work, kind: str, options: dict[str, Any]) -> None:
        logging.disable(logging.INFO)
        super().__init__(work)
        given = {n: v(work) if callable(v) else v for n, v in options.items()}

        class Problem(ImplicitProblem):
            def get_batch(self) -> None:
                return None

        class Inner(Problem):
            def training_step(self, batch: None) -> Tensor:
                return work.train_loss(self, self.upper, work.data)

        class Upper(Problem):
            def training_step(self, batch: None) -> Tensor:
                return work.valid_loss(self.inner, work.data)

        self.recorder = Recorder(work.hyper.parameters(), lr=META_LR)
        config = Config(type=kind, **given)
        inner = Inner("inner", config, work.model, work.optimizer, train_data_loader=[None])
        upper = Upper("upper", Config(), work.hyper, self.recorder, train_data_loader=[None])
        links = {"u2l": {upper: [inner]}, "l2u": {inner: [upper]}}
        self.engine = Engine([upper, inner], EngineConfig(train_iters=1), links)
        self.engine.train()

    def hypergradient(self) -> Sequence[Tensor]:
        for group in self.work.optimizer.param_groups:
            group["lr"] = 0.0  # the model's step comes before; without it theta is known
        self.engine.train_step()
        return self.recorder.seen

    def training_step(self) -> None:
        self.engine.train_step()


@dataclass(frozen=True)
class Method:
    """A method of a library."""

    library: str
    name: str
    claims: Claim
    make: Callable[[Work], Step]

    def compared(self, work: Work, exact: Tensor) -> Found:
        """Relative error and cosine of its hypergradient, and how far it displaced the
        parameters."""
        before = [p.detach().clone() for p in work.model.parameters()]
        step = self.make(work)
        exact = exact * step.scale
        grads = torch.cat([g.reshape(-1) for g in step.hypergradient()]).double()
        moved = [(p.detach() - old).norm()
                 for p, old in zip(work.model.parameters(), before, strict=True)]  # fmt: skip
        return Found(
            library=self.library,
            name=self.name,
            claims=self.claims,
            error=((grads - exact).norm() / exact.norm()).item(),
            cosine=F.cosine_similarity(grads, exact, dim=0).item(),
            moved=torch.stack(moved).norm().item(),
        )


def _iterations(work: Work) -> int:
    """Of conjugate gradients: as many as the quadratic has parameters; few for the network."""
    return 5 if work.network else 20


def _terms(work: Work) -> int:
    """Of the Neumann series: until it has converged; few for the network."""
    return 5 if work.network else 2000


def _damping(work: Work) -> float:
    """At the untrained network so much that no iteration meets negative curvature, which ImplicitCG
    would refuse; an iteration costs the same."""
    return 1e6 if work.network else 0.0


# What a method claims to compute, and its options; a function is asked about the work.
_OURS: dict[str, tuple[Claim, dict[str, Any]]] = {
    "evograd": ("at theta", {}),
    "differences": ("at theta", {}),
    "anchored": ("at theta", {}),
    "along_gradient": ("at theta", {"radius": 1e-2}),
    "finite_difference": ("one step", {"inner_lr": ETA, "radius": 0.1}),
    "t1t2": ("one step", {"inner_lr": ETA}),
    "t1t2_forward": ("one step", {"inner_lr": ETA}),
    "t1t2_mixed": ("one step", {"inner_lr": ETA}),
    "implicit_cg": (
        "implicit", {"iterations": _iterations, "damping": _damping, "tolerance": 0.0}
    ),
    "neumann": ("implicit", {"inner_lr": 0.05, "terms": _terms}),
}  # fmt: skip
_BETTY: dict[str, tuple[Claim, dict[str, Any]]] = {
    "darts": ("at theta", {}),
    "cg": ("implicit", {"cg_iterations": _iterations}),
    "neumann": ("implicit", {"neumann_iterations": _terms, "neumann_alpha": 0.05}),
}
METHODS = (
    *(
        Method(HERE, name, claims, partial(Ours, name=name, options=options))
        for name, (claims, options) in _OURS.items()
    ),
    *(
        Method("Betty", name, claims, partial(Betty, kind=name, options=options))
        for name, (claims, options) in _BETTY.items()
    ),
    Method("TorchOpt", "MetaSGD", "one step", partial(Step, find=by_meta_sgd)),
    Method("TorchOpt", "custom_root, CG", "implicit", partial(Step, find=by_custom_root)),
    Method("higher", "innerloop_ctx", "one step", partial(Step, find=by_higher)),
)


def quadratic_rows() -> list[Found]:
    """Errors against closed forms, in float64."""
    works = [quadratic(method.claims == "implicit") for method in METHODS]
    return [m.compared(w, exact_numbers(w)[m.claims]) for m, w in zip(METHODS, works, strict=True)]


def network_rows(rounds: int, batch_size: int) -> dict[str, Any]:
    """Of the record: errors, seconds and bytes at ResNet-32, and those of the plain step."""
    work = sample_weights(batch_size)
    methods = [m for m in METHODS if m.name != "custom_root, CG"]  # of the quadratic only
    exact, rows = exact_numbers(work), []
    for method in methods:
        if method.claims in exact:  # an untrained network is at no optimum
            rows.append(method.compared(copy.deepcopy(work), exact[method.claims]))
        else:
            rows.append(Found(library=method.library, name=method.name, claims=method.claims))
    steps = [method.make(sample_weights(batch_size)).training_step for method in methods]
    steps = [work.plain_step, *steps]
    for step in steps:
        step()  # optimisers make their states in the first step
    device = torch.device("cpu")
    peaks = [peak_memory(step, device)[0] for step in steps]
    plain, *seconds = in_turns(steps, device, Rounds(0.0, rounds, rounds))
    costs = zip(rows, seconds, peaks[1:], strict=True)
    measured = [f.model_copy(update={"seconds": its, "bytes": peak}) for f, its, peak in costs]
    return {"plain_seconds": plain, "plain_bytes": peaks[0], "network": measured}
