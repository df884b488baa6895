"""What the tests of the experiments share: small settings, records, tables as text, refusals."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.command import run_command
from common.cost_study.case import CostProblem
from common.experiment import load_experiment
from common.hypergrad import Tensors
from common.reporting import RunRecord, Table
from common.settings import RunSettings
from common.training import TensorMemory
from scripts.experiments import EXPERIMENTS

DECLARED = {name: load_experiment(name) for name in EXPERIMENTS}
SMALL: dict[str, dict[str, Any]] = {
    "toy_1d": {"lambdas": 10, "trials": 5},
    "rotation": {"train_size": 384, "meta_size": 200, "test_size": 100},
    "cross_domain_fewshot": {"width": 4, "pretrain_batch_size": 512},
    "metaweightnet": {"train_size": 60, "meta_size": 40, "test_size": 40, "batch_size": 20},
    "metaxl": {"small_layers": 1, "layers": (1,), "pretraining_steps": 3, "eval_sentences": 10},
}
"""Settings, beside those of preset smoke, with which a run takes a second."""


def small_settings(name: str, **changes: Any) -> RunSettings:
    """Settings of an experiment's run that takes a second."""
    settings = SMALL[name] | {"device": "cpu", "threads": 1} | changes
    return replace(DECLARED[name].presets["smoke"], **settings)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def record_of(config: RunSettings, epochs: list[dict[str, float]], best: str, **fields: Any):
    """A record as a run with these settings and metrics by epoch would leave it.

    best: the metric whose best epoch is recorded. fields: seconds of a step, traces, curves.
    """
    numbered = [{"epoch": number, **row} for number, row in enumerate(epochs, 1)]
    top = max(numbered, key=lambda row: row[best])
    seconds = fields.pop("seconds")
    return RunRecord(
        experiment=config.experiment,
        method=config.method,
        seed=config.seed,
        preset=config.preset,
        config=config.result_settings(),
        epochs=numbered,
        final=epochs[-1],
        best={best: {"value": top[best], "epoch": top["epoch"]}},
        cost={
            **dict.fromkeys(("seconds", "seconds_low", "seconds_high"), seconds),
            "seconds_per_epoch": seconds,
            "peak_bytes": 10_000_000,
        },
        data={},
        provenance={},
        **{"traces": {}, **fields},
    )


def rows(table: Table, labels: int) -> dict[tuple[str, ...], list[str]]:
    """A table's rows as text, by their first ``labels`` cells."""
    plain = [[str(cell) for cell in row] for row in table.rows]
    return {tuple(row[:labels]): row[labels:] for row in plain}


def assert_equal(found: Tensors, expected: Tensors, rtol: float = 1e-9) -> None:
    """Tensors by name, up to ``rtol`` times the largest entry of all."""
    scale = max(t.abs().max() for t in expected.values()).item()
    assert scale > 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=rtol * scale)


def peak(step: Callable[[], object]) -> int:
    """Bytes of tensors at the peak of a step, beyond those before it."""
    step()  # optimiser states come with the first
    with TensorMemory() as memory:
        step()
    return memory.peak


def hypergradient(case: CostProblem, estimator: Any) -> dict[str, Tensor]:
    """What an estimator gives for a case of the cost study."""
    batches = case.inner_batch, case.outer_batch
    return estimator(case.problem, case.params, case.hyper, *batches).grads


def refusal(name: str, words: Sequence[str | Path], monkeypatch, capsys) -> str:
    """The one sentence with which ``python -m NAME`` ends, with exit status 2."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        run_command(DECLARED[name].main)
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert error.startswith("error: ") and "\n" not in error
    return error
