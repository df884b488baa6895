"""Every experiment and method on a device, against the CPU: the first thing to run on a new kind.

    python -m tests.device.check cuda [EXPERIMENT ...] [--few]

For each method (--few: of rotation, and elsewhere those unlike rotation's): two small epochs on the
CPU; on the device one epoch, its evaluation and its checkpoint, and by another task the second.
"pretended" is a device without hardware (see pretended.py), which must have the CPU's numbers to a
few last digits. A GPU draws other perturbations and masks, so only its first training loss is
compared. Printed for every method: what makes a step wait for the device, and what it copies.
"""

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import metaweightnet.train
import toy_1d.train
from common.errors import UserError
from common.run import History, fit
from common.settings import ROOT
from common.training import choose_device, seed_everything
from rotation.train import LeNet
from tests.experiments import DECLARED, small_settings

TINY: dict[str, dict[str, Any]] = {
    "rotation": {"train_size": 30, "meta_size": 20, "test_size": 20, "batch_size": 10},
    "cross_domain_fewshot": {
        "episodes": 3, "val_episodes": 2, "test_episodes": 2, "pretrain_epochs": 1, "n_query": 2,
        "val_query": 2, "test_query": 2,
    },
    "metaweightnet": {"train_size": 30, "meta_size": 20, "test_size": 20, "batch_size": 10},
    "metaxl": {
        "source_sentences": 12, "target_sentences": 12, "batch_size": 4, "warmup": 0.0,
        "eval_sentences": 4,
    },
}  # fmt: skip
"""Beside those of the tests of experiments; an epoch has three steps."""
UNLIKE = (None, "evograd", "t1t2_forward", "t1t2_mixed")
"""Estimators that rotation lacks, and those whose problem is another in every experiment."""
TOLERANCE = 1e-3
"""Of the device without hardware: sampled differences of losses make much of a last digit."""
DATA_DEPENDENT = {"nonzero", "masked_select", "_unique2", "unique_dim", "equal", "bincount"}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device (wait), and copies between them that need not
    (copy), by the line of this repository that asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        there = any(not t.is_cpu for t in given)
        if name in ("_to_copy", "copy_"):
            source = (given[-1] if name == "copy_" else given[0]).device
            if source != made[0].device:
                late = (kwargs or {}).get("non_blocking") or args[2:3] == (True,)
                self._note("copy" if late and source.type == "cpu" else "wait", name)
        elif there and (name == "_local_scalar_dense" or name in DATA_DEPENDENT):
            self._note("wait", name)
        elif there and name.startswith(("index", "_index")):
            chosen = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor)]
            if any(t.is_cpu or t.dtype in (torch.bool, torch.uint8) for t in chosen):
                self._note("wait", name)
        return result

    def _note(self, kind: str, name: str) -> None:
        frame = sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            inside = path.is_relative_to(ROOT) and ".venv" not in path.parts
            if inside and path.suffix == ".py" and path != Path(__file__):
                where = f"{path.relative_to(ROOT)} {frame.f_code.co_name}"
                self.found[f"{kind} {where} ({name})"] += 1
                return
            frame = frame.f_back
        self.found[f"{kind} ({name})"] += 1


def watched(task: Any, waits: Waits) -> Any:
    """The task, with what its steps wait for counted from the second on: before the first, epochs
    are drawn and problems examined."""
    steps = task.steps

    def counted(epoch: int) -> Iterator[Any]:
        iterator = iter(steps(epoch))
        yield next(iterator)
        while True:
            with waits:
                metrics = next(iterator, None)
            if metrics is None:
                return
            yield metrics

    task.steps = counted
    return task


def trained(name: str, method: str, device: torch.device, folder: Path, waits: Any) -> History:
    """Two epochs; with ``waits``, cut after the first."""
    settings = TINY[name] | {"method": method, "epochs": 2, "log_every": 1}
    if name == "cross_domain_fewshot":
        settings["pretrained_dir"] = folder.parent / "pretrained"
    # implicit_cg: so early in a training the inner Hessian is not positive.
    config = small_settings(name, **settings).changed({"estimator.damping": 100.0})

    def begun() -> Any:
        seed_everything(config.seed)
        task = DECLARED[name].task(config, device)
        seed_everything(config.seed)  # the CPU's generator alone has drawn the networks' starts
        return task

    def fitted(task: Any, epochs: int) -> History:
        return fit(task, epochs, folder / method, config.result_settings(), 1, method)

    if waits is None:
        return fitted(begun(), 2)
    fitted(begun(), 1)
    return fitted(watched(begun(), waits), 2)


def compare(here: Any, there: Any, tolerance: float, where: str = "") -> float:
    """The largest difference of two structures of numbers, relative to the numbers."""
    if isinstance(here, dict):
        assert here.keys() == there.keys(), where
        return max((compare(here[k], there[k], tolerance, f"{where} {k}") for k in here), default=0)
    if isinstance(here, list):
        assert len(here) == len(there), where
        pairs = enumerate(zip(here, there, strict=True))
        return max((compare(a, b, tolerance, f"{where} {n}") for n, (a, b) in pairs), default=0)
    difference = abs(here - there) / max(abs(here), 1e-4)
    assert difference <= tolerance, f"{where}: {there} on the device, {here} on the CPU"
    return difference


def check_method(name: str, method: str, device: torch.device, folder: Path) -> str:
    """The largest difference from the CPU, and what a step waits for; AssertionError where the
    numbers are not the CPU's."""
    if name == "toy_1d":
        config = replace(small_settings(name), lambdas=4, trials=3)
        pair = (toy_1d.train.estimates(config, place) for place in (torch.device("cpu"), device))
        return f"{compare(*pair, 1e-9):.0e}"
    waits = Waits()
    here = trained(name, method, torch.device("cpu"), folder / "cpu", None)
    there = trained(name, method, device, folder / device.type, waits)
    if device.type == "cuda":
        first = [h.traces["train_loss"][0] for h in (here, there)]
        largest = compare(*first, 1e-3, "first training loss")
    else:
        largest = compare(here.traces, there.traces, TOLERANCE, "traces")
        largest = max(largest, compare(here.epochs, there.epochs, TOLERANCE, "epochs"))
    steps = len(here.traces["iteration"]) // 2 - 1
    counts = [f"{count / steps:g} {what}" for what, count in sorted(waits.found.items())]
    return f"{largest:.0e}; in a step: {', '.join(counts) or 'nothing'}"


def check_mixing(device: torch.device) -> str:
    """Labels that are left on the CPU must be found."""
    network, images = LeNet().to(device), torch.rand(2, 1, 28, 28, device=device)
    try:
        cross_entropy(network(images), torch.tensor([3, 5]))
    except RuntimeError as error:
        assert "same device" in str(error), error
        return "a tensor on the wrong device: found"
    raise AssertionError("a tensor on the wrong device was not found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", help="pretended, cuda or cuda:N")
    parser.add_argument("experiments", nargs="*", default=list(DECLARED))
    parser.add_argument("--few", action="store_true")
    options = parser.parse_args()
    if options.device == "pretended":
        from tests.device.pretended import register

        device = register()
    else:
        device = choose_device(options.device)
    torch.set_num_threads(1)
    metaweightnet.train.FINE_TUNING_STEPS = 2
    print(check_mixing(device), flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.experiments:
            for method, declared in DECLARED[name].methods.items():
                if options.few and name != "rotation" and declared.estimator not in UNLIKE:
                    continue
                try:
                    line = check_method(name, method, device, Path(folder) / name)
                except Exception as error:  # all of them, in one go
                    missing = ("cannot be had", "not found")
                    if isinstance(error, UserError) and any(w in str(error) for w in missing):
                        line = f"left out: {error}"
                    else:
                        traceback.print_exc(file=sys.stdout)
                        failed, line = failed + 1, "FAILED"
                print(f"{name} {method}: {line}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
