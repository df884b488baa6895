"""The compared methods: this project's, and those of Betty, TorchOpt and higher, each as its
documentation uses it."""

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import higher
import torch
import torchopt
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from torch import Tensor
from torch.func import grad

from common.hypergrad import (
    T1T2,
    AnchoredEvoGrad,
    Estimator,
    EvoGrad,
    EvoGradAlongGradient,
    FiniteDifference,
    HyperOptimizer,
    ImplicitCG,
    Neumann,
    T1T2Forward,
    T1T2MixedMode,
)
from scripts.peer_problems import ETA, Work
from scripts.peer_tables import HERE

LIBRARIES = {n: importlib.metadata.version(n) for n in ("betty-ml", "torchopt", "higher")}
META_LR = 1e-3


class Step(Protocol):
    """A method at work."""

    def hypergradient(self) -> Sequence[Tensor]:
        """By hyperparameter, in the order of ``work.hyper.parameters()``."""

    def training_step(self) -> None:
        """Hypergradient, step of the hyperparameters, step of the model."""


@dataclass(frozen=True)
class Method:
    """A method of a library. claims: which exact number it computes, times ``scale``."""

    library: str
    name: str
    claims: Literal["one step", "at theta", "implicit"]
    make: Callable[[Work], Step]
    scale: Callable[[Work], float] = lambda work: 1.0
    quadratic_only: bool = False


class Ours:
    """An estimator of this project through HyperOptimizer."""

    def __init__(self, work: Work, estimator: Estimator) -> None:
        self.work = work
        self.meta = HyperOptimizer(
            work.model,
            work.hyper,
            lambda model, hyper, _: work.train_loss(model, hyper, work.data),
            lambda model, hyper, _: work.valid_loss(model, work.data),
            estimator,
            torch.optim.Adam(work.hyper.parameters(), lr=META_LR),
            torch.Generator().manual_seed(1),
        )

    def hypergradient(self) -> Sequence[Tensor]:
        return list(self.meta.backward(None, None).grads.values())

    def training_step(self) -> None:
        self.meta.step(None, None)
        self.work.base_step()


class ByHand:
    """A library that gives a hypergradient; its user steps hyperparameters and model."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.meta = torch.optim.Adam(work.hyper.parameters(), lr=META_LR)

    def hypergradient(self) -> Sequence[Tensor]:
        raise NotImplementedError

    def training_step(self) -> None:
        for parameter, found in zip(self.meta.param_groups[0]["params"], self.hypergradient()):  # noqa: B905
            parameter.grad = found
        self.meta.step()
        self.work.base_step()


class HigherStep(ByHand):
    """One step of SGD inside ``higher.innerloop_ctx``."""

    def hypergradient(self) -> Sequence[Tensor]:
        work = self.work
        optimizer = torch.optim.SGD(work.model.parameters(), lr=ETA)
        with higher.innerloop_ctx(work.model, optimizer) as (model, inner):
            inner.step(work.train_loss(model, work.hyper, work.data))
            loss = work.valid_loss(model, work.data)
            return torch.autograd.grad(loss, list(work.hyper.parameters()))


class MetaSGD(ByHand):
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


class CustomRoot(ByHand):
    """``torchopt.diff.implicit.custom_root`` with its conjugate gradients, at the optimum."""

    def hypergradient(self) -> Sequence[Tensor]:
        work = self.work

        def train(theta: Tensor, la: Tensor) -> Tensor:
            return work.train_loss(lambda: theta, lambda: la, work.data)

        solve = torchopt.linear_solve.solve_cg(maxiter=40, atol=1e-12, rtol=1e-12)

        @torchopt.diff.implicit.custom_root(grad(train), argnums=1, solve=solve)
        def optimum(theta: Tensor, la: Tensor) -> Tensor:
            return theta

        la = work.hyper.values
        theta = optimum(work.model.values.detach().requires_grad_(), la)
        loss = work.valid_loss(lambda: theta, work.data)
        return torch.autograd.grad(loss, [la])


class Recorder(torch.optim.Adam):
    """Keeps the gradients it is given, since Betty clears them."""

    def step(self, closure: None = None) -> None:
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        super().step(closure)


class Betty:
    """Betty's engine, one inner step for each outer one; it makes the model's step itself."""

    def __init__(self, work: Work, **config: object) -> None:
        logging.disable(logging.INFO)
        self.work = work

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
        inner = Inner(
            "inner", Config(**config), work.model, work.optimizer, train_data_loader=[None]
        )
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


def ours(name: str, claims: str, estimator: Callable[[Work], Estimator], **more: object) -> Method:
    return Method(HERE, name, claims, lambda work: Ours(work, estimator(work)), **more)


def effective(estimator: Estimator) -> Callable[[Work], float]:
    return lambda work: estimator.effective_inner_lr


def iterations(work: Work) -> int:
    """Of conjugate gradients: as many as the quadratic has parameters; few for the network."""
    return 5 if work.network else 20


def implicit_cg(work: Work) -> ImplicitCG:
    """At the untrained network damped so much that no iteration meets negative curvature, which it
    would refuse; an iteration costs the same."""
    return ImplicitCG(iterations(work), damping=1e6 if work.network else 0.0, tolerance=0.0)


def terms(work: Work) -> int:
    """Of the Neumann series: until it has converged; few for the network."""
    return 5 if work.network else 2000


def along(work: Work) -> EvoGradAlongGradient:
    """A radius that float32 (the network) or float64 resolves, and a temperature far above the
    difference of losses."""
    return EvoGradAlongGradient(1e-2 if work.network else 1e-4, temperature=1.0)


EVOGRAD, ANCHORED, BY_FORWARDS = EvoGrad(), AnchoredEvoGrad(), EvoGrad(mode="differences")

METHODS = (
    ours("EvoGrad, K = 2", "at theta", lambda work: EVOGRAD, scale=effective(EVOGRAD)),
    ours("EvoGrad by differences", "at theta", lambda work: BY_FORWARDS, scale=effective(EVOGRAD)),
    ours("AnchoredEvoGrad", "at theta", lambda work: ANCHORED, scale=effective(ANCHORED)),
    ours(
        "EvoGradAlongGradient",
        "at theta",
        along,
        scale=lambda work: along(work).effective_inner_lr,
    ),
    ours("FiniteDifference", "one step", lambda work: FiniteDifference(ETA, radius=0.1)),
    ours("T1T2", "one step", lambda work: T1T2(ETA)),
    ours("T1T2Forward", "one step", lambda work: T1T2Forward(ETA)),
    ours("T1T2MixedMode", "one step", lambda work: T1T2MixedMode(ETA)),
    ours("ImplicitCG", "implicit", implicit_cg),
    ours("Neumann", "implicit", lambda work: Neumann(0.05, terms(work))),
    Method("Betty", "darts", "at theta", lambda work: Betty(work, type="darts")),
    Method(
        "Betty",
        "cg",
        "implicit",
        lambda work: Betty(work, type="cg", cg_iterations=iterations(work)),
    ),
    Method(
        "Betty",
        "neumann",
        "implicit",
        lambda work: Betty(
            work, type="neumann", neumann_iterations=terms(work), neumann_alpha=0.05
        ),
    ),
    Method("TorchOpt", "MetaSGD", "one step", MetaSGD),
    Method("TorchOpt", "custom_root, CG", "implicit", CustomRoot, quadratic_only=True),
    Method("higher", "innerloop_ctx", "one step", HigherStep),
)
