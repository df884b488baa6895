"""Checks for mistakes that give a wrong hypergradient without an error.

Mappings, scalars and, on a CPU, finite values are looked for at every call. The first call with a
problem has an ``Examination``: both losses are evaluated twice, without keeping activations, and
their graphs and modules looked at, so it costs four forwards more.
"""

import dataclasses
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from .problem import Tensors, flat
from .torch_errors import FIRST, checkpoint_remedy

if TYPE_CHECKING:
    from .base import Point


class NotFiniteError(ValueError):
    """A loss or hypergradient is infinite or not a number."""


def check_tensors(what: str, tensors: Any) -> None:
    """TypeError or ValueError unless ``tensors`` is a mapping, not empty, of dense floating-point
    tensors with values."""
    if not isinstance(tensors, Mapping):
        got = "an iterator" if isinstance(tensors, Iterator) else f"a {type(tensors).__name__}"
        remedy = "tensors by name, such as dict(model.named_parameters())"
        raise TypeError(f"{what} must be {remedy}, got {got}")
    if not tensors:
        raise ValueError(f"{what} is empty")
    for name, tensor in tensors.items():
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
    """NotFiniteError if an entry is infinite or not a number; waits for the device."""
    if math.isfinite((tensor.sum() if tensor.dim() else tensor).item()):
        return
    if not torch.isfinite(tensor).all():  # else only the sum is too large for its type
        raise NotFiniteError(
            f"{name} is not finite: the training has diverged, or a perturbation (sigma, radius) "
            "or inner step size is too large; check_finite=False lets such numbers pass"
        )


class Examination:
    """What the evaluations of a problem tell about it.

    names: of the losses, as the caller knows them. passed: nothing was wrong. inner_depends,
    outer_depends: whether a loss depends on lambda. nodes: names of those in the losses' graphs.
    buffers: the modules' own that the losses used, by "name of Module", and their versions; a loss
    must not change them. resolved: settings whose perturbations survive rounding.
    differentiable: functions that cannot be differentiated twice have been looked for.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = names or {"inner_loss": "inner_loss", "outer_loss": "outer_loss"}
        self.functional = names is None
        self.passed = self.inner_depends = self.outer_depends = self.differentiable = False
        self.nodes: dict[str, set[str]] = {"inner_loss": set(), "outer_loss": set()}
        self.buffers: dict[str, tuple[Tensor, int]] = {}
        self.resolved: set[tuple[str, float]] = set()

    def examine(self, at: "Point") -> None:
        """Evaluates both losses twice, at copies of theta; ValueError for a mistake."""
        for name, param in at.params.items():
            if param._backward_hooks:
                raise ValueError(
                    f"params[{name!r}] has a gradient hook, which a hypergradient does not see: "
                    "remove it, and freeze parameters or rows inside the losses instead"
                )
        theta = {n: t.clone().requires_grad_() for n, t in at.theta.items()}
        kept = _Kept(
            {"a batch": (at.inner_batches, at.outer_batch), "parameters": (theta, at.values)}
        )
        modes: dict[str, dict[int, tuple[nn.Module, bool]]] = {}
        first: dict[str, Tensor] = {}
        losses = {"inner_loss": at.inner_loss, "outer_loss": at.outer_loss}
        for turn in range(2):
            for name, loss_at in losses.items():
                with _watched(self.names[name]) as seen:
                    loss = _without_activations(lambda f=loss_at: f(theta))  # type: ignore[misc]
                kept.check(self.names[name])
                self._check_buffers(name, seen)
                if turn == 0:
                    modes[name], first[name] = seen.modes, loss.detach()
                    self._look_at(name, loss, at, theta)
                    if "CheckpointFunctionBackward" in self.nodes[name]:  # reentrant
                        raise ValueError(checkpoint_remedy(self.names[name]))
                    if seen.checkpoints:
                        self._check_checkpoints(name, loss_at, at, theta)
                else:
                    self._check_modes(modes[name], seen.modes, modes["inner_loss"])
                    self._check_repeated(name, first[name], loss.detach())
                del loss
        self.passed = True

    def unused_hyper(self) -> str:
        """That the inner loss does not depend on lambda, with a remedy."""
        inner, outer = self.names.values()
        which = f"neither {inner} nor {outer} depends"
        if self.outer_depends:
            which = f"{inner} does not depend"
        where = "the tensors passed as `hyper`" if self.functional else "the `hyper` handed to it"
        return (
            f"{which} on any hyperparameter: use {where}, not copies held elsewhere, and do not "
            "detach them nor take their .item()"
        )

    def _look_at(self, name: str, loss: Tensor, at: "Point", theta: Tensors) -> None:
        nodes, leaf_tensors = graph_of(loss)
        found = {id(t) for t in leaf_tensors}
        originals = [*at.values.values(), *at.hyper_values.values()]
        own = {t.data_ptr() for t in originals if t.numel()}
        handed = {id(t) for t in (*theta.values(), *at.hyper.values())}
        foreign = [t for t in leaf_tensors if id(t) not in handed]
        depends = any(id(h) in found for h in at.hyper.values())
        bypassed = any(t.data_ptr() in own for t in foreign)
        unused = not any(id(t) in found for t in theta.values())
        # L_V may be a function of lambda alone.
        if bypassed or (unused and (name == "inner_loss" or foreign or not depends)):
            remedy = "call the model and use the hyperparameters that the loss is handed"
            if self.functional:
                remedy = (
                    "call the network by torch.func.functional_call(model, params, inputs), not by "
                    "model(inputs), likewise networks of hyperparameters"
                )
            raise ValueError(
                f"{self.names[name]} does not use the tensors that it is handed but others, so it "
                f"is constant to the estimator: {remedy}, and detach nothing on the way"
            )
        self.nodes[name] = {node.name() for node in nodes}
        if name == "inner_loss":
            self.inner_depends = depends
        else:
            self.outer_depends = depends

    def _check_repeated(self, name: str, first: Tensor, second: Tensor) -> None:
        info = torch.finfo(first.dtype)
        a, b = first.item(), second.item()
        near = info.eps * (1000 if info.bits >= 32 else 4) * max(abs(a), abs(b))
        if not (abs(a - b) <= near or a == b or (math.isnan(a) and math.isnan(b))):
            raise ValueError(
                f"{self.names[name]} differs when it is evaluated again at the same parameters, "
                f"seed and batch ({a:.7g}, then {b:.7g}): take randomness from torch's global "
                "generators (not numpy, random or a torch.Generator of its own), draw batches "
                "outside of the loss, and change nothing in it"
            )

    def _check_modes(self, before: Any, after: Any, begin: Any) -> None:
        changed = [m for i, (m, mode) in after.items() if i in before and before[i][1] != mode]
        for module, mode in begin.values():
            module.training = mode
        if changed:
            raise ValueError(
                f"a loss changes the mode of {type(changed[0]).__name__} (train or eval) for the "
                "other: call model.train() or model.eval() in both losses, or in neither"
            )

    def _check_checkpoints(self, name: str, loss_at: Any, at: "Point", theta: Tensors) -> None:
        """ValueError if gradient checkpointing runs modules again with the caller's parameters."""
        own = {p.data_ptr() for p in at.params.values() if p.numel()}
        wrong: list[Tensor] = []

        def note(module: nn.Module, inputs: Any) -> None:
            held = [p for p in module._parameters.values() if p is not None]
            wrong.extend(p for p in held if p.data_ptr() in own)

        loss = loss_at(theta)
        handle = nn.modules.module.register_module_forward_pre_hook(note)
        try:
            torch.autograd.grad(loss, [*theta.values(), *at.hyper.values()], allow_unused=True)
        finally:
            handle.remove()
        if wrong:
            raise ValueError(checkpoint_remedy(self.names[name]))

    def _check_buffers(self, name: str, seen: "_Seen") -> None:
        moved = []
        for module, key, buffer, before in seen.buffers.values():
            if module._buffers.get(key) is not buffer:
                continue  # functional_call had put a clone there
            label = f"{key} of {type(module).__name__}"
            if not torch.equal(buffer, before):
                moved.append(label)
                with torch.no_grad():
                    buffer.copy_(before)
            self.buffers[f"{label} {id(module)}"] = buffer, buffer._version
        if moved:
            raise ValueError(self.moved(self.names[name], moved[0]))

    def moved(self, name: str, label: str = "") -> str:
        """That a loss changes a buffer, with a remedy."""
        if self.functional:
            remedy = (
                "hand functional_call cloned ones, "
                "(params, {n: b.clone() for n, b in model.named_buffers()})"
            )
        else:
            remedy = "a module that is not the model's (a teacher, a loss) must be in eval mode"
        return f"{name} changes a module's own buffer {label}: {remedy}"

    def check_buffers(self) -> None:
        """ValueError if a buffer has changed since it was last looked at."""
        for label, (buffer, version) in self.buffers.items():
            if buffer._version != version:
                self.buffers[label] = buffer, buffer._version
                raise ValueError(self.moved("a loss", label.rpartition(" ")[0]))

    def check_twice_differentiable(self, grads: Tensors) -> None:
        """ValueError if a function in the graph of dL_T/dtheta has no second derivative, where
        torch would leave it out without a word; looked for once."""
        if self.differentiable:
            return
        for grad in grads.values():
            if any(node.name().endswith("Error") for node in graph_of(grad)[0]):
                raise ValueError(
                    f"{self.names['inner_loss']} uses a function marked once_differentiable, whose "
                    f"second derivative is missing: {FIRST}"
                )
        self.differentiable = True

    def check_resolution(
        self,
        setting: tuple[str, float],
        at: Tensors,
        moved: Tensors,
        by: Tensors,
        scale: float | Tensor,
        hyper: Tensors,
    ) -> None:
        """ValueError if most of a perturbation scale * by is lost in rounding (16-bit parameters),
        or differences of gradients by 16-bit hyperparameters would be.
        setting: name and value of what sets its size; checked once with a perturbation above 0."""
        for name, tensor in hyper.items():
            if torch.finfo(tensor.dtype).bits < 32:
                raise ValueError(
                    f"hyper[{name!r}] is {_type(tensor)}, which does not resolve the difference of "
                    "two gradients: keep hyperparameters in float32 and use torch.autocast inside "
                    "the losses, or take T1T2"
                )
        if low := [n for n, t in at.items() if torch.finfo(t.dtype).bits < 32]:
            wanted = flat({n: scale * by[n].float() for n in low})
            lost = (flat({n: moved[n].float() - at[n].float() for n in low}) - wanted).norm()
            if lost > 0.5 * wanted.norm():
                name, value = setting
                raise ValueError(
                    f"{name} = {value:g} is below what {_type(at[low[0]])} parameters resolve: "
                    f"rounding takes {(lost / wanted.norm()).item():.0%} of the perturbation; "
                    f"raise {name}, or keep the parameters in float32 and use torch.autocast "
                    "inside the losses"
                )
            if not wanted.any():
                return
        self.resolved.add(setting)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
    """All nodes of a tensor's graph, and the leaves that it leads to."""
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


def _tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors of a batch: in mappings, sequences, and attributes of objects."""
    if isinstance(value, Tensor):
        yield value
    elif depth and not isinstance(value, nn.Module | str | bytes):
        if isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, list | tuple):
            parts = list(value)
        else:
            parts = list(vars(value).values()) if dataclasses.is_dataclass(value) else []
        for part in parts:
            yield from _tensors_in(part, depth - 1)


class _Kept:
    """Tensors that losses must not change in place, by what they are."""

    def __init__(self, kinds: Mapping[str, Any]) -> None:
        self.tensors = [
            (what, t, t._version, t.detach().clone() if what == "a batch" else None)
            for what, values in kinds.items()
            for t in _tensors_in(values)
            if not t.is_inference()
        ]

    def check(self, name: str) -> None:
        """ValueError if a tensor has changed; a batch is put back."""
        changed = ""
        for what, tensor, version, before in self.tensors:
            if tensor._version != version:
                changed = changed or what
                if before is not None:
                    with torch.no_grad():
                        tensor.copy_(before)
        if changed:
            remedy = "copy it first, as x = x.clone() or x = x - 1 do"
            if changed == "parameters":
                remedy = "do so outside of the loss (Embedding: max_norm=None)"
            raise ValueError(f"{name} changes {changed} in place: {remedy}")


class _Seen:
    """What an evaluation used: buffers, by id, as they were before; modules with their mode at
    their first call; whether it checkpoints."""

    def __init__(self) -> None:
        self.buffers: dict[int, tuple[nn.Module, str, Tensor, Tensor]] = {}
        self.modes: dict[int, tuple[nn.Module, bool]] = {}
        self.checkpoints = False


@contextmanager
def _watched(name: str) -> Iterator[_Seen]:
    """What is used in the block; ValueError for a GradScaler."""
    seen = _Seen()
    scale, checkpoint = torch.amp.GradScaler.scale, torch.utils.checkpoint._checkpoint_hook
    begin = checkpoint.__init__

    def note(module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        seen.modes.setdefault(id(module), (module, module.training))
        for key, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in seen.buffers:
                seen.buffers[id(buffer)] = (module, key, buffer, buffer.detach().clone())

    def refuse(self: torch.amp.GradScaler, outputs: Any) -> Any:
        if not self.is_enabled():
            return scale(self, outputs)
        raise ValueError(
            f"{name} is scaled by a GradScaler: return the loss unscaled, since the hypergradient "
            "would be scaled with it, and EvoGrad's softmax changed; the scaler belongs to the "
            "model's own step"
        )

    def begun(*arguments: Any) -> None:
        seen.checkpoints = True
        begin(*arguments)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    setattr(torch.amp.GradScaler, "scale", refuse)  # noqa: B010
    setattr(checkpoint, "__init__", begun)  # noqa: B010
    try:
        yield seen
    finally:
        handle.remove()
        setattr(torch.amp.GradScaler, "scale", scale)  # noqa: B010
        setattr(checkpoint, "__init__", begin)  # noqa: B010


_examined: dict[int, tuple[weakref.ref[Any], Examination]] = {}


def examination_of(problem: Any) -> Examination:
    """The problem's examination, kept as long as it lives; a new one, not passed, at first."""
    known = _examined.get(id(problem))
    if known is not None and known[0]() is problem:
        return known[1]
    names = getattr(problem, "loss_names", None)
    try:
        weakref.ref(problem)
    except TypeError:  # its function stands for it
        problem = getattr(problem.inner_loss, "__func__", problem.inner_loss)
    key = id(problem)
    if key not in _examined or _examined[key][0]() is not problem:
        drop = weakref.ref(problem, lambda _: _examined.pop(key, None))
        _examined[key] = (drop, Examination(names))
    return _examined[key][1]
