"""What holds for every experiment: every method runs and has the numbers that are kept, a killed
run ends with the same numbers, another configuration's checkpoint is refused, planned runs are
valid, mistakes end in one sentence."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from common import run as loop
from common.errors import UserError
from common.reporting import RunRecord, load
from common.training import Cost, seed_everything
from tests.experiments import DECLARED, one_thread, refusal, small_settings  # noqa: F401
from tests.guard import guard

TRAINED = [name for name in DECLARED if name != "toy_1d"]  # toy_1d is one computation
EVERY_METHOD = [(name, method) for name in DECLARED for method in DECLARED[name].methods]


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def config_of(tmp_path, caches, monkeypatch):
    """Makes small settings of an experiment's method; pre-trained parts are shared."""
    from metaxl import pretrain

    monkeypatch.setattr(pretrain, "CACHE", caches)

    def make(name: str, method: str | None = None, **changes):
        changes |= {"method": method} if method else {}
        changes |= {"pretrained_dir": caches} if name == "cross_domain_fewshot" else {}
        return small_settings(name, **{"run_dir": tmp_path / (method or "run")} | changes)

    return make


def run(name: str, config):
    try:
        return DECLARED[name].run(config)
    except UserError as error:
        if "cannot be had" in str(error) or "not found" in str(error):
            pytest.skip(str(error))
        raise


def without_measuring(name: str, monkeypatch) -> None:
    train = importlib.import_module(f"{name}.train")
    if hasattr(train, "measure"):
        monkeypatch.setattr(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1))


@pytest.fixture(scope="session")
def kept():
    """The numbers of tests/guard, exact where they were made."""
    found = guard.load()
    return found if found["environment"] == guard.environment() else None


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_every_method_runs_and_leaves_its_record(name, method, kept, config_of, monkeypatch):
    without_measuring(name, monkeypatch)
    experiment = DECLARED[name]
    config = config_of(name, method)
    record = run(name, config)
    assert load(config.directory() / "record.json", RunRecord) == record
    assert (record.experiment, record.method, record.preset) == (name, method, "smoke")
    assert math.isfinite(record.final[experiment.metric])
    if kept is not None:
        now = {method: guard.flat(guard.values_of(config.directory()))}
        assert guard.differences(name, {method: kept[name][method]}, now) == []
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
        taken = 0

        def update(self, n: float = 1) -> None:  # a bar that is not shown does not count
            Bar.taken += 1
            if Bar.taken >= steps:
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
    other = cut.changed({"estimator.sigma": 1e-2})
    with pytest.raises(UserError, match="sigma"):
        run(name, other)
    resumed = run(name, cut)
    for part in ("epochs", "traces", "final", "best", "curves", "data"):
        assert getattr(resumed, part) == getattr(whole, part), part


@pytest.mark.parametrize("name", TRAINED)
def test_methods_start_from_the_same_networks_on_the_same_data(name, config_of):
    methods = DECLARED[name].methods.items()
    found = []
    for method in (n for n, m in methods if m.estimator in (None, "evograd", "t1t2")):
        config = config_of(name, method)
        seed_everything(config.seed)
        task = DECLARED[name].task(config, torch.device("cpu"))
        modules = {n: m for n, m in vars(task.learner).items() if isinstance(m, nn.Module)}
        tensors = {(n, p): t for n, m in modules.items() for p, t in m.named_parameters()}
        found.append((tensors, task.checksums))
    first, checksums = found[0]
    for tensors, sums in found[1:]:
        both = first.keys() & tensors.keys()
        assert both == first.keys() and sums == checksums
        assert all(torch.equal(first[name], tensors[name]) for name in both)


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in DECLARED for preset in DECLARED[name].presets]
)
def test_planned_runs_are_valid_and_have_folders_of_their_own(name, preset):
    runs = DECLARED[name].planned(preset)
    assert len({config.directory() for config in runs}) == len(runs)


@pytest.mark.parametrize("name", DECLARED)
def test_without_runs_there_is_an_empty_section(name, tmp_path):
    made = DECLARED[name].section([], "quick", tmp_path)
    assert not made.tables and not made.figures and made.runs == 0


MISTAKES = {
    ("rotation", "smoke"): ("--estimator.sigma 0", "--preset huge"),
    ("metaweightnet", "paper"): (
        "--noise hierarchical", "--noise human --dataset cifar100", "--noise-level 1.5",
        "--depth 33", "--meta-size 105", "--train-size 49500", "--data-dir /nowhere",
    ),
    ("metaxl", "smoke"): (
        "--target eng", "--target xyz", "--batch-size 1", "--target-sentences 1", "--warmup 1",
        "--layers 1 1", "--layers 9", "--faithful --method t1t2", "--small-hidden 40",
        "--encoder /nowhere/xlm-r", "--eval-sentences -1",
    ),
    ("cross_domain_fewshot", "quick"): (
        "--unseen sketches", "--unseen cub", "--n-way 1", "--n-query 0", "--aux-batch-size 0",
        "--protocol pairs", "--min-class-size -1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "preset", "words"),
    [(*place, words) for place, found in MISTAKES.items() for words in found],
)
def test_mistakes_end_in_one_sentence(name, preset, words, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    fixed = ["--preset", preset, "--run-dir", folder, "--device", "cpu"]
    said = refusal(name, [*fixed, *words.split()], monkeypatch, capsys)
    flag, value = words.split()[:2]
    assert flag in said or value in said  # a language that a data set lacks is named itself
    assert not (folder / "record.json").exists()
