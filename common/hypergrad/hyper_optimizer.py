"""Hypergradients in your own training loop: ordinary modules in, ``.grad`` and steps out."""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .base import Estimator
from .problem import Hypergradient, Tensors

Hyper = nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
Loss = Callable[[nn.Module, Any, Any], Tensor]


class HyperOptimizer:
    """Descends the validation loss by hyperparameters that only the training loss knows.

        hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, optimizer)
        for train_batch, valid_batch in ...:
            hyper_optimizer.step(train_batch, valid_batch)
            ...                                  # the model's own training step, as ever

    model: the network, called as usual inside the losses, ``model(x)``, in training or evaluation
    mode as the caller wishes; a loss may change the mode, which is put back after it. During a call
    its parameters are those of a candidate. Frozen parameters (``requires_grad`` False) stay as
    they are. Buffers are cloned for every evaluation, so that batch norm's running statistics do
    not move. Of a DistributedDataParallel model the hypergradients are averaged over the ranks.
    hyper: a module, a mapping of tensors or an iterable of named tensors (``named_parameters()``).
    Parts of the model itself may be hyperparameters; then they do not count as its parameters, but
    if the estimator has a ``start`` (Unrolled): then they are where its steps start (MAML).
    train_loss, valid_loss: ``loss(model, hyper, batch)``, a scalar. Given a module, ``hyper`` is
    that module, else a dict.
    estimator: any of this package. Those of several steps take a list of training batches.
    ``inner_lr`` of those of one step may be the model's own optimizer.
    optimizer: of the hyperparameters, and of nothing else.
    generator: source of the estimator's random numbers; torch's global CPU generator if None.
    every: ``step`` acts at every ``every``-th call, the first included.

    Mixed precision: ``torch.autocast`` inside the losses or around the call applies to the losses
    only. In bfloat16 the losses of close candidates differ by rounding only: take T1T2, or a larger
    sigma or radius. A ``GradScaler`` belongs to the model's own step: the losses here are not
    scaled, and the hyperparameters are stepped without it.

    Raises ValueError or TypeError for losses that are no scalars, tensors that cannot be
    hyperparameters, and an optimizer of other tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyper,
        train_loss: Loss,
        valid_loss: Loss,
        estimator: Estimator,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None = None,
        every: int = 1,
    ) -> None:
        if not isinstance(estimator, Estimator):
            kind = estimator.__name__ if inspect.isclass(estimator) else type(estimator).__name__
            raise TypeError(
                f"estimator must be an instance, such as EvoGradAlongGradient(), got {kind}"
            )
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.estimator, self.optimizer, self.generator = estimator, optimizer, generator
        starts = getattr(estimator, "start", None) is not None
        self.problem = ModuleProblem(model, hyper, train_loss, valid_loss, starts)
        self.hyper = self.problem.hyper
        self.every, self.calls = every, 0
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        if not held <= {id(tensor) for tensor in self.problem.given.values()}:
            raise ValueError(
                "optimizer holds tensors that are no hyperparameters; give it hyper's only"
            )
        if missing := [name for name, tensor in self.hyper.items() if id(tensor) not in held]:
            raise ValueError(f"optimizer does not hold the hyperparameters {', '.join(missing)}")

    def step(self, train_batch: Any, valid_batch: Any, **given: Any) -> Hypergradient | None:
        """``zero_grad``, ``backward`` and a step of the optimizer; None at the calls that
        ``every`` leaves out. given: for the estimator, such as ``warm`` for ImplicitCG."""
        self.calls += 1
        if (self.calls - 1) % self.every:
            return None
        self.zero_grad()
        result = self.backward(train_batch, valid_batch, **given)
        self.optimizer.step()
        return result

    def zero_grad(self) -> None:
        """Empties the hyperparameters' ``.grad``, in which the model's own backward pass may have
        left dL_T/dlambda."""
        for tensor in self.hyper.values():
            tensor.grad = None

    def backward(
        self, train_batch: Any, valid_batch: Any, weight: float = 1.0, **given: Any
    ) -> Hypergradient:
        """Adds ``weight`` times the hypergradient to the hyperparameters' ``.grad``; returns it.

        For the mean over n pairs of batches, or to clip:

            hyper_optimizer.zero_grad()
            for train_batch, valid_batch in pairs:
                hyper_optimizer.backward(train_batch, valid_batch, weight=1 / len(pairs))
            torch.nn.utils.clip_grad_norm_(hyper.values(), 1.0)
            hyper_optimizer.optimizer.step()
        """
        at = self.problem, self.problem.params(), self.hyper
        result = self.estimator(*at, train_batch, valid_batch, self.generator, **given)
        if isinstance(self.problem.model, DistributedDataParallel):
            for grad in result.grads.values():
                dist.all_reduce(grad.div_(dist.get_world_size()))
        for name, grad in result.grads.items():
            tensor, grad = self.hyper[name], grad.clone() if weight == 1 else weight * grad
            tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        return result

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters, optimizer, generator and calls, to go on with the same numbers.

        Without a generator of its own, the caller saves torch's global random state. ``.grad`` is
        left out.
        """
        return {
            "hyper": {name: tensor.detach().clone() for name, tensor in self.hyper.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
            "calls": self.calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a ``state_dict``. ValueError if it is of other hyperparameters."""
        saved = {name: tensor.shape for name, tensor in state["hyper"].items()}
        if saved != {name: tensor.shape for name, tensor in self.hyper.items()}:
            raise ValueError(f"the state is of other hyperparameters: {', '.join(saved)}")
        if (state["generator"] is None) != (self.generator is None):
            raise ValueError("generator must be given if, and only if, the saved one was")
        with torch.no_grad():
            for name, tensor in self.hyper.items():
                tensor.copy_(state["hyper"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.generator is not None:
            self.generator.set_state(state["generator"])
        self.calls = state["calls"]
        self.zero_grad()


class ModuleProblem:
    """The BilevelProblem of losses that call modules.

    Each evaluation puts the estimator's parameters in place of the modules' own, with clones of
    their buffers, as ``functional_call`` does, but looks up where they belong only where modules or
    parameters have changed. ``hyper``: what of ``given`` is not frozen. starts: hyperparameters
    that are the model's stay among its parameters too.
    """

    loss_names: ClassVar = {"inner_loss": "train_loss", "outer_loss": "valid_loss"}

    def __init__(
        self,
        model: nn.Module,
        hyper: Hyper,
        train_loss: Loss,
        valid_loss: Loss,
        starts: bool = False,
    ) -> None:
        self.model, self.starts = model, starts
        self.module = hyper if isinstance(hyper, nn.Module) else None
        self.losses = {"train_loss": train_loss, "valid_loss": valid_loss}
        named = hyper.named_parameters() if isinstance(hyper, nn.Module) else hyper
        pairs = list(named.items() if isinstance(named, Mapping) else named)
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise TypeError(
                "hyper must be a module, or tensors by name, such as module.named_parameters() or "
                "{'name': tensor}; module.parameters() has no names"
            )
        self.given: dict[str, Tensor] = dict(pairs)
        self.hyper = {
            n: t
            for n, t in self.given.items()
            if not isinstance(t, nn.Parameter) or t.requires_grad
        }
        if not self.hyper:
            raise ValueError("hyper holds no tensor to learn: it is empty, or all of it is frozen")
        for name, tensor in self.hyper.items():
            if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.is_leaf):
                raise ValueError(
                    f"hyper[{name!r}] must be a floating-point tensor without a history"
                )
        self.modules: list[nn.Module] = []
        self.seen: list[Any] = []
        self.params()

    def params(self) -> dict[str, Tensor]:
        """theta: the model's parameters that are trained."""
        seen = self._parts()
        if self.modules and len(seen) == len(self.seen) and all(map(operator.is_, seen, self.seen)):
            return self.theta
        hyper = set() if self.starts else {id(t) for t in self.hyper.values()}
        self.theta: dict[str, Tensor] = {
            n: p for n, p in self.model.named_parameters() if p.requires_grad and id(p) not in hyper
        }
        parts = [self.model] if self.module is None else [self.model, self.module]
        # Of modules in both, or twice in one, once.
        self.modules = list({id(m): m for part in parts for m in part.modules()}.values())
        places: dict[int, list[tuple[Any, str]]] = {}  # tied weights have several
        for module in self.modules:
            for key, tensor in module._parameters.items():
                places.setdefault(id(tensor), []).append((module._parameters, key))
        self.of_params = {n: places[id(p)] for n, p in self.theta.items()}
        self.of_hyper = {n: places.get(id(t), []) for n, t in self.hyper.items()}
        self.seen = self._parts()
        return self.theta

    def _parts(self) -> list[Any]:
        """What the places of tensors depend on: submodules, and parameters, frozen or not."""
        seen: list[Any] = []
        for module in self.modules:
            seen += module._modules.values()
            for parameter in module._parameters.values():
                seen += parameter, parameter is not None and parameter.requires_grad
        return seen

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_T, the train_loss."""
        return self._evaluate("train_loss", params, hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_V, the valid_loss."""
        return self._evaluate("valid_loss", params, hyper, batch)

    def _evaluate(self, loss: str, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """A loss with the tensors, and clones of the buffers, in the modules; tensors and modes
        are put back."""
        before: list[tuple[dict[str, Any], str, Any]] = []
        modes = [module.training for module in self.modules]
        try:
            clones: dict[int, Tensor] = {}  # a buffer in two places stays one
            for module in self.modules:
                for key, buffer in module._buffers.items():
                    if buffer is not None:
                        before.append((module._buffers, key, buffer))
                        module._buffers[key] = clones.setdefault(id(buffer), buffer.clone())
            for places, tensors in ((self.of_hyper, hyper), (self.of_params, params)):
                for name, tensor in tensors.items():
                    for held, key in places[name]:
                        before.append((held, key, held[key]))
                        held[key] = tensor
            given = self.given | dict(hyper) if self.module is None else self.module
            return self.losses[loss](self.model, given, batch)
        finally:
            for held, key, tensor in reversed(before):
                held[key] = tensor
            for module, mode in zip(self.modules, modes, strict=True):
                if module.training != mode:
                    module.training = mode
