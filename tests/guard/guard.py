"""Keeps what the code computes, number by number, and names what a change of the code changes.

    python -m tests.guard.guard                          compare with kept.json.xz
    python -m tests.guard.guard --only rotation metaxl   these parts alone
    python -m tests.guard.guard --update                 keep what the code computes now

The parts: NAME, every method of an experiment with the small settings of the tests; smoke-NAME, its
planned runs of preset smoke; cost-NAME, bytes of steps; fidelity-NAME, rows of the fidelity study.
Settings that go, and names that change, are listed in the tables below; all else must be equal, on
the torch and the CPU that the kept values were made with.
"""

import argparse
import json
import lzma
import math
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

KEPT = Path(__file__).with_name("kept.json.xz")

# Patterns of parts -> what may differ there. Keys are dotted, as reports of differences show them.
REMOVED: dict[str, set[str]] = {}
"""Patterns of settings that are no more, as "share_base_step" or "neumann_*"."""
RENAMED: dict[str, dict[str, str]] = {}
"""Old key -> new key, as {"settings.sigma": "settings.estimator.sigma"}."""
ADDED: dict[str, set[str]] = {}
"""Patterns of new keys, as "settings.every" or "final.kappa"."""
REMOVED_RUNS: dict[str, set[str]] = {}
"""Patterns of runs (of cost-NAME: rows) that are no more."""
RENAMED_RUNS: dict[str, dict[str, str]] = {}
"""Old name of a run -> its new name."""

EXPERIMENTS = ("toy_1d", "rotation", "cross_domain_fewshot", "metaweightnet", "metaxl")
FIGURES = {  # of the cost study at size small, those that take seconds
    "rotation": ["LeNet, rotation, batch 128"],
    "metaweightnet": ["ResNet-32, label noise, by width, width 1"],
}
PARTS = (
    *EXPERIMENTS,
    *(f"smoke-{name}" for name in EXPERIMENTS),
    *(f"cost-{name}" for name in FIGURES),
    *(f"fidelity-{name}" for name in ("rotation", "metaweightnet", "metaxl")),
)
Values = dict[str, Any]  # dotted key -> number, text or list


# The project, as far as the guard knows it: each yields names and the JSON of what was written.


def _runs(part: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from common.training import Cost
    from metaxl import pretrain
    from tests.experiments import DECLARED, small_settings

    pretrain.CACHE = folder / "pretrained"  # what an older state of the code made is no use
    smoke, experiment = part.startswith("smoke-"), DECLARED[part.removeprefix("smoke-")]
    if smoke:
        planned = list(experiment.planned("smoke"))
    else:
        planned = [small_settings(part, method=method) for method in experiment.methods]
    train = experiment.file("train")
    if hasattr(train, "measure"):  # seconds are not kept
        train.measure = lambda *_, **__: Cost(1, 1, 1, 1, 1, 1)
    names: list[str] = []
    for config in planned:
        names.append(config.method)
        name = f"{config.method} {names.count(config.method)}" if smoke else config.method
        changes = {"device": "cpu", "threads": 1, "run_dir": folder / name}
        if hasattr(config, "pretrained_dir"):
            changes["pretrained_dir"] = folder / "pretrained"
        train.run(replace(config, **changes))
        yield name, json.loads((folder / name / "record.json").read_text())


def _costs(experiment: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from scripts import benchmark

    words = ["--size", "small", "--seconds-each", "0", "--device", "cpu", "--threads", "1"]
    words += ["--experiments", experiment, "--figures", *FIGURES[experiment]]
    benchmark.main([*words, "--no-compile", "--runs", str(folder)])
    for path in sorted(folder.rglob("*.json")):
        record = json.loads(path.read_text())
        yield f"{record['point']['figure']}, {record['point']['x']}: {record['method']}", record


def _fidelity(experiment: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from scripts import fidelity

    fidelity.EXPERIMENTS = (experiment,)
    words = ["--preset", "smoke", "--device", "cpu", "--threads", "1"]
    fidelity.main([*words, "--output", str(folder)])
    for path in sorted((folder / "smoke" / "records").glob("*.json")):
        yield path.stem, json.loads(path.read_text())


# What of it is kept.


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _named_rows(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of the fidelity study by what they say of themselves."""
    names = ("series", "x", "reading", "precision", "m")
    found = {}
    for row in rows:
        name = ", ".join(str(row[n]) for n in names if row.get(n) not in (None, ""))
        found[name] = {key: value for key, value in row.items() if key not in names}
    return found


def _of_run(record: dict[str, Any]) -> dict[str, Any]:
    same = {name: record[name] for name in ("traces", "final", "best", "curves", "data")}
    return {"settings": record["config"], "epochs": _columns(record["epochs"]), **same}


def _of_cost(record: dict[str, Any]) -> dict[str, Any]:
    names = ("outcome", "peak_bytes", "plain_peak_bytes", "resident_bytes")
    return {name: record[name] for name in (*names, "parameters", "hyperparameters")}


def _of_fidelity(record: dict[str, Any]) -> dict[str, Any]:
    names = ("inner_lr", "parameters", "hyperparameters", "exact_norm", "predictions")
    rows = {name: _named_rows(record[name]) for name in ("rows", "precision", "staleness")}
    return {name: record[name] for name in names} | rows


def flat(value: Any, key: str = "") -> Values:
    """Dictionaries within dictionaries as one, with dotted keys."""
    if not isinstance(value, Mapping):
        return {key: value}
    found = {}
    for name, inner in value.items():
        found |= flat(inner, f"{key}.{name}" if key else name)
    return found


def compute(part: str) -> dict[str, Values]:
    """Run -> values, as the code computes them now."""
    kind, _, experiment = part.partition("-")
    measure, kept_of = {
        "cost": (_costs, _of_cost), "fidelity": (_fidelity, _of_fidelity)
    }.get(kind, (_runs, _of_run))  # fmt: skip
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(part if measure is _runs else experiment, Path(folder))
        return {name: flat(kept_of(record)) for name, record in found}


def _quiet() -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends


def environment() -> dict[str, str]:
    """What the last digits depend on, beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    cpu = [line.split(":")[1].strip() for line in lines if line.startswith("model")][:2]
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": " ".join(cpu or [platform.machine()]) + capability}


def load() -> dict[str, Any]:
    return json.loads(lzma.decompress(KEPT.read_bytes()))


def _table(tables: Mapping[str, Any], part: str) -> list[Any]:
    return [table for pattern, table in tables.items() if fnmatchcase(part, pattern)]


def _listed(name: str, part: str, tables: Mapping[str, set[str]]) -> bool:
    return any(fnmatchcase(name, entry) for table in _table(tables, part) for entry in table)


def _renamed(old: Mapping[str, Any], part: str, tables: Mapping[str, dict[str, str]]) -> Values:
    names = {before: now for table in _table(tables, part) for before, now in table.items()}
    return {names.get(name, name): value for name, value in old.items()}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    nan = [isinstance(x, float) and math.isnan(x) for x in (a, b)]
    return all(nan) or a == b


def _shown(a: Any, b: Any) -> str:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        index = next(i for i, pair in enumerate(zip(a, b, strict=True)) if not _equal(*pair))
        return f"entry {index} of {len(a)}: kept {a[index]!r}, now {b[index]!r}"
    return f"kept {a!r:.200}, now {b!r:.200}"


def differences(part: str, kept: Mapping[str, Values], now: Mapping[str, Values]) -> list[str]:
    """A line for each run, and each value of a run, that is not as it was kept."""
    kept = _renamed(kept, part, RENAMED_RUNS)
    kept = {name: values for name, values in kept.items() if not _listed(name, part, REMOVED_RUNS)}
    lines = [f"{part}: run {name} is missing" for name in kept if name not in now]
    lines += [f"{part}: run {name} is new" for name in now if name not in kept]
    removed = {p: {f"settings.{name}" for name in table} for p, table in REMOVED.items()}
    for run in (name for name in kept if name in now):
        old = {k: v for k, v in kept[run].items() if k in now[run] or not _listed(k, part, removed)}
        old, new = _renamed(old, part, RENAMED), now[run]
        for key in dict.fromkeys((*old, *new)):
            where = f"{part}: {run}: {key}"
            if key not in new:
                lines.append(f"{where} is missing, kept {old[key]!r:.200}")
            elif key not in old:
                if not _listed(key, part, ADDED):
                    lines.append(f"{where} is new, {new[key]!r:.200}")
            elif not _equal(old[key], new[key]):
                lines.append(f"{where}: {_shown(old[key], new[key])}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    here, kept = environment(), load() if KEPT.exists() else {"environment": environment()}
    if kept["environment"] != here:
        print(f"kept with {kept['environment']}, here is {here}: last digits may differ")
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn, lines = multiprocessing.get_context("spawn"), []
    with ProcessPoolExecutor(arguments.jobs, spawn, _quiet, max_tasks_per_child=1) as pool:
        found = zip(arguments.only, pool.map(compute, arguments.only), strict=True)
        for part, now in found:
            new = [] if arguments.update else differences(part, kept.get(part, {}), now)
            print(f"{part}: {len(now)} runs, {len(new)} differences", flush=True)
            print(*new, sep="\n", end="\n" if new else "")
            lines += new
            kept |= {part: now}
    if arguments.update:
        kept["environment"] = here
        KEPT.write_bytes(lzma.compress(json.dumps(kept, sort_keys=True).encode(), preset=9))
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
