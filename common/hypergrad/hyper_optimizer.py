"""Hypergradients in a training loop of one's own: ordinary modules in, ``.grad`` and steps out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .base import Estimator
from .checks import check_scalar
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
    mode as the caller wishes. During a call its parameters are those of a candidate. Frozen
    parameters (``requires_grad`` False) stay as they are. Buffers are cloned for every evaluation,
    so that batch norm's running statistics do not move.
    hyper: a module, a mapping of tensors or an iterable of named tensors (``named_parameters()``).
    Parts of the model itself may be hyperparameters; then they do not count as its parameters.
    train_loss, valid_loss: ``loss(model, hyper, batch)``, a scalar. Given a module, ``hyper`` is
    that module, else a dict.
    estimator: any of this package. Those of several steps take a sequence of training batches.
    ``inner_lr`` of those of one step may be the model's own optimizer.
    optimizer: of the hyperparameters, and of nothing else.
    generator: source of the estimator's random numbers; torch's global CPU generator if None.

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
    ) -> None:
        self.estimator, self.optimizer, self.generator = estimator, optimizer, generator
        self.problem = ModuleProblem(model, hyper, train_loss, valid_loss)
        self.hyper = self.problem.hyper
        self._sum: dict[str, Tensor] = {}
        _check_optimizer(optimizer, self.problem.given, self.hyper)

    def step(self, train_batch: Any, valid_batch: Any, weight: float = 1.0) -> Hypergradient:
        """``backward``, then a step of the optimizer."""
        result = self.backward(train_batch, valid_batch, weight)
        self.optimizer.step()
        self._sum = {}
        return result

    def backward(self, train_batch: Any, valid_batch: Any, weight: float = 1.0) -> Hypergradient:
        """Sets the hyperparameters' ``.grad`` to the hypergradient, and returns it.

        Calls before the next ``step`` add up: for the mean over n pairs of batches, n - 1 calls of
        ``backward`` and one of ``step``, each with weight = 1 / n. Whatever else stood in ``.grad``
        (the model's own backward pass leaves dL_T/dlambda there) is replaced.
        """
        at = self.problem, self.problem.params(), self.hyper
        result = self.estimator(*at, train_batch, valid_batch, self.generator)
        for name, grad in result.grads.items():
            grad = grad if weight == 1 else weight * grad
            self._sum[name] = self._sum[name] + grad if name in self._sum else grad
            self.hyper[name].grad = self._sum[name].clone()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters, optimizer and generator, to go on with the same numbers.

        Without a generator of its own, the caller saves torch's global random state. What
        ``backward`` has added up since the last step is left out.
        """
        return {
            "hyper": {name: tensor.detach().clone() for name, tensor in self.hyper.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
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
        self._sum = {}


class ModuleProblem(nn.Module):
    """The BilevelProblem of losses that call modules: a module that holds them.

    Each evaluation puts, by ``functional_call``, the estimator's parameters in place of the
    modules' own, with clones of their buffers. ``hyper``: what of ``given`` is not frozen.
    """

    def __init__(self, model: nn.Module, hyper: Hyper, train_loss: Loss, valid_loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.module = hyper if isinstance(hyper, nn.Module) else None
        self.losses = {"train_loss": train_loss, "valid_loss": valid_loss}
        self.given: dict[str, Tensor] = dict(
            hyper.named_parameters() if isinstance(hyper, nn.Module) else hyper
        )
        self.hyper = {
            n: t
            for n, t in self.given.items()
            if not isinstance(t, nn.Parameter) or t.requires_grad
        }
        _check_hyper(self.hyper)
        # Hyperparameters that are parts of the model have a name there too.
        names = {id(tensor): name for name, tensor in self.hyper.items()}
        self.names_in_model = {
            n: names[id(p)] for n, p in model.named_parameters() if id(p) in names
        }

    def params(self) -> dict[str, Tensor]:
        """theta: the model's parameters that are trained."""
        return {
            n: p
            for n, p in self.model.named_parameters()
            if p.requires_grad and n not in self.names_in_model
        }

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_T, the train_loss."""
        return self._evaluate("train_loss", params, hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_V, the valid_loss."""
        return self._evaluate("valid_loss", params, hyper, batch)

    def _evaluate(self, loss: str, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        replaced = {n: b.clone() for n, b in self.named_buffers()}
        replaced |= {f"model.{n}": p for n, p in params.items()}
        if self.module is None:
            replaced |= {f"model.{n}": hyper[name] for n, name in self.names_in_model.items()}
        else:  # functional_call also puts them where the model shares them
            replaced |= {f"module.{n}": h for n, h in hyper.items()}
        return functional_call(self, replaced, (loss, self.given | dict(hyper), batch))

    def forward(self, loss: str, hyper: dict[str, Tensor], batch: Any) -> Tensor:
        """A loss by name, while the tensors are in place."""
        given = hyper if self.module is None else self.module
        return check_scalar(loss, self.losses[loss](self.model, given, batch))


def _check_hyper(hyper: Tensors) -> None:
    if not hyper:
        raise ValueError("hyper holds no tensor to learn: it is empty, or all of it is frozen")
    for name, tensor in hyper.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.is_leaf):
            raise ValueError(f"hyper[{name!r}] must be a floating-point tensor without a history")


def _check_optimizer(optimizer: torch.optim.Optimizer, given: Tensors, hyper: Tensors) -> None:
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    if not held <= {id(tensor) for tensor in given.values()}:
        raise ValueError(
            "optimizer holds tensors that are no hyperparameters; give it hyper's only"
        )
    if missing := [name for name, tensor in hyper.items() if id(tensor) not in held]:
        raise ValueError(f"optimizer does not hold the hyperparameters {', '.join(missing)}")
