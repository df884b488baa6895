"""A second device where there is no GPU: torch's device "pretended", whose code is pretended.cpp.

It has memory and a generator of its own, so that what would fail on a GPU fails on it.
"""

import hashlib
import importlib
import subprocess
import types
from pathlib import Path

import torch
from torch.utils import cpp_extension

from common.files import locked
from common.settings import ROOT

NAME = "pretended"
SOURCE = Path(__file__).with_suffix(".cpp")


def built() -> Path:
    """The library, compiled for this torch the first time (half a minute; needs a compiler)."""
    described = SOURCE.read_bytes() + torch.__version__.encode()
    folder = ROOT / "runs" / "tests"
    library = folder / f"{NAME}-{hashlib.sha256(described).hexdigest()[:12]}.so"
    with locked(folder, patience=300):
        if not library.exists():
            made = library.with_suffix(".tmp")
            # Not optimised: the compiler takes the time.
            command = ["c++", "-shared", "-fPIC", "-std=c++20", "-O0", SOURCE, "-o", made]
            command += [f"-isystem{path}" for path in cpp_extension.include_paths()]
            command += [f"-L{path}" for path in cpp_extension.library_paths()]
            subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
            made.replace(library)
    return library


def register() -> torch.device:
    """Makes the device known to torch, in this process for good."""
    torch.ops.load_library(built())
    torch.utils.rename_privateuse1_backend(NAME)
    # Optimisers as on the CPU: those by lists of tensors, which torch would take, round otherwise.
    for name in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
        importlib.import_module(name)._get_foreach_kernels_supported_devices = list
    generator = torch.ops.pretended.default_generator()
    module = types.ModuleType(f"torch.{NAME}")
    module.__dict__.update(
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda device: None,
        synchronize=lambda device=None: None,
        default_generators=(generator,),
        manual_seed=generator.manual_seed,
        manual_seed_all=generator.manual_seed,
        get_rng_state=lambda device=None: generator.get_state(),
        set_rng_state=lambda state, device=None: generator.set_state(state),
        get_rng_state_all=lambda: [generator.get_state()],
        set_rng_state_all=lambda states: generator.set_state(states[0]),
        get_amp_supported_dtype=lambda: [torch.bfloat16],
    )
    torch._register_device_module(NAME, module)
    return torch.device(NAME, 0)
