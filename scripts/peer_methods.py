"""The compared methods: this project's, and those of Betty, TorchOpt and higher, each as its
documentation uses it."""

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import higher
import torch
import torchopt
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from torch import Tensor
from torch.func import grad

from common.estimators import ESTIMATORS
from common.hypergrad import HyperOptimizer
from scripts.peer_problems import ETA, Work
from scripts.peer_tables import HERE

LIBRARIES = {n: importlib.metadata.version(n) for n in ("betty-ml", "torchopt", "higher")}
META_LR = 1e-3
Claim = Literal["one step", "at theta", "implicit"]
"""Which exact number a method computes."""


class Step:
    """A method at work: one that gives a hypergradient, while its user steps hyperparameters and
    model.

    scale: of the exact number that the method claims to compute.
    """

    scale = 1.0

    def __init__(self, work: Work) -> None:
        self.work = work
        self.optimizer = torch.optim.Adam(work.hyper.parameters(), lr=META_LR)

    def hypergradient(self) -> Sequence[Tensor]:
        """By hyperparameter, in the order of ``work.hyper.parameters()``."""
        raise NotImplementedError

    def training_step(self) -> None:
        """Hypergradient, step of the hyperparameters, step of the model."""
        for parameter, found in zip(
            self.work.hyper.parameters(), self.hypergradient(), strict=True
        ):
            parameter.grad = found
        self.optimizer.step()
        self.work.base_step()


@dataclass(frozen=True)
class Method:
    """A method of a library."""

    library: str
    name: str
    claims: Claim
    make: Callable[[Work], Step]
    quadratic_only: bool = False


class Ours(Step):
    """An estimator of this project through HyperOptimizer."""

    def __init__(self, name: str, work: Work) -> None:
        super().__init__(work)
        given = {n: v(work) if callable(v) else v for n, v in OURS[name][1].items()}
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


class HigherStep(Step):
    """One step of SGD inside ``higher.innerloop_ctx``."""

    def hypergradient(self) -> Sequence[Tensor]:
        work = self.work
        optimizer = torch.optim.SGD(work.model.parameters(), lr=ETA)
        with higher.innerloop_ctx(work.model, optimizer) as (model, inner):
            inner.step(work.train_loss(model, work.hyper, work.data))
            loss = work.valid_loss(model, work.data)
            return torch.autograd.grad(loss, list(work.hyper.parameters()))


class MetaSGD(Step):
    """One step of ``torchopt.MetaSGD``, then the model's own parameters put back."""

    def hypergradient(self) -> Sequence[Tensor]:
        work = self.work
        inner = torchopt.MetaSGD(work.model, lr=ETA)
        start = torchopt.extract_state_dict(work.model, by="reference")
        inner.step(work.train_loss(work.model, work.hyper, work.data))
        loss = work.valid_loss(work.model, work.data)
        found = torch.autograd.grad(loss, list(work.hyper.parameters()))
        torchopt.recover_state_dict(work.model, start)
        return found


class CustomRoot(Step):
    """``torchopt.diff.implicit.custom_root`` with its conjugate gradients, at the optimum."""

    def hypergradient(self) -> Sequence[Tensor]:
        work = self.work

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

    def __init__(self, kind: str, more: Callable[[Work], dict[str, Any]], work: Work) -> None:
        logging.disable(logging.INFO)
        super().__init__(work)

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
        config = Config(type=kind, **more(work))
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


def iterations(work: Work) -> int:
    """Of conjugate gradients: as many as the quadratic has parameters; few for the network."""
    return 5 if work.network else 20


def terms(work: Work) -> int:
    """Of the Neumann series: until it has converged; few for the network."""
    return 5 if work.network else 2000


def damping(work: Work) -> float:
    """At the untrained network so much that no iteration meets negative curvature, which ImplicitCG
    would refuse; an iteration costs the same."""
    return 1e6 if work.network else 0.0


# Estimator -> what it claims to compute, and its options; a function is asked about the work.
OURS: dict[str, tuple[Claim, dict[str, Any]]] = {
    "evograd": ("at theta", {}),
    "differences": ("at theta", {}),
    "anchored": ("at theta", {}),
    "along_gradient": ("at theta", {"radius": 1e-2}),
    "finite_difference": ("one step", {"inner_lr": ETA, "radius": 0.1}),
    "t1t2": ("one step", {"inner_lr": ETA}),
    "t1t2_forward": ("one step", {"inner_lr": ETA}),
    "t1t2_mixed": ("one step", {"inner_lr": ETA}),
    "implicit_cg": (
        "implicit", {"iterations": iterations, "damping": damping, "tolerance": 0.0}
    ),
    "neumann": ("implicit", {"inner_lr": 0.05, "terms": terms}),
}  # fmt: skip
BETTY: dict[tuple[Claim, str], Callable[[Work], dict[str, Any]]] = {
    ("at theta", "darts"): lambda work: {},
    ("implicit", "cg"): lambda work: {"cg_iterations": iterations(work)},
    ("implicit", "neumann"): lambda work: {
        "neumann_iterations": terms(work), "neumann_alpha": 0.05
    },
}  # fmt: skip
METHODS = (
    *(Method(HERE, name, claims, partial(Ours, name)) for name, (claims, _) in OURS.items()),
    *(
        Method("Betty", name, claims, partial(Betty, name, more))
        for (claims, name), more in BETTY.items()
    ),
    Method("TorchOpt", "MetaSGD", "one step", MetaSGD),
    Method("TorchOpt", "custom_root, CG", "implicit", CustomRoot, quadratic_only=True),
    Method("higher", "innerloop_ctx", "one step", HigherStep),
)
