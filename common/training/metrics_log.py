"""metrics.jsonl and TensorBoard: for watching a run. Nothing is computed from them.

Whatever happens to these files (damage, a full disk, a folder in their place), the run goes on:
the record and the checkpoint hold the same values.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.files import write_atomic
from common.training.processes import is_first

METRICS = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl, one line per logged step and per epoch, and TensorBoard if asked for.

    Of several processes on one run only the first writes.
    """

    def __init__(self, directory: Path, tensorboard: bool, last_iteration: int, total: int) -> None:
        self._path = directory / METRICS
        self._writer: Any = None
        self._told = False
        if not is_first():
            return
        # Lines of an epoch that was cut off are written again by the resumed run.
        kept = [
            line
            for line in metrics_lines(self._path)
            if line["kind"] != "start" and line["iteration"] <= last_iteration
        ]
        start = {"kind": "start", "iteration": last_iteration, "total": total}
        with self._harmless():
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in [start, *kept]))
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                folder = directory / "tensorboard"
                self._writer = SummaryWriter(folder, purge_step=last_iteration + 1)

    def write(self, kind: str, iteration: int, epoch: int, values: Mapping[str, float]) -> None:
        if not is_first():
            return
        line = {"kind": kind, "iteration": iteration, "epoch": epoch, **values}
        with self._harmless(), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(f"{kind}/{name}", value, iteration)

    def close(self) -> None:
        if self._writer is not None:
            with self._harmless():
                self._writer.close()

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """By-products never stop a run: an error is reported, once, and TensorBoard given up."""
        try:
            yield
        except Exception as error:
            if not self._told:
                print(f"warning: metrics are not logged ({error})", file=sys.stderr)
            self._writer, self._told = None, True


def metrics_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; damaged ones are passed over.

    The first has kind "start", with the iteration a run began or was taken up at and the total;
    the others kind "step" or "epoch", with iteration, epoch and metrics.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
            whole = "kind" in found and isinstance(found["iteration"], int)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if whole:
            yield found


def progress(directory: Path) -> float:
    """Which part of a run is done, 0 to 1, from its metrics.jsonl."""
    lines = list(metrics_lines(directory / METRICS))
    total = lines[0].get("total") if lines else None
    if not isinstance(total, int) or total < 1:
        return 0.0
    return min(total, max(0, lines[-1]["iteration"])) / total
