"""What would make a hypergradient silently wrong: found, and named with its remedy.

Mappings, scalars and, on a CPU, finite values are looked for at every call. An ``Examination``
evaluates both losses once more, the first time an estimator meets a problem, without keeping
activations, and looks at their graphs: two forwards per problem.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from .problem import Tensors, flat

Buffer = tuple[nn.Module, str, Tensor, Tensor]
"""A module, the name of a buffer of it, the tensor, and a copy of its values."""

MOVED = (
    "{name} changes the model's own buffer {label}: hand functional_call cloned ones, "
    "(params, {{n: b.clone() for n, b in model.named_buffers()}})"
)


class NotFiniteError(ValueError):
    """A loss or hypergradient is infinite or not a number."""


def check_tensors(what: str, tensors: Any, known: bool = False) -> None:
    """TypeError or ValueError unless ``tensors`` is a mapping, not empty, of dense floating-point
    tensors with values. known: the tensors themselves have been checked before."""
    if not isinstance(tensors, Mapping):
        got = "an iterator" if isinstance(tensors, Iterator) else f"a {type(tensors).__name__}"
        remedy = "tensors by name, such as dict(model.named_parameters())"
        raise TypeError(f"{what} must be {remedy}, got {got}")
    if not tensors:
        raise ValueError(f"{what} is empty")
    for name, tensor in {} if known else tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what}[{name!r}] must be a tensor, got a {type(tensor).__name__}")
        if tensor.is_meta:
            raise ValueError(
                f"{what}[{name!r}] is on the meta device and has no values: "
                "materialise the model first (model.to_empty(device=...), then load its weights)"
            )
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(
                f"{what}[{name!r}] must be dense and floating-point, got {tensor.dtype}, "
                f"{tensor.layout}"
            )


def check_scalar(name: str, loss: Any, finite: bool = False) -> Tensor:
    """The loss; TypeError or ValueError unless it is a scalar tensor, and finite if asked."""
    if not isinstance(loss, Tensor):
        remedies = {tuple: "the loss alone", float: "the tensor itself, without .item() or float()"}
        raise TypeError(
            f"{name} must return a scalar tensor, got a {type(loss).__name__}: "
            f"return {remedies.get(type(loss), 'the loss')}"
        )
    if loss.shape != () or not loss.is_floating_point():
        raise ValueError(
            f"{name} must return a scalar tensor, got {loss.dtype} of shape {tuple(loss.shape)}: "
            "take the mean or the sum of the samples' losses"
        )
    if finite:
        check_finite(name, loss)
    return loss


def check_finite(name: str, tensor: Tensor) -> None:
    """NotFiniteError if the sum is infinite or not a number; waits for the device."""
    if not math.isfinite((tensor.sum() if tensor.dim() else tensor).item()):
        raise NotFiniteError(
            f"{name} is not finite: the training has diverged, or a perturbation (sigma, radius) "
            "or inner step size is too large; check_finite=False lets such numbers pass"
        )


class Examination:
    """What two evaluations tell about a problem.

    passed: nothing was wrong. depends: whether a loss depends on lambda. compiled: which losses
    torch.compile has made. buffers: the modules' own that the losses used, by "name of Module"; a
    loss must not change them. resolved: settings whose perturbations survive rounding.
    """

    def __init__(self) -> None:
        self.passed = self.depends = False
        self.compiled: set[str] = set()
        self.buffers: dict[str, Tensor] = {}
        self.resolved: set[tuple[str, float]] = set()

    def look_at(
        self,
        name: str,
        loss_at: Callable[[Tensors], Tensor],
        theta: Tensors,
        hyper: Tensors,
        originals: list[Tensor],
    ) -> None:
        """Evaluates the loss at the leaves ``theta`` and ``hyper``; ValueError for a mistake.
        originals: the caller's own tensors."""
        with _watched(name) as used:
            loss = _without_activations(lambda: loss_at(theta))
        self._check_buffers(name, used.values())
        nodes, leaf_tensors = graph_of(loss)
        found = {id(t) for t in leaf_tensors}
        own = {t.data_ptr() for t in originals if t.numel()}
        handed = {id(t) for t in (*theta.values(), *hyper.values())}
        foreign = [t for t in leaf_tensors if id(t) not in handed]
        depends = any(id(h) in found for h in hyper.values())
        bypassed = any(t.data_ptr() in own for t in foreign)
        unused = not any(id(t) in found for t in theta.values())
        # L_V may be a function of lambda alone.
        if bypassed or (unused and (name == "inner_loss" or foreign or not depends)):
            raise ValueError(
                f"{name} does not use the tensors that it is handed but others, so it is constant "
                "to the estimator: call the network by torch.func.functional_call(model, params, "
                "inputs), not by model(inputs), likewise networks of hyperparameters, and detach "
                "nothing on the way"
            )
        if any("CompiledFunction" in node.name() for node in nodes):
            self.compiled.add(name)
        self.depends |= depends

    def _check_buffers(self, name: str, used: Iterable[Buffer]) -> None:
        moved = []
        for module, key, buffer, before in used:
            if module._buffers.get(key) is not buffer:
                continue  # functional_call had put a clone there
            label = f"{key} of {type(module).__name__}"
            if not torch.equal(buffer, before):
                moved.append(label)
                with torch.no_grad():
                    buffer.copy_(before)
            self.buffers[f"{label} {id(module)}"] = buffer
        if moved:
            raise ValueError(MOVED.format(name=name, label=moved[0]))

    @contextmanager
    def buffers_watched(self) -> Iterator[None]:
        """ValueError if a buffer changes in the block."""
        before = {label: buffer._version for label, buffer in self.buffers.items()}
        try:
            yield
        except RuntimeError as error:
            if "would mutate a captured Tensor" in str(error):  # as torch.func says it
                raise ValueError(MOVED.format(name="a loss", label="")) from error
            raise
        for label, version in before.items():
            if self.buffers[label]._version != version:
                raise ValueError(MOVED.format(name="a loss", label=label.rpartition(" ")[0]))

    def check_resolution(
        self,
        setting: tuple[str, float],
        at: Tensors,
        moved: Tensors,
        by: Tensors,
        scale: float | Tensor,
    ) -> None:
        """ValueError if most of a perturbation scale * by is lost in rounding (16-bit parameters).
        setting: name and value of what sets its size; checked once with a perturbation above 0."""
        if setting in self.resolved:
            return
        if low := [n for n, t in at.items() if torch.finfo(t.dtype).bits < 32]:
            wanted = flat({n: scale * by[n].double() for n in low})
            lost = (flat({n: moved[n].double() - at[n] for n in low}) - wanted).norm()
            if lost > 0.5 * wanted.norm():
                name, value = setting
                dtype = str(at[low[0]].dtype).removeprefix("torch.")
                raise ValueError(
                    f"{name} = {value:g} is below what {dtype} parameters resolve: rounding takes "
                    f"{(lost / wanted.norm()).item():.0%} of the perturbation; raise {name}, or "
                    "keep the parameters in float32 and use torch.autocast inside the losses"
                )
            if not wanted.any():
                return
        self.resolved.add(setting)


def _without_activations(evaluate: Callable[[], Tensor]) -> Tensor:
    """The loss with a graph to look at, not to differentiate: nothing is saved in it."""

    def refuse(_: None) -> Tensor:
        raise RuntimeError("nothing was saved")

    try:
        with saved_tensors_hooks(lambda tensor: None, refuse):
            return evaluate()
    except RuntimeError:  # the loss takes gradients itself, or uses torch.func
        return evaluate()


def graph_of(loss: Tensor) -> tuple[set[Node], list[Tensor]]:
    """All nodes of a loss's graph, and the leaves that it leads to."""
    pending, nodes, leaf_tensors = [loss.grad_fn], set(), []
    if loss.grad_fn is None and loss.requires_grad:
        leaf_tensors.append(loss)
    while pending:
        node = pending.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        if hasattr(node, "variable"):
            leaf_tensors.append(node.variable)
        pending.extend(parent for parent, _ in node.next_functions)
    return nodes, leaf_tensors


@contextmanager
def _watched(name: str) -> Iterator[dict[int, Buffer]]:
    """The buffers, by id, of all modules called in the block, as they were before their call;
    ValueError for a GradScaler."""
    used: dict[int, Buffer] = {}
    scale = torch.amp.GradScaler.scale

    def note(module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for key, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in used:
                used[id(buffer)] = (module, key, buffer, buffer.detach().clone())

    def refuse(self: torch.amp.GradScaler, outputs: Any) -> Any:
        if not self.is_enabled():
            return scale(self, outputs)
        raise ValueError(
            f"{name} is scaled by a GradScaler: return the loss unscaled, since the hypergradient "
            "would be scaled with it, and EvoGrad's softmax changed; the scaler belongs to the "
            "model's own step"
        )

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    setattr(torch.amp.GradScaler, "scale", refuse)  # noqa: B010
    try:
        yield used
    finally:
        handle.remove()
        setattr(torch.amp.GradScaler, "scale", scale)  # noqa: B010


_examined: dict[int, tuple[weakref.ref[Any], Examination]] = {}


def examination_of(problem: Any) -> Examination:
    """The problem's examination, kept as long as it lives; a new one, not passed, at first."""
    try:
        weakref.ref(problem)
    except TypeError:  # its function stands for it
        problem = getattr(problem.inner_loss, "__func__", problem.inner_loss)
    key = id(problem)
    if key not in _examined or _examined[key][0]() is not problem:
        drop = weakref.ref(problem, lambda _: _examined.pop(key, None))
        _examined[key] = (drop, Examination())
    return _examined[key][1]
