"""The bilevel problem an estimator is given, and the hypergradient it returns.

    lambda* = argmin_lambda L_V(theta*(lambda), lambda)
    theta*(lambda) = argmin_theta L_T(theta, lambda)

theta: model parameters; lambda: hyperparameters (meta-parameters); L_T: inner (training) loss;
L_V: outer (validation) loss. The hypergradient dL_V/dlambda has a direct term (lambda occurs in
L_V itself) and an indirect one (through theta).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
"""Tensors by name, as ``dict(module.named_parameters())`` gives them and torch.func takes them."""

Grads = Mapping[str, Tensor | None]
"""Gradients by name, None where what is differentiated does not depend on the tensor."""


class BilevelProblem(Protocol):
    """Two losses as pure functions of parameters, hyperparameters and a batch: they change nothing.

    A network is called through ``torch.func.functional_call(model, (params, buffers), inputs)``
    with *cloned* buffers, since batch normalisation in training mode writes its running statistics
    into the buffers it is given, and into the module's own when it is given none. Randomness must
    come from torch's global generators (dropout does). Estimators seed them, so that a loss draws
    the same noise when it is evaluated again, and put them back afterwards.
    """

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_T(theta, lambda) on a training batch, a scalar."""
        ...

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """L_V(theta, lambda) on a validation batch, a scalar."""
        ...


@runtime_checkable
class BatchedCandidates(Protocol):
    """What a problem may offer in addition, so that EvoGrad's candidates share work."""

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """The K inner losses at once, shape (K,), equal to a loop over ``inner_loss``.

        ``candidates`` has the keys of ``params``, each of shape (K, *shape); parameters that are
        not perturbed are expanded views (stride 0). Compute with ``torch.func.vmap`` over that
        dimension (buffers stacked to (K, ...), ``randomness="same"``), or do shared work once.
        """
        ...


@dataclass(frozen=True)
class Hypergradient:
    """What an estimator returns.

    grads: dL_V/dlambda by name, keys and shapes of the hyperparameters; the gradient to descend.
    outer_loss: L_V at the parameters the estimator evaluated it at (each estimator says where).
    diagnostics: what the estimator saw on the way, by name (each estimator lists its own).
    params: theta_k, by Unrolled and ForwardMode; {} by others.
    """

    grads: dict[str, Tensor]
    outer_loss: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    params: Tensors = field(default_factory=dict)


def detached(tensors: Tensors) -> dict[str, Tensor]:
    """The same values without a graph; the caller's tensors stay as they are."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def leaves(tensors: Tensors) -> dict[str, Tensor]:
    """The same values as fresh leaves that require a gradient, apart from the caller's."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def gradients_or_none(
    output: Tensor | Sequence[Tensor],
    inputs: Mapping[Any, Tensor],
    output_grads: Sequence[Tensor] | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> dict[Any, Tensor | None]:
    """Vector-Jacobian product by name; None for inputs that no output depends on."""
    outputs = [output] if isinstance(output, Tensor) else list(output)
    # None stands for one.
    vectors: list[Tensor | None] = (
        [None] * len(outputs) if output_grads is None else [*output_grads]
    )
    if not all(o.requires_grad for o in outputs):
        vectors = [v for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
        outputs = [o for o in outputs if o.requires_grad]
        if not outputs:
            return dict.fromkeys(inputs)
    retain, by = create_graph or retain_graph, list(inputs.values())
    found = torch.autograd.grad(
        outputs, by, vectors, retain_graph=retain, create_graph=create_graph, allow_unused=True
    )
    return {
        n: g if g is None or g.layout == torch.strided else g.to_dense()  # an embedding's is sparse
        for n, g in zip(inputs, found, strict=True)
    }


def gradients(
    output: Tensor | Sequence[Tensor],
    inputs: Mapping[Any, Tensor],
    output_grads: Sequence[Tensor] | None = None,
    **graph: bool,
) -> dict[Any, Tensor]:
    """Vector-Jacobian product by name; zeros for inputs that no output depends on."""
    return zeros_for_none(gradients_or_none(output, inputs, output_grads, **graph), inputs)


def gradients_by_both(
    output: Tensor | Sequence[Tensor],
    params: Tensors,
    hyper: Tensors,
    output_grads: Sequence[Tensor] | None = None,
    create_graph: bool = False,
) -> tuple[Grads, Grads]:
    """``gradients_or_none`` by theta and by lambda, whose names may coincide, in one backward."""
    both = dict(enumerate([*params.values(), *hyper.values()]))
    found = list(gradients_or_none(output, both, output_grads, create_graph).values())
    count = len(params)
    return dict(zip(params, found, strict=False)), dict(zip(hyper, found[count:], strict=True))


def zeros_for_none(
    found: Mapping[Any, Tensor | None], inputs: Mapping[Any, Tensor]
) -> dict[Any, Tensor]:
    """``found`` with None replaced by zeros of the input's shape."""
    return {n: torch.zeros_like(t) if (g := found[n]) is None else g for n, t in inputs.items()}


def sum_or_none(left: Grads, right: Grads) -> Grads:
    """left + right by name of ``right``, None (or missing) as zero."""
    both = {n: (left.get(n), r) for n, r in right.items()}
    return {n: r if x is None else x if r is None else x + r for n, (x, r) in both.items()}


def added(left: Tensors, right: Tensors, scale: float | Tensor = 1.0) -> dict[str, Tensor]:
    """left + scale * right, by name; the sums have the strides of ``left``.

    A convolution chooses its algorithm by the strides of its weights, so a candidate must not
    lose the memory format (channels last) of the parameters it stands for.
    """
    return {name: moved_by(tensor, right[name], scale) for name, tensor in left.items()}


def moved_by(tensor: Tensor, by: Tensor, scale: float | Tensor) -> Tensor:
    """``added`` for one tensor."""
    if isinstance(scale, Tensor):
        total = torch.addcmul(tensor, by, scale)
    else:
        total = torch.add(tensor, by, alpha=scale)
    # A scalar parameter of 16 bits plus a longer number would be as long as that.
    if total.dtype != tensor.dtype:
        total = total.to(tensor.dtype)
    return total if total.stride() == tensor.stride() else torch.empty_like(tensor).copy_(total)


def strided_as(like: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` itself, or a copy of it in the memory format of ``like``."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


def flat(tensors: Tensors) -> Tensor:
    """All entries as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def split_like(vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The inverse of ``flat``, with names, shapes and types of ``like``; views where it can."""
    pieces = vector.split([t.numel() for t in like.values()])
    named = zip(like.items(), pieces, strict=True)
    return {n: piece.view(t.shape).to(t.dtype) for (n, t), piece in named}


def norm(tensors: Tensors) -> Tensor:
    """Euclidean norm over all entries of all tensors, a scalar."""
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors.values()]
    return torch.linalg.vector_norm(torch.stack(norms))
