"""The report's tables against numbers worked out by hand."""

from dataclasses import replace

from common.reporting import Heading, RunRecord, to_markdown
from metaweightnet.config import PRESETS, Config, planned_runs
from metaweightnet.report import accuracy_table, by_setting, published_accuracy, section


def record(accuracies: list[float], **settings) -> RunRecord:
    """A record as a run on CIFAR-10 with flip noise would leave it, with these accuracies by
    epoch."""
    settings = {"dataset": "cifar10", "noise": "flip", "noise_level": 0.4} | settings
    config = replace(PRESETS[settings.pop("preset", "quick")], **settings)
    final = {"accuracy": accuracies[-1], "train_loss": 1.0, "weight_right": 1.2}
    if config.noise_level:
        final["weight_wrong"] = 0.7
    curves = {"histogram_right": [1.0] * 60, "histogram_wrong": [2.0] + [0.0] * 59}
    if config.method != "plain":
        final["vnet_distance"] = 0.5
        curves |= {"weight_start": [0.5] * 81, "weight_end": [0.4] * 81}
    if config.hypergradient_estimator(lambda: 0.1) is not None:
        final |= {"meta_loss": 2.0, "hypergradient_norm": 1e-3}
    best = max(accuracies)
    return RunRecord(
        experiment="metaweightnet",
        method=config.method,
        seed=config.seed,
        preset=config.preset,
        config=config.deciding(),
        epochs=[{**final, "epoch": e, "accuracy": a} for e, a in enumerate(accuracies, 1)],
        traces={},
        final=final,
        best={"accuracy": {"value": best, "epoch": accuracies.index(best) + 1}},
        cost={"seconds": 0.1 if config.method == "plain" else 0.25, "peak_bytes": 10_000_000},
        data={},
        provenance={},
        curves=curves,
    )


def rows(table) -> dict[tuple[str, ...], list[str]]:
    """Rows by (data, noise, method)."""
    plain = [[str(cell) for cell in row] for row in table.rows if not isinstance(row, Heading)]
    return {tuple(row[:3]): row[3:] for row in plain}


def test_last_and_best_epoch_are_means_over_seeds(tmp_path):
    records = [
        record([40.0, 50.0, 45.0], method="evograd", seed=1),
        record([40.0, 42.0, 49.0], method="evograd", seed=2),
        record([40.0, 41.0, 42.0], method="plain", seed=1),
    ]
    made = section(records, "quick", tmp_path)
    accuracy, weights, cost = made.tables
    measured = rows(accuracy)["cifar10", "flip 0.4", "EvoGrad"]
    assert measured[:3] == ["87.74 ± 0.54", "47.00 ± 2.83", "2"]
    assert measured[4] == "not judged"  # at another size than the paper's
    planned = rows(accuracy)["mnist", "uniform 0.6", "T1-T2 (forward mode)"]
    assert planned[1] == "–"  # not run yet
    last, best, right, wrong, moved = rows(weights)["cifar10", "flip 0.4", "EvoGrad"]
    assert (last, best) == ("47.00 ± 2.83", "49.50 ± 0.71")
    assert [c.split(" ")[0] for c in (right, wrong, moved)] == ["1.200", "0.700", "0.500"]
    assert rows(weights)["cifar10", "flip 0.4", "Plain training"][-1] == "–"
    assert "2.50" in to_markdown(cost)
    assert made.runs == 3
    assert (tmp_path / "accuracy.md").exists()
    names = {figure.path_png.name for figure in made.figures}
    stems = ("accuracy", "weight-function", "weights", "movement")
    assert names == {f"{stem}-cifar10-flip-0.4.png" for stem in stems}


def test_at_the_papers_size_runs_are_judged():
    records = [
        record([value], preset="paper", method="evograd", seed=seed)
        for seed, value in enumerate((87.0, 88.0, 87.5, 88.2, 87.3), 1)
    ]
    accuracy = accuracy_table(by_setting(records), "paper")
    measured = rows(accuracy)["cifar10", "flip 0.4", "EvoGrad"]
    assert measured[2:] == ["5 of 5", "\N{MINUS SIGN}0.14", "agrees"]
    # Cells without runs are there too: Table 4 has 2 data sets and 3 noise levels.
    assert len({label[:2] for label in rows(accuracy)}) == 6


def test_runs_that_differ_in_a_choice_stand_apart():
    records = [
        record([50.0], method="evograd"),
        record([60.0], method="evograd", split="authors"),
        record([70.0], method="evograd", vnet_input="model"),
        record([30.0], method="evograd", meta_optimizer="sgd", meta_weight_decay=5e-4),
        record([30.0], method="evograd", num_candidates=8, flip_pairs="seed"),
        record([20.0], method="plain", noise="human"),
        record([10.0], method="plain", noise_level=0.0),
    ]
    groups = by_setting(records)
    assert list(groups) == [("cifar10", "flip 0.0"), ("cifar10", "flip 0.4"),
                            ("cifar10", "human worse")]  # fmt: skip
    names = ["EvoGrad", "EvoGrad, K = 8, pairs by seed", "EvoGrad, authors split",
             "EvoGrad, held input", "EvoGrad, meta sgd, decay 0.0005"]  # fmt: skip
    assert sorted(groups["cifar10", "flip 0.4"]) == names
    folders = {replace(PRESETS["quick"], **changes).directory() for changes in (
        {}, {"split": "authors"}, {"vnet_input": "model"}, {"meta_optimizer": "sgd"},
        {"noise": "human"}, {"noise": "human", "human_labels": "random1"}, {"noise_level": 0.2},
        {"num_candidates": 8}, {"meta_weight_decay": 0.1}, {"dataset": "cifar10"},
    )}  # fmt: skip
    assert len(folders) == 10
    assert Config(flip_pairs="seed").run_name().endswith("evograd-seed1-pairs-by-seed")


def test_published_values_are_table_4s():
    assert published_accuracy(("cifar100", "flip 0.2"), "EvoGrad").mean == 64.05
    assert published_accuracy(("cifar10", "flip 0.4"), "Plain training").copied
    assert published_accuracy(("cifar10", "flip 0.4"), "T1-T2 (forward mode)").mean == 85.90
    assert published_accuracy(("cifar10", "uniform 0.4"), "EvoGrad") is None
    assert published_accuracy(("cifar10", "flip 0.4"), "EvoGrad, authors split") is None


def test_the_paper_preset_is_table_4_with_five_repetitions_and_controls():
    runs = planned_runs("paper")
    cells = {(r.dataset, r.noise_level) for r in runs if r.method == "evograd"}
    assert cells == {(d, p) for d in ("cifar10", "cifar100") for p in (0.0, 0.2, 0.4)}
    assert {r.seed for r in runs} == {1, 2, 3, 4, 5}
    assert {"sign_flipped", "evograd_matched", "plain", "frozen_vnet"} < {r.method for r in runs}
    paper = Config()
    assert (paper.depth, paper.epochs, paper.batch_size, paper.milestones) == (
        32,
        60,
        100,
        (40, 50),
    )
    assert (paper.learning_rate, paper.meta_learning_rate, paper.meta_optimizer) == (
        0.1, 1e-3, "sgd",
    )  # fmt: skip


def test_without_runs_there_is_an_empty_section(tmp_path):
    made = section([], "quick", tmp_path)
    assert made.tables == () and made.runs == 0
