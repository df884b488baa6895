"""What holds for every experiment: every method runs, a killed run ends with the same numbers,
another configuration's checkpoint is refused, the cost of a step is measured."""

import math
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.experiment import Experiment, load_experiment
from common.reporting import read_record
from common.training import Cost, loop
from scripts.experiments import EXPERIMENTS

# Settings, beside those of preset smoke, with which a run takes a second.
SMALL = {
    "toy_1d": {"lambdas": 10, "trials": 5},
    "rotation": {"train_size": 384, "meta_size": 200, "test_size": 100},
    "cross_domain_fewshot": {"width": 4, "pretrain_batch_size": 512},
    "metaweightnet": {"train_size": 60, "meta_size": 40, "test_size": 40, "batch_size": 20},
    "metaxl": {"small_layers": 1, "layers": (1,), "pretraining_steps": 3, "eval_sentences": 10},
}
DECLARED = {name: load_experiment(name) for name in EXPERIMENTS}
TRAINED = [name for name in DECLARED if name != "toy_1d"]  # toy_1d is one computation
EVERY_METHOD = [(name, method) for name in DECLARED for method in DECLARED[name].methods]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def config_of(tmp_path, caches, monkeypatch):
    """Makes small settings of an experiment's method; pre-trained parts are shared."""
    from metaxl import pretrain

    monkeypatch.setattr(pretrain, "CACHE", caches)

    def make(name: str, method: str | None = None, **changes):
        settings = SMALL[name] | {"device": "cpu", "threads": 1} | changes
        if name == "cross_domain_fewshot":
            settings["pretrained_dir"] = caches
        smoke = DECLARED[name].presets["smoke"]
        folder = tmp_path / (method or "run")
        return replace(
            smoke, **({"run_dir": folder, "method": method or smoke.method} | settings)
        ).validate()

    return make


def run(name: str, config):
    try:
        return DECLARED[name].file("train").run(config)
    except UserError as error:
        if "cannot be had" in str(error) or "not found" in str(error):
            pytest.skip(str(error))
        raise


def without_measuring(name: str, monkeypatch) -> None:
    train = DECLARED[name].file("train")
    if hasattr(train, "measure"):
        monkeypatch.setattr(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_every_method_runs_and_leaves_a_record(name, method, config_of, monkeypatch):
    without_measuring(name, monkeypatch)
    experiment: Experiment = DECLARED[name]
    config = config_of(name, method)
    record = run(name, config)
    assert read_record(config.directory() / "record.json") == record
    assert (record.experiment, record.method, record.preset) == (name, method, "smoke")
    assert math.isfinite(record.final[experiment.metric])
    if name == "toy_1d":
        return
    assert [row["epoch"] for row in record.epochs] == list(range(1, config.epochs + 1))
    learned = experiment.methods[method].estimator is not None
    assert ("hypergradient_norm" in record.traces) == ("meta_loss" in record.traces) == learned
    if learned:
        # A schedule may begin with a rate of 0, and T1-T2's hypergradient with it.
        assert min(record.traces["hypergradient_norm"][1:]) > 0
        assert record.final["moved"] > 0
    elif method not in ("ft", "decay_only"):  # which move by training loss and by weight decay
        assert record.final.get("moved", 0) == 0
    assert run(name, config) == record  # a finished run is not run twice


def killed_after(monkeypatch, steps: int) -> None:
    """Ends the training loop by Ctrl-C after so many steps."""

    class Bar(loop.tqdm):
        def update(self, n: float = 1) -> None:
            super().update(n)
            if self.n >= steps:
                raise KeyboardInterrupt

    monkeypatch.setattr(loop, "tqdm", Bar)


@pytest.mark.parametrize("name", TRAINED)
def test_a_killed_run_ends_with_the_same_numbers(name, config_of, monkeypatch, tmp_path):
    without_measuring(name, monkeypatch)
    config = config_of(name, epochs=3)
    whole = run(name, replace(config, run_dir=tmp_path / "whole"))
    per_epoch = whole.traces["iteration"][-1] // 3
    cut = replace(config, run_dir=tmp_path / "cut")
    with monkeypatch.context() as patch:
        killed_after(patch, 2 * per_epoch - 1)  # within the second epoch
        with pytest.raises(KeyboardInterrupt):
            run(name, cut)
    assert not (cut.directory() / "record.json").exists()
    other = replace(cut, sigma=2 * config.sigma)
    with pytest.raises(UserError, match="sigma"):
        run(name, other)
    resumed = run(name, cut)
    for part in ("epochs", "traces", "final", "best", "curves", "data"):
        assert getattr(resumed, part) == getattr(whole, part), part


@pytest.mark.parametrize("name", TRAINED)
def test_the_cost_of_a_step_is_measured(name, config_of):
    cost = run(name, config_of(name, epochs=1)).cost
    assert cost["seconds"] > 0 and cost["seconds_per_epoch"] > 0
    assert cost["peak_bytes"] > 0 and cost["resident_bytes"] > 0
