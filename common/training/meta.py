"""The meta step: an estimator's hypergradient, taken by the hyperparameters' optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.hypergrad.checks import NotFiniteError
from common.hypergrad.problem import BilevelProblem, Hypergradient, Tensors
from common.training.processes import over_processes


@dataclass
class MetaStep:
    """lambda <- optimiser step along factor * dL_V/dlambda, as the estimator estimates it.

    estimator: any of common/hypergrad. hyper: lambda by name, the tensors that ``optimizer``
    updates. generator: where perturbations are drawn from. every: m, if only one training step in m
    has a meta step, see ``due``.
    """

    estimator: Any
    problem: BilevelProblem
    hyper: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    every: int = 1
    state: dict[str, Any] = field(init=False)
    """For a checkpoint; ``steps``: training steps begun, counted by ``due``."""

    def __post_init__(self) -> None:
        self.spread = over_processes(self.estimator)
        self.start = {name: tensor.detach().clone() for name, tensor in self.hyper.items()}
        self.steps = torch.zeros((), dtype=torch.int64)
        names = ("hyper", "start", "optimizer", "generator", "steps")
        self.state = {name: getattr(self, name) for name in names}

    def due(self) -> bool:
        """To be asked once in every training step: whether it has a meta step. The first has, and
        every m-th after it."""
        if self.every == 1:
            return True
        self.steps += 1
        return (self.steps.item() - 1) % self.every == 0

    def __call__(
        self, params: Tensors, inner_batch: Any, outer_batch: Any, factor: float = 1.0
    ) -> dict[str, Tensor]:
        """A step from the hypergradient at ``params``; the metrics of ``apply``."""
        batches = (inner_batch, outer_batch)
        try:
            result = self.spread(
                self.problem, params, self.hyper, *batches, generator=self.generator
            )
        except NotFiniteError as error:
            raise UserError(f"the meta step failed: {error}") from None
        return self.apply(result, factor)

    def apply(self, result: Hypergradient, factor: float = 1.0) -> dict[str, Tensor]:
        """The optimiser's step along ``factor`` times a hypergradient.

        Returns ``meta_loss``, L_V where the estimator took it, and ``hypergradient_norm``, the
        Euclidean norm after the factor. Frees the gradients: they take no memory in the base step.
        """
        grads = {name: factor * result.grads[name] for name in self.hyper}
        for name, tensor in self.hyper.items():
            tensor.grad = grads[name]
        norm = nn.utils.get_total_norm(list(grads.values()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"meta_loss": result.outer_loss, "hypergradient_norm": norm}

    @property
    def moved(self) -> float:
        """Euclidean distance of lambda from its start."""
        ways = [tensor.detach() - self.start[name] for name, tensor in self.hyper.items()]
        return nn.utils.get_total_norm(ways).item()
