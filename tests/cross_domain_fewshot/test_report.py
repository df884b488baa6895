"""Tables and figures from records with known numbers."""

from dataclasses import replace

import pytest

from common.reporting import RunRecord
from cross_domain_fewshot.config import PRESETS, Config
from cross_domain_fewshot.models import ResNet, deviation_curves
from cross_domain_fewshot.report import (
    accuracy_cells,
    accuracy_table,
    effects_table,
    embedded_tables,
    ordered_runs,
    published_accuracy,
    section,
)
from tests.experiments import record_of, rows

MINUS = "\N{MINUS SIGN}"


def record(accuracy: float, preset: str = "quick", best: float = 0.0, **changes) -> RunRecord:
    config = replace(PRESETS[preset], **changes)
    final = {"accuracy": accuracy, "ci95": 0.6, "best_accuracy": best, "best_ci95": 0.5,
             "val_accuracy": 60.0, "val_ci95": 1.0}  # fmt: skip
    backbone = ResNet(config.backbone, 4, config.stem, config.transformed)
    seconds = 0.02 if config.method == "none" else 0.05
    curves = deviation_curves(backbone)
    return record_of(config, [final], "val_accuracy", seconds=seconds, curves=curves)


def quick_records():
    values = {
        ("icons", "none"): (40.0, 42.0), ("icons", "lft_evograd"): (43.0, 43.0),
        ("emoji", "none"): (50.0, 50.0), ("emoji", "lft_evograd"): (48.0, 52.0),
    }  # fmt: skip
    return [
        record(value, best=value + 1, unseen=unseen, method=method, seed=seed)
        for (unseen, method), both in values.items()
        for seed, value in enumerate(both, 1)
    ]


def test_the_embedded_table_has_means_gains_and_the_mean_over_domains():
    records = [*quick_records(), record(30.0, unseen="icons", method="ft")]
    tables = embedded_tables(accuracy_cells(ordered_runs(records)))
    table = rows(tables["embedded"], 3)
    setting = "ResNet-10, relationnet, 5-way 1-shot"
    assert table[setting, "icons", "No transformation"] == [
        "41.00 ± 12.71", "–", "–", "42.00 ± 12.71", "60.00 ± 0.00", "2",
    ]  # fmt: skip
    # Differences on the same seeds: 3 and 1.
    assert table[setting, "icons", "LFT, EvoGrad"][:2] == ["43.00 ± 0.00", "+2.00 ± 12.71"]
    # A single run: its own interval over episodes; seed 1 of none has 40.
    assert table[setting, "icons", "FT"][:2] == ["30.00 ± 0.60", f"{MINUS}10.00"]
    # By seed over domains: none 45 and 46; evograd 45.5 and 47.5, so gains of 0.5 and 1.5; FT lacks
    # a domain.
    assert rows(tables["summary"], 1) == {
        ("No transformation",): ["2", "45.50 ± 6.35", "–", "–"],
        ("LFT, EvoGrad",): ["2", "46.50 ± 12.71", "+1.00 ± 6.35", "–"],
    }
    assert table[setting, "mean", "LFT, EvoGrad"] == [
        "46.50 ± 12.71", "+1.00 ± 6.35", "–", "47.50 ± 12.71", "60.00 ± 0.00", "2",
    ]  # fmt: skip


def test_effects_are_differences_on_the_same_domain_and_seed():
    pairs, fixed = {"method": "none", "protocol": "pairs"}, {"method": "ft", "protocol": "fixed"}
    records = [
        *(record(50.0 + s, seed=s, method="none") for s in (1, 2, 3)),
        *(record(49.0, seed=s, **pairs) for s in (1, 2)),
        record(40.0, unseen="emoji", method="ft"),
        record(43.0, unseen="emoji", **fixed),
        record(60.0, unseen="latin", **fixed),
    ]
    found = {
        tuple(map(str, row[1:3])): [str(cell) for cell in row[3:]]
        for row in effects_table(ordered_runs(records)).rows
    }
    # Differences 2 and 3: standard error 0.5, t with one degree of freedom 12.71.
    stream = "mixed stream instead of pairs, no auxiliary loss"
    assert found[stream, "No transformation"] == ["+2.50 ± 6.35", "2"]
    trained = "FT trained instead of fixed, mixed stream"
    assert found[trained, "FT"] == [f"{MINUS}3.00", "1"]
    assert len(found) == 2  # effects without runs are left out


def test_a_section_has_its_tables_and_figures(tmp_path):
    made = section(quick_records(), "quick", tmp_path)
    assert list(made.tables) == ["summary", "embedded", "effects", "cost"]
    assert all((tmp_path / f"{name}.md").exists() for name in made.tables)
    names = {figure.path_png.name for figure in made.figures}
    stem = "embedded-resnet-10-relationnet-5-way-1-shot.png"
    domains = ("sketches", "icons", "emoji", "latin", "devanagari")
    images = {f"images-embedded-{domain}.png" for domain in domains}
    assert names == {f"accuracy-{stem}", f"deviations-{stem}"} | images
    cost = rows(made.tables["cost"], 1)
    assert cost["LFT, EvoGrad",][:2] == ["50.0", "2.50"]


def test_at_the_papers_size_runs_stand_beside_table_3():
    found = [record(47.0, "paper", method="lft_evograd")]
    table = rows(accuracy_table(found, "paper"), 3)
    key = "ResNet-10, relationnet, 5-way 1-shot", "cub", "LFT, EvoGrad"
    assert table[key] == ["47.39 ± 0.61", "47.00 ± 0.60", "1 of 1", f"{MINUS}0.39"]
    # Cells without runs are there too.
    assert len(table) == 104
    other = "ResNet-34, relationnet, 5-way 5-shot", "plantae", "LFT, EvoGrad"
    assert table[other][0] == "52.47 ± 0.56"


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [("lft_t1t2_higher", {"n_shot": 5}, 65.94), ("lft_evograd", {"n_shot": 3}, None),
     ("lft_evograd", {"backbone": "resnet34", "unseen": "cars"}, 33.21),
     ("lft_t1t2", {"backbone": "resnet34"}, None), ("lft_finite_difference", {}, None)],
)  # fmt: skip
def test_published_values_are_table_3s(method, changes, expected):
    found = published_accuracy(replace(Config(), method=method, **changes).result_settings())
    assert (found.mean if found else None) == expected
