"""Random numbers and torch's modes during a call of an estimator, which leaves no trace in them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Perturbation = Literal["sign", "gaussian"]

AtSeed = Callable[[int], AbstractContextManager[Any]]
"""Seeds torch's global generators; gives the context of a loss, the caller's autocast."""

_NOTHING = nullcontext()


def draw_seeds(count: int, generator: torch.Generator | None) -> list[int]:
    """``count`` seeds from the generator. None is torch's global CPU generator, so that
    ``torch.manual_seed`` makes an estimator reproducible; these draws are its only trace there. A
    CPU generator costs no synchronisation with a GPU."""
    device = "cpu" if generator is None else generator.device
    # Seeds are numbers even where tensors are fake.
    with _disable_current_modes() if torch._C._len_torch_dispatch_stack() else _NOTHING:
        return torch.randint(2**62, (count,), generator=generator, device=device).tolist()


def perturbation(
    kind: Perturbation, scale: float, theta: Mapping[str, Tensor], seed: int
) -> Tensor:
    """scale * sign(N(0, I)) or scale * N(0, I) over all entries of theta, in its widest type.

    Signs are the bits of 31-bit words: on a CPU ten times faster than ``bernoulli_``, which would
    be a tenth of EvoGrad's time on a small network.
    """
    size = sum(t.numel() for t in theta.values())
    device = next(iter(theta.values())).device
    dtype = functools.reduce(torch.promote_types, {t.dtype for t in theta.values()})
    generator = torch.Generator(device).manual_seed(seed)
    if kind == "gaussian":
        vector = torch.empty(size, dtype=dtype, device=device)
        return vector.normal_(generator=generator).mul_(scale)
    words = torch.empty(-(-size // 31), dtype=torch.int32, device=device)
    words.random_(generator=generator)  # uniform on 0 .. 2^31 - 1
    places = torch.arange(31, dtype=torch.int32, device=device)
    bits = (words.unsqueeze(1) >> places).bitwise_and_(1).view(-1)[:size]
    return bits.to(dtype).mul_(2 * scale).sub_(scale)


class _OfModule:
    """The generator of a kind of device that has one only (MPS), by its module's functions."""

    def __init__(self, device: torch.device) -> None:
        module = torch.get_device_module(device)
        try:
            self.get_state, self.set_state = module.get_rng_state, module.set_rng_state
            self.manual_seed = module.manual_seed
        except AttributeError:
            raise ValueError(
                f"the random numbers of device {device} cannot be seeded, since torch.{device.type}"
                " lacks get_rng_state: dropout would differ between evaluations"
            ) from None


def _generator_of(device: torch.device) -> Any:
    generators = getattr(torch.get_device_module(device), "default_generators", None)
    return generators[device.index or 0] if generators else _OfModule(device)


@contextmanager
def own_modes(tensors: Sequence[Tensor]) -> Iterator[AtSeed]:
    """Gradients on, inference mode and autocast off: the caller's autocast is meant for the losses,
    not for sums over parameters. Puts the generators' states back at the end.

    Covers the CPU generator and those of the tensors' devices (CUDA, MPS, XPU); not generators that
    a loss holds itself, nor those of numpy and ``random``, which two evaluations find.
    """
    kind = tensors[0].device.type
    devices = {t.device for t in tensors if not t.is_cpu}
    generators = [torch.default_generator, *map(_generator_of, devices)]
    states = [generator.get_state() for generator in generators]
    autocast = torch.is_autocast_enabled(kind) and (kind, torch.get_autocast_dtype(kind))

    def at_seed(seed: int) -> AbstractContextManager[Any]:
        for generator in generators:
            generator.manual_seed(seed)
        return torch.autocast(*autocast) if autocast else _NOTHING

    try:
        with (
            torch.inference_mode(False) if torch.is_inference_mode_enabled() else _NOTHING,
            torch.autocast(kind, enabled=False) if autocast else _NOTHING,
            torch.enable_grad(),
        ):
            yield at_seed
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
