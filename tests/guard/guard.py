"""Keeps what the code computes, number by number, and names what a change of the code changes.

    python -m tests.guard.guard                          compare with kept.json.xz
    python -m tests.guard.guard --only rotation metaxl   these parts alone
    python -m tests.guard.guard --update                 keep what the code computes now

The parts: NAME, every method of an experiment with the small settings of the tests; smoke-NAME, its
planned runs of preset smoke; cost-NAME, bytes of steps; fidelity-NAME, rows of the fidelity study.
Settings that went, and names that changed, are listed below; all else must be equal, on the torch
and the CPU that the kept values were made with.
"""

import argparse
import importlib
import io
import json
import lzma
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from common.settings import EstimatorSettings

KEPT = Path(__file__).with_name("kept.json.xz")

# What may differ from the kept values: settings that have gone, new names of others, and new keys.
REMOVED = {
    "tf32", "share_base_step", "evograd_mode", "antithetic", "perturbation", "flip_pairs",
    "split", "network", "head", "stream", "auxiliary", "ft", "common_noise", "inputs",
    "misc_label", "detach_input", "decay", *EstimatorSettings.__dataclass_fields__,
}  # fmt: skip
RENAMED = {
    "sampled_layers": "layers", "neumann_terms": "terms", "cg_iterations": "iterations",
    "cg_damping": "damping",
    **{name: name for name in ("num_candidates", "sigma", "temperature", "radius")},
}  # fmt: skip
"""Settings -> their names among the estimator's."""
ADDED = {"settings.every", "settings.estimator", "settings.protocol", "settings.log_loss"} | {
    f"{place}.{name}_accuracy" for place in ("final", "epochs") for name in ("meta", "fine_tuned")
}
EXPERIMENTS = ("toy_1d", "rotation", "cross_domain_fewshot", "metaweightnet", "metaxl")
COSTS = {  # of the cost study at size small, what takes a minute or two: figures, methods
    "rotation": (["LeNet"], [""]),
    "metaweightnet": (["width 1"], ["evograd num_candidates=2", "t1t2", "t1t2_", "released"]),
}
PARTS = (
    *EXPERIMENTS,
    *(f"smoke-{name}" for name in EXPERIMENTS),
    *(f"cost-{name}" for name in COSTS),
    *(f"fidelity-{name}" for name in ("rotation", "metaweightnet")),
)
_SIZES = ("parameters", "hyperparameters")
Values = dict[str, Any]  # dotted key -> number, text or list


# The project, as far as the guard knows it: each yields names and what is kept of the JSON of them.


def _runs(part: str, folder: Path) -> Iterator[tuple[str, Values]]:
    from common.training import Cost
    from metaxl import pretrain
    from tests.experiments import DECLARED, small_settings

    experiment = DECLARED[part.removeprefix("smoke-")]
    train = importlib.import_module(f"{experiment.name}.train")
    smoke = part.startswith("smoke-")
    small = [] if smoke else [small_settings(part, method=method) for method in experiment.methods]
    methods: list[str] = []
    for config in experiment.planned("smoke") if smoke else small:
        methods.append(config.method)
        name = f"{config.method} {methods.count(config.method)}" if smoke else config.method
        changes: Values = {"device": "cpu", "threads": 1, "run_dir": folder / name}
        if hasattr(config, "pretrained_dir"):
            changes["pretrained_dir"] = folder / "pretrained"
        with (
            patch.object(pretrain, "CACHE", folder / "pretrained"),
            patch.object(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1), create=True),
        ):
            experiment.run(replace(config, **changes))
        yield name, values_of(folder / name)


def values_of(folder: Path) -> Values:
    """What is kept of a run, from its record."""
    record = json.loads((folder / "record.json").read_text())
    metrics = dict.fromkeys(metric for row in record["epochs"] for metric in row)
    epochs = {metric: [row.get(metric) for row in record["epochs"]] for metric in metrics}
    kept = ("traces", "final", "best", "curves", "data")
    return {n: record[n] for n in kept} | {"settings": record["config"], "epochs": epochs}


def _costs(experiment: str, folder: Path) -> Iterator[tuple[str, Values]]:
    from common.cost_study.records import read_measurements
    from scripts import benchmark

    figures, methods = COSTS[experiment]
    words = ["--experiments", experiment, "--figures", *figures, "--methods", *methods]
    words += ["--size", "small", "--seconds-each", "0", "--device", "cpu", "--threads", "1"]
    benchmark.main([*words, "--runs", str(folder)])
    for measured in read_measurements(folder):
        kept = (*_SIZES, "outcome", "peak_bytes", "plain_peak_bytes", "resident_bytes")
        yield f"{measured.x}: {measured.key}", {name: getattr(measured, name) for name in kept}


def _fidelity(experiment: str, folder: Path) -> Iterator[tuple[str, Values]]:
    from scripts import fidelity

    words = ["--preset", "smoke", "--device", "cpu", "--threads", "1"]
    with patch.object(fidelity, "EXPERIMENTS", (experiment,)):
        fidelity.main([*words, "--output", str(folder)])
    for path in sorted((folder / "smoke" / "records").glob("*.json")):
        record = json.loads(path.read_text())
        kept = (*_SIZES, "inner_lr", "exact_norm", "predictions")
        rows = {name: _named_rows(record[name]) for name in ("rows", "precision", "staleness")}
        yield path.stem, {name: record[name] for name in kept} | rows


def _named_rows(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of the fidelity study by what they say of themselves."""
    names = ("series", "x", "reading", "precision", "m")
    found = {}
    for row in rows:
        name = ", ".join(str(row[n]) for n in names if row.get(n) not in (None, ""))
        found[name] = {key: value for key, value in row.items() if key not in names}
    return found


def flat(value: Any, key: str = "") -> Values:
    """Dictionaries within dictionaries as one, with dotted keys."""
    if not isinstance(value, Mapping):
        return {key: value}
    found: Values = {}
    for name, inner in value.items():
        found |= flat(inner, f"{key}.{name}" if key else name)
    return found


def compute(part: str) -> dict[str, Values]:
    """Run -> values, as the code computes them now."""
    kind, _, experiment = part.partition("-")
    measure = {"cost": _costs, "fidelity": _fidelity}.get(kind, _runs)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(part if measure is _runs else experiment, Path(folder))
        return {name: flat(kept) for name, kept in found}


def environment() -> dict[str, str]:
    """What the last digits depend on, beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    cpu = [line.split(":")[1].strip() for line in lines if line.startswith("model")][:2]
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": " ".join(cpu or [platform.machine()]) + capability}


def load() -> dict[str, Any]:
    return json.loads(lzma.decompress(KEPT.read_bytes()))


def _shown(a: Any, b: Any) -> str:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        index = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
        return f"entry {index} of {len(a)}: kept {a[index]!r}, now {b[index]!r}"
    return f"kept {a!r:.200}, now {b!r:.200}"


def differences(part: str, kept: Mapping[str, Values], now: Mapping[str, Values]) -> list[str]:
    """A line for each run, and each value of a run, that is not as it was kept."""
    lines = [f"{part}: run {name} is missing" for name in kept if name not in now]
    lines += [f"{part}: run {name} is new" for name in now if name not in kept]
    names = {f"settings.{old}": f"settings.estimator.{new}" for old, new in RENAMED.items()}
    gone = {f"settings.{name}" for name in REMOVED} | {
        f"settings.estimator.{name}" for name in REMOVED
    }
    for run in (name for name in kept if name in now):
        old, new = {names.get(key, key): value for key, value in kept[run].items()}, now[run]
        for key in dict.fromkeys((*old, *new)):
            where = f"{part}: {run}: {key}"
            if key not in new and key not in gone:
                lines.append(f"{where} is missing, kept {old[key]!r:.200}")
            elif key not in old and key not in ADDED:
                lines.append(f"{where} is new, {new[key]!r:.200}")
            elif key in old and key in new and old[key] != new[key]:
                lines.append(f"{where}: {_shown(old[key], new[key])}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    here, kept = environment(), load() if KEPT.exists() else {"environment": environment()}
    if kept["environment"] != here:
        print(f"kept with {kept['environment']}, here is {here}: last digits may differ")
    torch.set_num_threads(1)
    lines = []
    for part in arguments.only:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            now = compute(part)
        new = [] if arguments.update else differences(part, kept.get(part, {}), now)
        print("\n".join([f"{part}: {len(now)} runs, {len(new)} differences", *new]), flush=True)
        lines += new
        kept |= {part: now}
    if arguments.update:
        kept["environment"] = here
        KEPT.write_bytes(lzma.compress(json.dumps(kept, sort_keys=True).encode(), preset=9))
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
