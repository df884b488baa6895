"""Claims against runs and costs whose answers are known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from common import claims
from common.cost_study.records import read_measurements
from common.reporting import RunRecord, load
from common.settings import ROOT
from rotation.config import PRESETS
from scripts.experiments import EXPERIMENTS

CLAIMS = ROOT / "docs" / "claims.json"
DATA = json.loads(CLAIMS.read_text())
RECORDS = ROOT / "results" / "rotation" / "paper" / "records"
COMPARISON = {"what": "c", "published": "", "kind": "better", "experiment": "rotation",
              "method": "evograd", "against": "t1t2", "metric": "final.rotated"}  # fmt: skip


def source(differences, size="quick") -> claims.Source:
    """Runs of two methods whose accuracies differ so, by seed."""
    base = load(RECORDS / "evograd-seed1.json", RunRecord)

    def run(method, seed, value):
        config = replace(PRESETS[size], method=method, seed=seed).result_settings()
        return base.model_copy(
            update={"method": method, "seed": seed, "config": config, "preset": size,
                    "final": base.final | {"rotated": value}}
        )  # fmt: skip

    pairs = enumerate(differences, 1)
    runs = [r for s, d in pairs for r in (run("evograd", s, 80 + s + d), run("t1t2", s, 80 + s))]
    return claims.Source(size, "folder", {"rotation": runs})


def findings(kind, *sources, **changes):
    comparison = COMPARISON | {"kind": kind} | changes
    data = {"margin": 1.0, "claims": [{"comparisons": [comparison]}]}
    return claims.judge_claims(data, sources)


@pytest.mark.parametrize(
    ("kind", "differences", "verdict"),
    [
        ("better", (2.0, 2.2, 1.9, 2.1), "supported"),
        ("better", (-2.0, -2.2, -1.9, -2.1), "contradicted"),
        ("better", (2.0, -2.2, 1.9, -1.5), "undecided"),
        ("better", (5.0,), "undecided"),
        ("comparable", (0.1, -0.1, 0.2, 0.0), "supported"),
        ("comparable", (2.0, 2.2, 1.9, 2.1), "contradicted"),
        ("comparable", (3.0, -3.0, 2.0, -2.0), "undecided"),
        ("not worse", (2.0, 2.2, 1.9, 2.1), "supported"),
        ("not worse", (-0.2, -0.3, -0.1, -0.2), "supported"),
        ("not worse", (-2.0, -2.2, -1.9, -2.1), "contradicted"),
        ("not worse", (-2.0, 1.0, 0.5, -1.5), "undecided"),
    ],
)
def test_paired_verdicts(kind, differences, verdict):
    (found,) = findings(kind, source(differences))
    assert found.judged.verdict == verdict
    assert bool(found.judged.decide) == (verdict == "undecided")
    assert found.judged.sample.startswith(f"{len(differences)} seed")


def test_many_comparisons_are_corrected_together():
    # p = 0.03 alone is enough; among four of its kind Holm asks for 0.0125.
    differences = (1.0, 2.2, 0.8, 3.0, 0.6)
    (alone,) = findings("better", source(differences))
    assert 0.0125 < min(alone.judged.p) < 0.05 and alone.judged.verdict == "supported"
    sources = [source(differences, size) for size in ("paper", "quick", "quick", "smoke")]
    assert {f.judged.verdict for f in findings("better", *sources)} == {"undecided"}
    # Single seeds are no tests.
    singles = [source((1.0,)) for _ in range(3)]
    first, *rest = findings("better", source(differences), *singles)
    assert first.judged.verdict == "supported" and {f.judged.verdict for f in rest} == {"undecided"}


def test_a_claim_has_the_verdict_of_the_largest_size():
    small, large = source((2.0, 2.2, 1.9, 2.1), "quick"), source((-2, -2.2, -1.9, -2.1), "paper")
    found = findings("better", small, large)
    assert [f.judged.verdict for f in found] == ["supported", "contradicted"]
    assert claims.verdict_of(found) == "contradicted"
    assert claims.verdict_of(findings("better")) == "undecided"


def test_a_single_pair_does_not_decide_where_another_size_has_more():
    found = findings("better", source((-9.0,), "paper"), source((2.0, 2.2, 1.9, 2.1), "quick"))
    assert [f.judged.verdict for f in found] == ["undecided", "supported"]
    assert claims.verdict_of(found) == "supported"


def test_an_interval_is_shown_and_other_settings_are_left_out():
    (found,) = findings("better", source((1.0, 2.0, 3.0)))
    assert found.judged.measured == "+2.00 ± 2.48"  # t(2, 0.975) = 4.303, sd 1, n 3
    where = {"epochs": 99}
    assert [f.source for f in findings("better", source((1.0, 2.0)), where=where)] == [None]


def test_a_variant_is_compared_with_a_method_that_it_does_not_concern():
    folder = ROOT / "results" / "metaweightnet" / "study" / "records"
    names = [
        f"mnist-uniform-noise_level=0.6-{m}"
        for m in ("evograd-seed{}-meta_weight_decay=0.0005", "plain-seed{}")
    ]
    runs = [[load(folder / f"{n.format(s)}.json", RunRecord) for s in range(1, 11)] for n in names]
    gains = [a.final["accuracy"] - b.final["accuracy"] for a, b in zip(*runs, strict=True)]
    (found,) = findings(
        "better", claims.Source("study", "folder", {"metaweightnet": runs[0] + runs[1]}),
        experiment="metaweightnet", against="plain", metric="final.accuracy",
        variant=["meta_weight_decay=0.0005"],
    )  # fmt: skip
    assert found.judged.sample == "10 seeds"
    assert found.judged.measured.startswith(f"{sum(gains) / 10:+.2f} ")


def test_what_would_decide_has_its_time():
    # t-test of mean 1, sd 1.41, level 0.025 one-sided, power 80 %: 18 pairs, 16 more than seen.
    (found,) = findings("better", source((0.0, 2.0)))
    each = load(RECORDS / "evograd-seed1.json", RunRecord).provenance["wall_seconds"]
    minutes = round(16 * 2 * each / 60)
    assert found.judged.decide == f"about 18 seeds ({minutes} minutes more)"


def test_costs_are_ratios_of_shipped_measurements():
    costs = read_measurements(ROOT / "results" / "benchmark" / "small" / "records")
    found = claims.judge_claims(DATA, [claims.Source("small", "f", {}, costs)])
    rows = {(m.x, m.key): m for m in costs if m.outcome == "measured"}
    t1t2, evograd = rows["width 1", "t1t2"], rows["width 1", "evograd num_candidates=2"]
    memory = next(f for f in found if f.comparison.get("x") == "width 1"
                  and f.comparison["quantity"] == "memory")  # fmt: skip
    assert memory.judged.measured == f"{t1t2.total_bytes / evograd.total_bytes:.2f}"
    assert memory.judged.verdict == "supported"
    growth = next(f for f in found if f.comparison["kind"] == "growth")
    assert growth.judged.sample == "2 places"


def test_growth_and_constants_can_fail():
    def costs(**seconds):
        return [
            SimpleNamespace(
                experiment="e", figure="f", x=x, key=row, outcome="measured",
                seconds=[value], peak_bytes=100 * (2 if row == "a" else 1), total_bytes=1,
            )
            for x, pair in seconds.items() for row, value in zip("ab", pair, strict=True)
        ]  # fmt: skip

    growth = {"what": "g", "kind": "growth", "quantity": "time", "experiment": "e", "figure": "f",
              "method": "a", "against": "b"}  # fmt: skip
    for seconds, verdict in (
        ({"w1": (3, 1), "w2": (6, 1)}, "supported"),
        ({"w1": (6, 1), "w2": (3, 1)}, "contradicted"),
    ):
        found = claims.judge_claims(
            {"margin": 1, "claims": [{"comparisons": [growth]}]},
            [claims.Source("small", "f", {}, costs(**seconds))],
        )
        assert found[0].judged.verdict == verdict
    constant = growth | {"kind": "constant", "x": "w1"}
    found = claims.judge_claims(
        {"margin": 1, "claims": [{"comparisons": [constant]}]},
        [claims.Source("small", "f", {}, costs(w1=(1, 1)))],
    )
    assert (found[0].judged.measured, found[0].judged.verdict) == ("2.000", "contradicted")


def test_every_claim_has_its_row_and_no_cell_is_empty(tmp_path):
    sources = claims.shipped_sources(ROOT / "results", EXPERIMENTS)
    made = claims.section(CLAIMS, sources, tmp_path)
    summary, evidence = made.tables.values()
    assert len(summary.rows) == len(DATA["claims"]) == 13
    assert all(str(cell).strip() for row in summary.rows for cell in row)
    rows = evidence.rows
    trend = next(row for row in rows if row[0].startswith("correlation"))
    assert str(trend[1]) == "supported" and (tmp_path / "evidence.md").exists()


def test_published_differences_are_those_of_the_papers_tables():
    few, xl = (json.loads((ROOT / e / "published.json").read_text())["values"]
               for e in ("cross_domain_fewshot", "metaxl"))  # fmt: skip
    texts = {c["what"]: c["published"] for claim in DATA["claims"]
             for c in claim["comparisons"]}  # fmt: skip

    def mean(values):
        numbers = [v[0] if isinstance(v, list) else v for v in values.values()]
        return sum(numbers) / len(numbers)

    for what, other in (("none", "none"), ("FT", "ft"), ("with T1-T2", "lft_t1t2")):
        shots = [mean(few[s]["resnet10"]["lft_evograd"]) - mean(few[s]["resnet10"][other])
                 for s in ("1shot", "5shot")]  # fmt: skip
        text = f"{shots[0]:+.2f} (1 shot), {shots[1]:+.2f} (5 shots)".replace("-", "\N{MINUS SIGN}")
        assert texts[f"LFT with EvoGrad \N{MINUS SIGN} {what}"] == text
    for what, a, b in (("EvoGrad − T1-T2", "evograd", "t1t2"),
                       ("T1-T2 − joint training", "t1t2", "joint_training")):  # fmt: skip
        published = [c["published"] for claim in DATA["claims"]
                     for c in claim["comparisons"]
                     if c["what"] == what and c["experiment"] == "metaxl"]  # fmt: skip
        assert published == [f"{mean(xl[a]) - mean(xl[b]):+.2f}"]
