"""The report's tables against numbers worked out by hand."""

from dataclasses import replace

from common.reporting import RunRecord, to_markdown
from metaweightnet import findings, report
from metaweightnet.config import METHODS, PRESETS, Config
from metaweightnet.report import accuracy_table, by_setting, difference_table, published_accuracy
from tests.experiments import record_of, rows

MNIST = {"dataset": "mnist", "noise": "uniform", "noise_level": 0.6, "meta_size": 100}
PLACE = ("cifar10", "flip 0.4, 1000 clean")


def record(accuracies: list[float], **settings) -> RunRecord:
    """A record as a run on CIFAR-10 with flip noise would leave it, with these accuracies by
    epoch."""
    cifar = {"dataset": "cifar10", "noise": "flip", "noise_level": 0.4, "meta_size": 1_000}
    settings = cifar | settings
    config = replace(PRESETS[settings.pop("preset", "quick")], **settings)
    final = {"train_loss": 1.0, "weight_right": 1.2}
    if config.noise_level:
        final["weight_wrong"] = 0.7
    curves = {"histogram_right": [1.0] * 60, "histogram_wrong": [2.0] + [0.0] * 59}
    if config.method != "plain":
        curves |= {"weight_start": [0.5] * 81, "weight_end": [0.4] * 81}
    if METHODS[config.method].estimator is not None:
        final |= {"meta_loss": 2.0, "hypergradient_norm": 1e-3, "moved": 0.5}
    return record_of(
        config,
        [{**final, "accuracy": accuracy} for accuracy in accuracies],
        "accuracy",
        seconds=0.1 if config.method == "plain" else 0.25,
        curves=curves,
    )


def test_last_and_best_epoch_are_means_over_seeds(tmp_path, not_rendered):
    records = [
        record([40.0, 50.0, 45.0], method="evograd", seed=1),
        record([40.0, 42.0, 49.0], method="evograd", seed=2),
        record([40.0, 41.0, 42.0], method="plain", seed=1),
    ]
    made = report.section(records, "quick", tmp_path)
    summary, accuracy, differences, weights, cost = made.tables.values()
    found = rows(summary, 1)  # seed 1 alone has both
    assert found["EvoGrad",] == ["2", "+3.00", "47.00 ± 25.41", "–", "–", "0 of 2"]
    assert found["Plain training",] == ["1", "–", "42.00", "–", "–", "–"]
    measured = rows(accuracy, 3)[*PLACE, "EvoGrad"]
    # No difference, at another size than the paper's.
    assert measured == ["87.74 ± 0.54", "47.00 ± 2.83", "2", "–"]
    assert rows(differences, 3)[*PLACE, "EvoGrad"] == ["2", "+3.00", "–"]
    last, best, *learned, equal = rows(weights, 3)[*PLACE, "EvoGrad"]
    assert (last, best, equal) == ("47.00 ± 25.41", "49.50 ± 6.35", "0 of 2")
    assert [cell.split(" ")[0] for cell in learned] == ["1.200", "0.700", "0.500"]
    assert rows(weights, 3)[*PLACE, "Plain training"][-2:] == ["–", "–"]
    assert "2.50" in to_markdown(cost)
    assert made.runs == 3 and (tmp_path / "accuracy.md").exists()
    names = {figure.path_png.name for figure in made.figures}
    stems = ("accuracy", "seconds", "weight-function", "weights", "movement")
    assert names == {f"{stem}-cifar10-flip-0.4-1000-clean.png" for stem in stems}


def test_at_the_papers_size_runs_stand_beside_table_4():
    records = [
        record([value], preset="paper", method="evograd", seed=seed)
        for seed, value in enumerate((87.0, 88.0, 87.5, 88.2, 87.3), 1)
    ]
    records.append(record([50.0], preset="paper", method="evograd", vnet_input="model"))
    records.append(record([20.0], preset="paper", method="plain", noise="human"))
    accuracy = rows(accuracy_table(by_setting(records), "paper"), 3)
    assert accuracy["cifar10", "human worse, 1000 clean", "Plain training"][:2] == ["–", "20.00"]
    assert accuracy[*PLACE, "EvoGrad"][2:] == ["5 of 5", "\N{MINUS SIGN}0.14"]
    assert accuracy[*PLACE, "EvoGrad vnet_input=model"][0] == "–"
    # Cells without runs are there too: Table 4 has 2 data sets and 3 noise levels.
    assert len({label[:2] for label in accuracy}) == 6 + 1


def test_differences_are_taken_seed_by_seed():
    plain = [record([v], method="plain", seed=seed) for seed, v in enumerate((40.0, 50.0, 60.0))]
    other = [record([v], method="evograd", seed=seed) for seed, v in ((1, 52), (2, 66), (9, 9))]
    found = rows(difference_table(by_setting([*plain, *other])), 3)
    # Differences 2 and 6. Student's t with one degree of freedom: 12.706; standard error 2.
    assert found[*PLACE, "EvoGrad"] == ["3", "+4.00 ± 25.41", "–"]
    assert found[*PLACE, "Plain training"] == ["3", "–", "–"]


def test_published_values_are_table_4s():
    def published(method, **changes):
        return published_accuracy(replace(Config(method=method), **changes).result_settings())

    assert published("evograd", dataset="cifar100", noise_level=0.2).mean == 64.05
    assert published("plain").copied
    assert published("t1t2_forward").mean == 85.90
    assert published("evograd", noise="uniform") is None
    assert published("sign_flipped") is None


def test_simple_uses_of_the_clean_images_stand_beside_the_methods():
    records = []
    for size in (100, 300):
        for method, tuned in (("plain", 80.0), ("evograd", 85.0)):
            run = record([70.0, 90.0, 60.0], method=method, **MNIST | {"meta_size": size})
            for row, accuracy in zip(run.epochs, (50.0, 99.0, 99.0), strict=True):
                row["meta_accuracy"] = accuracy
            run.final.update(meta_accuracy=99.0, fine_tuned_accuracy=tuned)
            records.append(run)
    found = rows(report.clean_images_table(by_setting(records)), 3)
    expected = ["1", "60.00", "90.00", "85.00", "0 of 1"]
    assert found["mnist", "uniform 0.6, 300 clean", "EvoGrad"] == expected
    plain, both = "Plain training", {100: [60.0], 300: [60.0]}
    assert report._by_clean_images(records) == {
        **{"EvoGrad": both, plain: both, f"{plain}, fine-tuned": {100: [80.0], 300: [80.0]}},
        f"{plain}, stopped": {100: [90.0], 300: [90.0]},
    }


def test_a_meta_step_every_fifth_step_costs_a_fifth_of_what_it_adds(tmp_path, monkeypatch):
    place = {"preset": "study", **MNIST}
    records = [
        record([60.0], method="plain", seed=3, **place),
        record([80.0], method="evograd", seed=3, **place),
        record([70.0], method="evograd", seed=3, every=5, **place),
        record([50.0], method="evograd", seed=4, meta_hidden=7, **place),  # asked by nobody
    ]
    drawn = {}
    monkeypatch.setattr(findings, "lines_figure", lambda lines, *a: drawn.update(lines))
    tables, _ = findings.answers(records, tmp_path)
    title = "A meta step every m steps"
    found = rows(tables["questions"], 2)
    assert list(found) == [(title, "m = 1"), (title, "m = 5")]
    assert [row[:2] for row in found.values()] == [["60.00", "80.00"], ["–", "70.00"]]
    # A step takes 2.5 plain steps: 1 + 1.5 / 5 with a meta step in every fifth.
    assert drawn == {"Plain training": {1.0: [60.0]}, "EvoGrad": {2.5: [80.0], 1.3: [70.0]}}
