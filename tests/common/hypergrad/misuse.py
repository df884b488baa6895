"""Ordinary mistakes, and what comes of them: an error that names cause and remedy, or the number.

``python -m tests.common.hypergrad.misuse`` writes the table docs/misuse.md by making every mistake
with every estimator; test_misuse.py makes them again and compares.
"""

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from common.estimators import ESTIMATORS
from tests.common.hypergrad.problems import inner_batch_for, small

PAGE = Path(__file__).resolve().parents[3] / "docs" / "misuse.md"
ERROR, RIGHT, APART = "error", "right", "–"
WIDE = {"sigma": 0.1, "radius": 0.1, "temperature": 1.0}


class Tiny:
    """A network whose samples are weighted by lambda, which also enters the outer loss."""

    def __init__(self, network: nn.Module | None = None, dtype: torch.dtype = torch.float64):
        torch.manual_seed(0)
        self.network = network or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.network.to(dtype)
        self.params = dict(self.network.named_parameters())
        self.hyper = {"logits": torch.randn(6, dtype=dtype).requires_grad_()}
        self.batch = torch.randn(6, 3, dtype=dtype), torch.randn(6, 1, dtype=dtype)

    def call(self, params, inputs):
        buffers = {n: b.clone() for n, b in self.network.named_buffers()}
        return functional_call(self.network, (dict(params), buffers), (inputs,))

    def losses(self, params, batch):
        return (self.call(params, batch[0]) - batch[1]).square().mean(dim=1)

    def inner_loss(self, params, hyper, batch):
        losses = self.losses(params, batch)
        return torch.softmax(hyper["logits"], 0).to(losses.dtype) @ losses

    def outer_loss(self, params, hyper, batch):
        return self.losses(params, batch).mean() + 0.1 * hyper["logits"].square().sum()

    def run(self, name: str, params=None, **settings):
        """The hypergradient by one estimator, always with the same seed, as one vector."""
        estimator = small(ESTIMATORS[name], **settings)
        result = estimator(
            self,
            self.params if params is None else params,
            self.hyper,
            inner_batch_for(estimator, self.batch),
            self.batch,
            torch.Generator().manual_seed(1),
        )
        return torch.cat([g.reshape(-1).double() for g in result.grads.values()])


def wrong_losses(change: Callable, which: str) -> Callable[[str], None]:
    """A problem one of whose losses returns something else."""

    def make(name: str) -> None:
        problem = Tiny()
        loss = getattr(problem, which)
        setattr(problem, which, lambda *arguments: change(loss(*arguments)))
        problem.run(name)

    return make


def module_itself(which: str, frozen: bool = False) -> Callable[[str], None]:
    def make(name: str) -> None:
        problem = Tiny()
        loss, params = getattr(problem, which), problem.params
        setattr(problem, which, lambda _, hyper, batch: loss(params, hyper, batch))
        if frozen:
            problem.params = {n: p.detach().clone() for n, p in params.items()}
            problem.network.requires_grad_(False)
            problem.outer_loss = lambda params, hyper, batch: problem.losses(params, batch).mean()
            if which == "outer_loss":
                problem.outer_loss = lambda _, hyper, batch: problem.losses(params, batch).mean()
        problem.run(name)

    return make


def own_hyper(name: str) -> None:
    problem, own = Tiny(), Tiny()
    problem.inner_loss = lambda params, hyper, batch: own.inner_loss(params, problem.hyper, batch)
    problem.run(name)


def unused_hyper(name: str) -> None:
    problem = Tiny()
    problem.inner_loss = lambda params, hyper, batch: problem.losses(params, batch).sum()
    problem.outer_loss = lambda params, hyper, batch: problem.losses(params, batch).mean()
    problem.run(name)


@functools.cache
def compiled_problem(which: str) -> Tiny:
    problem = Tiny()
    setattr(problem, which, torch.compile(getattr(problem, which), backend="aot_eager"))
    return problem


def compiled(which: str) -> Callable[[str], None]:
    def make(name: str) -> None:
        torch.testing.assert_close(compiled_problem(which).run(name), Tiny().run(name))

    return make


def frozen_parameters(name: str) -> None:
    """Beside a problem whose only parameters are the others."""
    problem, alone = Tiny(), Tiny()
    frozen = {n: p.detach() for n, p in problem.params.items() if n.startswith("0.")}
    trained = {n: p for n, p in alone.params.items() if n not in frozen}
    for loss in ("inner_loss", "outer_loss"):
        whole = getattr(alone, loss)
        setattr(alone, loss, lambda p, h, b, whole=whole: whole({**frozen, **p}, h, b))
    expected = alone.run(name, trained)
    problem.network[0].requires_grad_(False)
    torch.testing.assert_close(problem.run(name), expected)


def own_buffers(name: str) -> None:
    problem = Tiny(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    before = copy.deepcopy(problem.network.state_dict())
    problem.call = lambda params, x: functional_call(problem.network, dict(params), (x,))
    try:
        problem.run(name)
    finally:
        for key, value in problem.network.state_dict().items():
            assert torch.equal(value, before[key])


def own_buffers_later(name: str) -> None:
    """Evaluation mode at first, when nothing moves."""
    problem = Tiny(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    problem.call = lambda params, x: functional_call(problem.network, dict(params), (x,))
    problem.network.eval()
    problem.run(name)
    problem.network.train()
    problem.run(name)


def infinite_hypergradient(name: str) -> None:
    problem = Tiny()
    problem.hyper = {"h": torch.zeros((), dtype=torch.float64)}
    problem.inner_loss = lambda p, h, batch: problem.losses(p, batch).mean() * (1 + h["h"].sqrt())
    problem.outer_loss = lambda p, h, batch: problem.losses(p, batch).mean()
    problem.run(name)


def inner_lr(make_lr: Callable) -> Callable[[str], None]:
    def make(name: str) -> None:
        Tiny().run(name, inner_lr=make_lr())

    return make


def within(mode: Callable) -> Callable[[str], None]:
    def make(name: str) -> None:
        expected, problem = Tiny().run(name), Tiny()
        with mode():
            found = problem.run(name)
        torch.testing.assert_close(found, expected)

    return make


def inference_parameters(name: str) -> None:
    expected, problem = Tiny().run(name), Tiny()
    with torch.inference_mode():
        params = {n: p.clone() for n, p in problem.params.items()}
    torch.testing.assert_close(problem.run(name, params), expected)


def autocast_around(name: str) -> None:
    problem = Tiny(dtype=torch.float32)
    inside = Tiny(dtype=torch.float32)
    for loss in ("inner_loss", "outer_loss"):
        setattr(inside, loss, torch.autocast("cpu", torch.bfloat16)(getattr(inside, loss)))
    expected = inside.run(name, **WIDE)
    with torch.autocast("cpu", torch.bfloat16):
        found = problem.run(name, **WIDE)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def parameters_as(kind: Callable) -> Callable[[str], None]:
    def make(name: str) -> None:
        problem = Tiny()
        problem.run(name, kind(problem.network))

    return make


def sparse_gradients(name: str) -> None:
    def problem(sparse: bool) -> Tiny:
        torch.manual_seed(0)
        found = Tiny(nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Tanh(), nn.Linear(3, 1)))
        found.batch = torch.arange(6) % 4, found.batch[1]
        return found

    expected = problem(False).run(name)
    torch.testing.assert_close(problem(True).run(name), expected)


def meta_parameters(name: str) -> None:
    problem = Tiny()
    problem.run(name, {n: p.to("meta") for n, p in problem.params.items()})


class Cast(nn.Module):
    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x):
        return self.layer(x.to(self.dtype))


def mixed_types(name: str) -> None:
    """A bf16 layer between float32 ones, beside the same numbers in float32."""
    tiny = Tiny(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)))
    tiny = Tiny(tiny.network, torch.float32)
    tiny.network[0].weight.data = tiny.network[0].weight.data.bfloat16().float()
    tiny.network[0].bias.data = tiny.network[0].bias.data.bfloat16().float()
    expected = tiny.run(name, **WIDE)
    layers = list(copy.deepcopy(tiny.network))
    layers[0] = Cast(layers[0].bfloat16(), torch.bfloat16)
    layers[1] = Cast(layers[1], torch.float32)
    mixed = copy.copy(tiny)
    mixed.network = nn.Sequential(*layers)
    mixed.params = dict(mixed.network.named_parameters())
    assert {p.dtype for p in mixed.params.values()} == {torch.bfloat16, torch.float32}
    found = mixed.run(name, **WIDE)
    assert (found - expected).norm() < 0.02 * expected.norm()


def scaled_by_a_scaler(which: str) -> Callable[[str], None]:
    scaler = torch.amp.GradScaler("cpu")
    return wrong_losses(lambda loss: scaler.scale(loss), which)


def unrepeatable(which: str) -> Callable[[str], None]:
    """Mixup's weight from numpy, as timm and others draw it."""
    drawn = np.random.default_rng(0)
    return wrong_losses(lambda loss: drawn.beta(0.5, 0.5) * loss, which)


def batch_in_place(name: str) -> None:
    problem = Tiny()
    before = problem.batch[0].clone()
    loss = problem.inner_loss
    problem.inner_loss = lambda p, h, b: loss(p, h, (b[0].sub_(1).div_(3), b[1]))
    try:
        problem.run(name)
    finally:
        assert torch.equal(problem.batch[0], before)


def eval_in_one_loss(name: str) -> None:
    problem = Tiny(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    loss = problem.outer_loss
    problem.outer_loss = lambda p, h, b: (problem.network.eval(), loss(p, h, b))[1]
    try:
        problem.run(name)
    finally:
        assert problem.network.training


def checkpointing(reentrant: bool) -> Callable[[str], None]:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh())

        def forward(self, x):
            x = x * torch.ones((), dtype=x.dtype, requires_grad=True)
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    def make(name: str) -> None:
        Tiny(nn.Sequential(Block(), nn.Linear(4, 1))).run(name)

    return make


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class WithoutJvp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class Layer(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def beside(layer: Callable, written: Callable) -> Callable[[str], None]:
    """A network with a layer, where it is right: beside the same layer of other operations."""

    def problem(make: Callable) -> Tiny:
        torch.manual_seed(0)
        found = make if isinstance(make, type) else Layer(make)
        middle = found() if isinstance(found, type) else found
        return Tiny(nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, 1)))

    def make(name: str) -> None:
        settings = {"damping": 50.0, "radius": 1e-4}
        expected = problem(written).run(name, **settings)
        torch.testing.assert_close(
            problem(layer).run(name, **settings), expected, rtol=1e-5, atol=1e-9
        )

    return make


POINTS = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4).sin()


def distances(x):
    return (x[:, None] - POINTS).square().sum(-1).sqrt()


def sampled(x):
    """Images of four pixels, each at places that depend on it."""
    images, grid = x.view(-1, 1, 2, 2), torch.stack([x.tanh(), x.sin()], -1).view(-1, 2, 2, 2)
    return nn.functional.grid_sample(images, grid, align_corners=False).flatten(1)


def sampled_written_out(x):
    places = torch.stack([x.tanh(), x.sin()], -1) + 0.5  # in pixels: ((g + 1) 2 - 1) / 2
    near = (1 - (places[..., None] - torch.arange(2.0, dtype=x.dtype)).abs()).relu()
    return torch.einsum("byx,bkx,bky->bk", x.view(-1, 2, 2), near[:, :, 0], near[:, :, 1])


class Spectral(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        torch.nn.utils.parametrizations.spectral_norm(self)


class SpectralWrittenOut(Spectral):
    """The same parameters and buffers, and a power iteration of new tensors."""

    def forward(self, x):
        found = self.parametrizations.weight
        weight, u, v = found.original, found[0]._u, found[0]._v
        with torch.no_grad():
            u = nn.functional.normalize(weight @ v, dim=0)
            v = nn.functional.normalize(weight.T @ u, dim=0)
        return nn.functional.linear(x, weight / (u @ weight @ v), self.bias)


class WrittenOut(nn.Linear):
    """weight_norm written out."""

    def forward(self, x):
        v = self.weight
        return nn.functional.linear(x, v / v.norm(dim=1, keepdim=True) * self.g, self.bias)


def weight_norm(name: str) -> None:
    problem, written = Tiny(), Tiny()
    layer = WrittenOut(3, 4).double()
    layer.load_state_dict(problem.network[0].state_dict())
    layer.g = nn.Parameter(layer.weight.detach().norm(dim=1, keepdim=True))
    written.network[0] = layer
    torch.nn.utils.parametrizations.weight_norm(problem.network[0])
    problem.params = dict(problem.network.named_parameters())
    order = {"0.bias": "0.bias", "0.parametrizations.weight.original0": "0.g"}
    order |= {"0.parametrizations.weight.original1": "0.weight"}
    named = dict(written.network.named_parameters())
    written.params = {order.get(n, n): named[order.get(n, n)] for n in problem.params}
    every = {"layers": lambda layer: True}  # whose names differ
    torch.testing.assert_close(problem.run(name, **every), written.run(name, **every))


def determinant(name: str) -> None:
    """lambda inside a log-determinant: the ways to one number agree."""

    def problem() -> Tiny:
        tiny = Tiny()

        def inner_loss(params, hyper, batch):
            a = params["0.weight"]
            return (a @ a.mT + torch.diag(hyper["logits"][:4].exp())).logdet()

        tiny.inner_loss = inner_loss
        return tiny

    found = problem().run(name, damping=50.0, layers=2)
    if name.startswith("t1t2"):
        torch.testing.assert_close(found, problem().run("t1t2"))


def closed_over(name: str) -> None:
    problem = Tiny()
    loss, hyper = problem.inner_loss, {n: h.detach() for n, h in problem.hyper.items()}
    problem.inner_loss = lambda params, _, batch: loss(params, hyper, batch)
    problem.run(name)


def low_precision_hyper(name: str) -> None:
    problem = Tiny(dtype=torch.float32)
    problem.hyper = {n: h.detach().bfloat16() for n, h in problem.hyper.items()}
    problem.run(name)


def gradient_hooks(name: str) -> None:
    problem = Tiny()
    problem.network[0].weight.register_hook(lambda grad: grad * torch.tensor([[1.0, 0.0, 0.0]]))
    problem.run(name)


def renormalised_embedding(name: str) -> None:
    problem = Tiny(nn.Sequential(nn.Embedding(5, 3, max_norm=0.1), nn.Linear(3, 1)))
    problem.batch = torch.arange(6) % 4, problem.batch[1]
    before = problem.network[0].weight.detach().clone()
    try:
        problem.run(name)
    finally:
        assert torch.equal(problem.network[0].weight, before)


def fused_attention(name: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(1, 16), nn.Linear(16, 1)

        def forward(self, x):
            x = self.embed(x[:, :, None])[:, None]
            x = nn.functional.scaled_dot_product_attention(x, x, x)
            return self.out(x.mean(dim=(1, 2)))

    def problem() -> Tiny:
        torch.manual_seed(0)
        return Tiny(Attention(), torch.float32)

    with sdpa_kernel(SDPBackend.MATH):
        expected = problem().run(name, **WIDE) if name != "t1t2_forward" else None
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = problem().run(name, **WIDE)
    if expected is not None:
        assert (found - expected).norm() < 1e-2 * expected.norm()


def one_batch_for_two_steps(name: str) -> None:
    problem, estimator = Tiny(), small(ESTIMATORS[name], steps=2)
    estimator(problem, problem.params, problem.hyper, problem.batch, problem.batch)


def unresolved(name: str) -> None:
    problem = Tiny(dtype=torch.bfloat16)
    problem.run(name, sigma=1e-4, radius=1e-3)


@dataclass(frozen=True)
class Misuse:
    """words: as in the table. make: makes it with an estimator. message: pattern of the error's.
    concerns: options of estimators that it is about; none is all estimators."""

    words: str
    make: Callable[[str], None]
    message: str = ""
    concerns: tuple[str, ...] = ()

    def outcome(self, name: str) -> str:
        """What comes of it; any other exception, or number, passes through."""
        if self.concerns and not set(self.concerns) & set(ESTIMATORS[name].options):
            return APART
        try:
            self.make(name)
        except (ValueError, TypeError) as error:
            if not self.message or not re.search(self.message, str(error)):
                raise
            return ERROR
        return RIGHT


def _both(words: str, make: Callable, message: str) -> list[Misuse]:
    return [Misuse(f"{w} {words}", make(w), message) for w in ("inner_loss", "outer_loss")]


SCALAR, HANDED = "must return a scalar tensor", "functional_call"
MISUSES = [
    *_both("of shape (N,)", lambda w: wrong_losses(lambda x: x.expand(6), w), SCALAR),
    *_both("returns a tuple", lambda w: wrong_losses(lambda x: (x, None), w), SCALAR),
    *_both("returns a float", lambda w: wrong_losses(lambda x: x.item(), w), SCALAR),
    *_both("calls the module itself", module_itself, HANDED),
    *_both("calls a frozen module itself", lambda w: module_itself(w, True), HANDED),
    Misuse("hyperparameters held elsewhere used, not those handed over", own_hyper, HANDED),
    Misuse("hyperparameters that no loss uses", unused_hyper, "depends? on any hyperparameter"),
    *_both("under torch.compile", compiled, "uncompiled"),
    Misuse("frozen parameters among the others", frozen_parameters),
    Misuse("batch norm's buffers not cloned", own_buffers, "own buffer"),
    Misuse("the same, in evaluation mode at first", own_buffers_later, "own buffer"),
    *_both("is not a number", lambda w: wrong_losses(lambda x: x * torch.nan, w), "not finite"),
    *_both("is infinite", lambda w: wrong_losses(lambda x: x / 0, w), "not finite"),
    Misuse("the hypergradient is infinite", infinite_hypergradient, "not finite"),
    *(
        Misuse(f"inner_lr is {words}", inner_lr(make), message, ("inner_lr",))
        for words, make, message in (
            ("a tensor that requires a gradient", lambda: torch.ones((), requires_grad=True),
             "put it into the inner loss"),
            ("an optimiser of other parameters", lambda: torch.optim.SGD([torch.ones(1)], 0.1),
             "param_groups|holds none of the parameters|momentum of its own"),
            ("a string", lambda: "0.1", "must be a number"),
            ("a function that returns no number", lambda: lambda: None, "must be a number"),
        )
    ),
    Misuse("called under torch.no_grad", within(torch.no_grad)),
    Misuse("called under torch.inference_mode", within(torch.inference_mode)),
    Misuse("parameters made in inference mode", inference_parameters),
    Misuse("called under torch.autocast", autocast_around),
    Misuse("parameters as a list", parameters_as(lambda net: list(net.parameters())), "by name"),
    Misuse("parameters as an iterator", parameters_as(lambda net: net.named_parameters()),
           "by name"),
    Misuse("parameters as a module", parameters_as(lambda net: net), "by name"),
    Misuse("parameters on the meta device", meta_parameters, "meta device"),
    Misuse("sparse gradients", sparse_gradients, "sparse"),
    Misuse("bfloat16 layers among float32 ones", mixed_types),
    *_both("scaled by a GradScaler", scaled_by_a_scaler, "unscaled"),
    *_both("draws from numpy", unrepeatable, "differs when it is evaluated again"),
    Misuse("inner_loss changes its batch in place", batch_in_place, "batch in place"),
    Misuse("outer_loss calls eval(), inner_loss nothing", eval_in_one_loss, "changes the mode"),
    Misuse("gradient checkpointing", checkpointing(False), "checkpointing"),
    Misuse("reentrant gradient checkpointing", checkpointing(True), "checkpointing"),
    Misuse("a function marked once_differentiable", beside(OnceDifferentiable.apply, torch.sin),
           "once_differentiable|setup_context|forward-mode"),
    Misuse("a custom Function without jvp and setup_context", beside(WithoutJvp.apply, torch.sin),
           "setup_context|has no jvp.* use T1T2"),
    Misuse("hardsigmoid", beside(nn.functional.hardsigmoid, lambda x: (x / 6 + 0.5).clamp(0, 1)),
           "no second derivative of hardsigmoid.* first derivatives"),
    Misuse("cdist", beside(lambda x: torch.cdist(x, POINTS), distances),
           "no .* derivative of _cdist.* first derivatives"),
    Misuse("grid_sample", beside(sampled, sampled_written_out),
           "no forward-mode derivative of grid_sampler_2d; use T1T2"),
    Misuse("spectral_norm", beside(Spectral, SpectralWrittenOut),
           "no forward-mode derivative of div_out; use T1T2"),
    Misuse("torch's weight_norm", weight_norm, "weight_norm"),
    Misuse("hyperparameters in a log-determinant", determinant, "use T1T2"),
    Misuse("inner_loss closes over detached hyperparameters", closed_over,
           "inner_loss does not depend"),
    Misuse("bfloat16 hyperparameters", low_precision_hyper, "float32", ("sigma", "radius")),
    Misuse("gradient hooks on parameters", gradient_hooks, "gradient hook"),
    Misuse("Embedding with max_norm", renormalised_embedding, "parameters in place"),
    Misuse("fused attention", fused_attention, "MATH"),
    Misuse("one batch (x, y) for two steps", one_batch_for_two_steps, "one batch", ("steps",)),
    Misuse("bfloat16 parameters that cannot resolve sigma or radius", unresolved, "resolve",
           ("sigma", "radius")),
]  # fmt: skip


def page(outcomes: dict[str, list[str]]) -> str:
    """The table; outcomes: by the misuse's words, in the order of the registry."""
    numbers = [f"{i}" for i in range(1, len(ESTIMATORS) + 1)]
    lines = [
        "# Mistakes and their outcome",
        "",
        "Every estimator, used in each of these ways, raises an error that names the cause and the",
        "remedy (error), or returns the number of the right use (right); – where the mistake does",
        "not concern it. The tests make every one of them. Written by",
        "`python -m tests.common.hypergrad.misuse`.",
        "",
        "Estimators: "
        + ", ".join(f"{i} `{name}`" for i, name in zip(numbers, ESTIMATORS, strict=True))
        + ".",
        "",
        "| mistake | " + " | ".join(numbers) + " |",
        "|---" * (len(numbers) + 1) + "|",
    ]
    lines += [f"| {words} | {' | '.join(cells)} |" for words, cells in outcomes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page({m.words: [m.outcome(n) for n in ESTIMATORS] for m in MISUSES}))
