"""Checks for mistakes that give a wrong hypergradient without an error.

Mappings, scalars and, on a CPU, finite values are looked for at every call. The first call with a
problem has an ``Examination``: both losses are evaluated twice, without keeping activations, and
their graphs and modules looked at, so it costs four forwards more.
"""

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_iter

from .problem import Tensors, flat
from .torch_errors import FIRST, checkpoint_remedy

if TYPE_CHECKING:
    from .base import Point

BY_THETA = "a second derivative by theta"


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
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(
                f"{what}[{name!r}] must be dense and floating-point, and not on the meta device "
                "(model.to_empty(device=...), then load its weights), got "
                f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
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


@dataclass
class Examination:
    """What the evaluations of a problem tell about it.

    names: of the losses, as the caller knows them. functional: the caller wrote losses of tensors,
    not of modules. passed: nothing was wrong. inner_depends, outer_depends: whether a loss depends
    on lambda. nodes: names of those in the losses' graphs.
    buffers: the modules' own that the losses used, by "name of Module", and their versions; a loss
    must not change them. resolved: settings whose perturbations survive rounding.
    differentiable: functions that cannot be differentiated twice have been looked for.
    """

    names: Mapping[str, str]
    functional: bool
    passed: bool = False
    inner_depends: bool = False
    outer_depends: bool = False
    differentiable: bool = False
    nodes: dict[str, str] = field(default_factory=dict)
    buffers: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    resolved: set[tuple[str, float]] = field(default_factory=set)

    def examine(self, at: "Point") -> None:
        """Evaluates both losses twice, at copies of theta; ValueError for a mistake."""
        for name, param in at.params.items():
            if param._backward_hooks:
                raise ValueError(
                    f"params[{name!r}] has a gradient hook, which a hypergradient does not see: "
                    "remove it, and freeze parameters or rows inside the losses instead"
                )
        theta = {n: t.clone().requires_grad_() for n, t in at.theta.items()}
        batches = [
            (t, t._version, t.detach().clone())
            for t in _tensors_in((at.inner_batches, at.outer_batch))
            if not t.is_inference()
        ]
        own = [(t, t._version) for t in (*theta.values(), *at.values.values())]
        modes: dict[str, dict[nn.Module, bool]] = {}
        first: dict[str, float] = {}
        for which, loss_at in 2 * [("inner_loss", at.inner_loss), ("outer_loss", at.outer_loss)]:
            name = self.names[which]
            with _watched(name) as seen:
                try:  # with a graph to look at, not to differentiate: nothing is saved in it
                    with saved_tensors_hooks(lambda tensor: None, _nothing_saved):
                        loss = loss_at(theta)
                except RuntimeError:  # the loss takes gradients itself, or uses torch.func
                    loss = loss_at(theta)
            changed = [(t, before) for t, version, before in batches if t._version != version]
            for tensor, before in changed:
                with torch.no_grad():
                    tensor.copy_(before)
            if changed:
                remedy = "copy it first, as x = x.clone() or x = x - 1 do"
                raise ValueError(f"{name} changes a batch in place: {remedy}")
            if any(t._version != version for t, version in own):
                remedy = "do so outside of the loss (Embedding: max_norm=None)"
                raise ValueError(f"{name} changes parameters in place: {remedy}")
            moved = []
            for module, key, buffer, before in seen.buffers.values():
                if module._buffers.get(key) is buffer:  # else functional_call had put a clone there
                    label = f"{key} of {type(module).__name__}"
                    if not torch.equal(buffer, before):
                        moved.append(label)
                        with torch.no_grad():
                            buffer.copy_(before)
                    self.buffers[f"{label} {id(module)}"] = buffer, buffer._version
            if moved:
                raise ValueError(self.moved(name, moved[0]))
            if which not in first:
                first[which], modes[which] = loss.item(), seen.modes
                self._look_at(which, loss, at, theta)
                if seen.checkpoints or "CheckpointFunctionBackward" in self.nodes[which]:
                    raise ValueError(checkpoint_remedy(name))
                continue
            changing = [m for m, mode in seen.modes.items() if modes[which].get(m, mode) != mode]
            for module, mode in modes["inner_loss"].items():
                module.training = mode
            if changing:
                raise ValueError(
                    f"a loss changes the mode of {type(changing[0]).__name__} (train or eval) for "
                    "the other: call model.train() or model.eval() in both losses, or in neither"
                )
            info, a, b = torch.finfo(loss.dtype), first[which], loss.item()
            near = info.eps * (1000 if info.bits >= 32 else 4) * max(abs(a), abs(b))
            if not (abs(a - b) <= near or a == b or (math.isnan(a) and math.isnan(b))):
                raise ValueError(
                    f"{name} differs when it is evaluated again at the same parameters, "
                    f"seed and batch ({a:.7g}, then {b:.7g}): take randomness from torch's global "
                    "generators (not numpy, random or a torch.Generator of its own), draw batches "
                    "outside of the loss, and change nothing in it"
                )
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

    def _look_at(self, which: str, loss: Tensor, at: "Point", theta: Tensors) -> None:
        """ValueError unless the loss's graph leads to what it was given, and to nothing else of
        the caller's."""
        nodes, leaf_tensors = graph_of(loss)
        self.nodes[which] = " ".join(sorted({node.name() for node in nodes}))
        found = {id(t) for t in leaf_tensors}
        originals = [*at.values.values(), *at.hyper_values.values()]
        own = {t.data_ptr() for t in originals if t.numel()}
        given = {id(t) for t in (*theta.values(), *at.hyper.values())}
        foreign = [t for t in leaf_tensors if id(t) not in given]
        depends = any(id(h) in found for h in at.hyper.values())
        unused = not any(id(t) in found for t in theta.values())
        # L_V may be a function of lambda alone.
        useless = unused and (which == "inner_loss" or bool(foreign) or not depends)
        if useless or any(t.data_ptr() in own for t in foreign):
            remedy = "call the model and use the hyperparameters that the loss is handed"
            if self.functional:
                remedy = (
                    "call the network by torch.func.functional_call(model, params, inputs), not by "
                    "model(inputs), likewise networks of hyperparameters"
                )
            raise ValueError(
                f"{self.names[which]} does not use the tensors that it is handed but others, so it "
                f"is constant to the estimator: {remedy}, and detach nothing on the way"
            )
        if which == "inner_loss":
            self.inner_depends = depends
        else:
            self.outer_depends = depends

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

    def need(self, derivative: str, which: str = "inner_loss") -> None:
        """ValueError if torch lacks the derivative of a loss, or gives a wrong one."""
        nodes, name = self.nodes.get(which, ""), self.names[which]
        if "CompiledFunction" in nodes:
            raise ValueError(
                f"this estimator needs {derivative} of {name}, which a loss compiled by "
                f"torch.compile does not have: hand over the loss uncompiled, or {FIRST}"
            )
        if derivative == BY_THETA and "WeightNorm" in nodes:
            raise ValueError(
                f"{name} uses torch's weight_norm, whose second derivative is wrong: write "
                f"g * v / v.norm(...) out, or take T1T2, or {FIRST}"
            )

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
        low_hyper, low = (
            {n: str(t.dtype).removeprefix("torch.") for n, t in tensors.items() if t.itemsize < 4}
            for tensors in (hyper, at)
        )
        for name, dtype in low_hyper.items():
            raise ValueError(
                f"hyper[{name!r}] is {dtype}, which does not resolve the difference of two "
                "gradients: keep hyperparameters in float32 and use torch.autocast inside the "
                "losses, or take T1T2"
            )
        if low:
            wanted = flat({n: scale * by[n].float() for n in low})
            lost = (flat({n: moved[n].float() - at[n].float() for n in low}) - wanted).norm()
            if lost > 0.5 * wanted.norm():
                name, value = setting
                raise ValueError(
                    f"{name} = {value:g} is below what {next(iter(low.values()))} parameters "
                    f"resolve: rounding takes {(lost / wanted.norm()).item():.0%} of the "
                    f"perturbation; raise {name}, or keep the parameters in float32 and use "
                    "torch.autocast inside the losses"
                )
            if not wanted.any():
                return
        self.resolved.add(setting)


def _nothing_saved(_: None) -> Tensor:
    raise RuntimeError("nothing was saved")


def _tensors_in(batch: Any) -> Iterator[Tensor]:
    """The tensors in mappings, sequences and dataclasses."""
    for value in tree_iter(batch, is_dataclass):
        if is_dataclass(value):
            yield from _tensors_in([getattr(value, f.name, None) for f in fields(value)])
        elif isinstance(value, Tensor):
            yield value


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


@dataclass
class _Seen:
    """What an evaluation used: buffers, by id, as they were before; the modes of modules at their
    first call; whether it checkpoints."""

    buffers: dict[int, tuple[nn.Module, str, Tensor, Tensor]]
    modes: dict[nn.Module, bool]
    checkpoints: bool = False


@contextmanager
def _watched(name: str) -> Iterator[_Seen]:
    """What is used in the block; ValueError for a GradScaler."""
    seen = _Seen({}, {})

    def note(module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        seen.modes.setdefault(module, module.training)
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

    checkpoint = torch.utils.checkpoint._checkpoint_hook
    scale, begin = torch.amp.GradScaler.scale, checkpoint.__init__
    handle = nn.modules.module.register_module_forward_pre_hook(note)
    with (
        patch.object(torch.amp.GradScaler, "scale", refuse),
        patch.object(checkpoint, "__init__", begun),
    ):
        try:
            yield seen
        finally:
            handle.remove()


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
        own = {"inner_loss": "inner_loss", "outer_loss": "outer_loss"}
        _examined[key] = (drop, Examination(names or own, functional=names is None))
    return _examined[key][1]
