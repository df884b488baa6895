"""The report's tables and figures, from records made here."""

from dataclasses import replace

from common.reporting import RunRecord, to_markdown
from metaxl.config import PRESETS
from metaxl.report import (
    by_setting,
    decay_table,
    details_table,
    gains_table,
    language_table,
    published_table,
    section,
)
from tests.experiments import record_of, rows


def record(f1: float, **settings) -> RunRecord:
    """A record as a run would leave it, with this F1 at the selected epoch."""
    config = replace(PRESETS[settings.pop("preset", "quick")], **settings)
    scores = {"dev_f1": f1 + 1, "source_dev_f1": 80.0, "test_f1": f1 - 2, "selected_f1": f1}
    scores |= {f"selected_f1_{kind}": f1 + i for i, kind in enumerate(("LOC", "ORG", "PER"))}
    curves = {f"pca_{name}_{axis}": [0.0, 1.0, 2.0] for name in ("source_before", "target")
              for axis in "xy"}  # fmt: skip
    curves |= {"pca_explained": [0.5, 0.2], "centroid_distance": [1.0]}
    if config.has_transformation:
        scores |= {"moved": 0.25, "norm_ratio": 0.5, "decay_cosine": 0.875}
        curves |= {"pca_source_after_x": [2.0, 3.0, 4.0], "pca_source_after_y": [1.0, 1.0, 2.0]}
        curves["centroid_distance"] = [1.0, 0.5]
    return record_of(
        config,
        [{**scores, "test_f1": f1, "dev_f1": f1 + 2}, scores],
        "dev_f1",
        seconds=0.1 if config.method == "joint_training" else 0.12,
        traces={"hypergradient_norm": [1e-6, 3e-6, 2e-6], "decay_norm": [2e-3] * 3},
        curves=curves,
    )


def test_f1_by_language_and_gains_over_seeds():
    values = {
        ("joint_training", "quy"): (40.0, 42.0, 44.0),
        ("joint_training", "tuk"): (50.0, 50.0, 50.0),
        ("evograd", "quy"): (43.0, 45.0, 50.0),
        ("evograd", "tuk"): (51.0, 53.0),
        ("joint_half", "quy"): (41.0, 43.0),
    }
    records = [
        record(f1, method=method, target=target, seed=seed)
        for (method, target), found in values.items()
        for seed, f1 in enumerate(found, 1)
    ]
    groups = by_setting(records)
    table = language_table(groups, "embedded", "eng")
    assert table.columns == ["method", "quy", "tuk", "runs"]
    found = rows(table, 1)
    # t(2 degrees of freedom, 97.5 %) = 4.3027; standard error of 40, 42, 44 is 2 / sqrt(3)
    assert found["Joint training",] == [f"42.00 ± {4.302653 * 2 / 3**0.5:.2f}", "50.00 ± 0.00", "6"]
    assert found["Joint training on halves",][1:] == ["–", "2"]
    gains = rows(gains_table(records), 1)
    # EvoGrad - joint training: seed 1 has 3, 1, seed 2 has 3, 3, seed 3 no tuk; t(1) = 12.7062.
    assert gains["EvoGrad",] == ["+2.50 ± 6.35", "+2.00 ± 0.00", "–", "2"]
    assert gains["Joint training",] == ["–", "−1.00 ± 0.00", "–", "2"]


def test_sections_keep_data_sets_apart_and_draw_the_figures(tmp_path, not_rendered):
    records = [
        record(40.0, method=method, target="quy") for method in ("joint_training", "evograd")
    ]
    made = section(records, "quick", tmp_path)
    assert list(made.tables) == ["f1-embedded-eng", "summary", "gains", "details", "decay", "cost"]
    assert "1.20" in to_markdown(made.tables["cost"])
    assert {figure.path_png.name for figure in made.figures} == {
        f"{kind}-embedded-eng-quy.png" for kind in ("f1", "seconds", "representations")
    }
    records.append(record(30.0, method="evograd", dataset="masakhaner", source="swa", target="lug"))
    details = rows(details_table(by_setting(records)), 2)
    place = "embedded corpus, eng to quy"
    expected = ["40.0", "40.0", "41.0", "42.0", "38.0", "80.0", "0.25"]
    assert details[place, "EvoGrad"] == expected
    assert details[place, "Joint training"][-1] == "–"
    decay = rows(decay_table(records), 2)
    expected = ["2.0e-06", "2.0e-03", "1.0e-03", "0.500", "0.8750", "1"]
    assert decay["MasakhaNER", "EvoGrad"] == expected
    assert ("embedded corpus", "Joint training") not in decay


def test_table_5_at_the_papers_size():
    values = {"joint_training": 60.0, "evograd": 50.0, "t1t2": 64.9, "target_only": 40.0}
    records = [record(f1, preset="paper", method=m) for m, f1 in values.items()]
    table = published_table(by_setting(records), "paper")
    found = rows(table, 2)
    assert len(found) == 8 * 6
    assert found["qu", "Joint training"][:4] == ["59.75", "60.00", "1 of 3", "+0.25"]
    assert found["qu", "T1-T2 (double backward)"][-1] == "\N{MINUS SIGN}0.39"
    assert found["qu", "EvoGrad"][0] == "71.00"
    assert found["qu", "Target only"][0] == "–"
    assert found["gn", "EvoGrad"][:2] == ["70.91", "–"]
