"""Versions and devices behind a report, as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from common.reporting.tables import MISSING, Table

# provenance key -> its name for readers, in the order shown
_NAMES = {
    "python": "Python", "torch": "PyTorch", "torchvision": "torchvision", "higher": "higher",
    "numpy": "NumPy", "platform": "platform", "cpu": "processor", "cpu_cores": "processor cores",
    "torch_threads": "PyTorch threads", "devices": "GPUs", "cuda": "CUDA", "cudnn": "cuDNN",
    "git_commit": "commit", "git_dirty": "uncommitted changes",
}  # fmt: skip


def versions_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """What the runs were made with; where runs differ, each value with its number of runs.

    `runs` are provenance dictionaries, those of runs or one from collect_provenance.
    """
    rows: list[tuple[str, ...]] = []
    for key, name in _NAMES.items():
        counts = Counter(_text(run.get(key)) for run in runs)
        if set(counts) <= {MISSING}:
            continue
        if len(counts) == 1:
            rows.append((name, *counts))
        else:
            texts = [f"{text} ({_runs(count)})" for text, count in counts.most_common()]
            rows.append((name, "; ".join(texts)))
    finished = sorted(run["finished"] for run in runs if "finished" in run)
    if finished:
        rows.append(
            ("runs finished (UTC)", " to ".join(dict.fromkeys((finished[0], finished[-1]))))
        )
    seconds = [run["wall_seconds"] for run in runs if "wall_seconds" in run]
    if seconds:
        rows.append(("wall time", f"{sum(seconds) / 3600:.1f} hours in {_runs(len(seconds))}"))
    return Table("", ("what", "value"), tuple(rows))


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _text(value: Any) -> str:
    if value is None or value == []:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        counts = Counter(str(item) for item in value)
        return ", ".join(f"{n} × {item}" if n > 1 else item for item, n in counts.items())
    return str(value)
