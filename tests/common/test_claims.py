"""Claims: every verdict recomputed from the shipped records with scipy alone, and runs whose answer
is known."""

import json
import math
import statistics
from dataclasses import replace

import pytest
from scipy import stats

from common.claim_evidence import Contrast, Kept, published_difference, shipped
from common.claim_tables import claims_table, forest_rows, paper_tables, sentence, summary_table
from common.claims import CLAIMS, Claim, judge
from common.reporting import RunRecord, load
from common.settings import ROOT
from rotation.config import PRESETS
from scripts.experiments import EXPERIMENTS

RECORDS = ROOT / "results" / "rotation" / "paper" / "records"


@pytest.fixture(scope="module")
def kept():
    return shipped(ROOT / "results", EXPERIMENTS)


# --- recomputation: the files themselves, scipy's tests


def files(experiment, preset):
    folder = ROOT / "results" / experiment / preset / "records"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def value(runs, name, metric):
    run = runs.get(name)
    if run is None:
        return None
    if metric == "stopped":
        rows = [row for row in run["epochs"] if "meta_accuracy" in row]
        best = max((row["meta_accuracy"] for row in rows), default=None)
        return next((r["accuracy"] for r in rows if r["meta_accuracy"] == best), None)
    return run["final"].get(metric)


def differences(runs, names, seeds, metrics):
    """By seed the mean over places of first - second; None where a run is missing.

    names: pairs of patterns of file names, one a place.
    """
    result = []
    for seed in seeds:
        cells = [
            [value(runs, n.format(seed), m) for n, m in zip(pair, metrics, strict=True)]
            for pair in names
        ]
        if any(None in cell for cell in cells):
            return None
        result.append(sum(a - b for a, b in cells) / len(cells))
    return result


def two_sided(d, alternative, at=0.0):
    return min(1.0, 2 * float(stats.ttest_1samp(d, at, alternative=alternative).pvalue))


def better(d):
    """p-values of: above 0; below 0 or within a point."""
    within = max(two_sided(d, "greater", -1.0), two_sided(d, "less", 1.0))
    return two_sided(d, "greater"), min(two_sided(d, "less"), within)


def not_worse(d):
    return two_sided(d, "greater", -1.0), two_sided(d, "less", -1.0)


def expected_verdicts():
    """Of the claims about runs, by statement: the p-values of every part."""
    rotation, few = files("rotation", "paper"), files("cross_domain_fewshot", "study")
    noise, lingual = files("metaweightnet", "study"), files("metaxl", "study")
    seeds = (1, 23, 345, 4567, 56789)
    gain = [
        rotation[f"evograd-seed{s}"]["final"]["rotated"]
        - rotation[f"baseline-seed{s}"]["final"]["rotated"]
        for s in seeds
    ]
    angle = [rotation[f"evograd-seed{s}"]["final"]["angle_degrees"] for s in seeds]
    toy = files("toy_1d", "paper")
    (correlation,) = (run["final"]["correlation_2"] for run in toy.values())
    normal = stats.norm.sf((100 - 3) ** 0.5 * math.atanh(correlation))

    def shots(against):
        places = [f"{d}-resnet10-n_shot=1" for d in ("devanagari", "latin", "emoji", "icons")]
        names = [(f"{p}-lft_evograd-seed{{}}", f"{p}-{against}-seed{{}}") for p in places]
        return differences(few, names, range(2, 19), ("accuracy", "accuracy"))

    def labels(against, metric="accuracy"):
        place = "mnist-uniform-noise_level=0.6-meta_size=100"
        names = [(f"{place}-evograd-seed{{}}", f"{place}-{against}-seed{{}}")]
        return differences(noise, names, range(3, 13), ("accuracy", metric))

    def languages(first, second):
        places = ["embedded-eng-" + t for t in ("quy", "mri", "tuk")]
        places += ["masakhaner-swa-" + t for t in ("hau", "kin", "lug")]
        names = [(f"{p}-{first}-seed{{}}", f"{p}-{second}-seed{{}}") for p in places]
        return differences(lingual, names, range(2, 26), ("selected_f1", "selected_f1"))

    plain = files("metaweightnet", "paper")[
        "cifar10-flip-noise_level=0.4-meta_size=1000-plain-seed1"
    ]
    quoted = 2 * stats.t.sf((plain["final"]["accuracy"] - 70.77) / (2.31 * (1 + 1 / 5) ** 0.5), 4)
    missing = (1.0, 1.0)

    def parts(rule, *found):
        return [missing if d is None else rule(d) for d in found]

    return [
        [(2 * float(normal), 1.0)],
        [better(gain), (two_sided(angle, "greater"), 1.0)],
        parts(not_worse, shots("lft_t1t2")),
        parts(better, shots("none"), shots("ft")),
        parts(not_worse, labels("t1t2_forward")),
        parts(better, labels("plain"), labels("clean_only"), labels("plain", "stopped"),
              labels("plain", "fine_tuned_accuracy")),
        [(1.0, float(quoted))],
        parts(better, languages("evograd", "t1t2"), languages("t1t2", "joint_training")),
    ]  # fmt: skip


def test_every_verdict_follows_from_the_records(kept):
    judged = [j for j in judge(kept) if j.p is not None]
    ours = expected_verdicts()
    assert len(judged) == len(ours) == 8
    sure = [(max(h for h, _ in p), min(1, len(p) * min(f for _, f in p))) for p in ours]
    rank = sorted(range(8), key=lambda i: min(sure[i]))
    adjusted, running = [0.0] * 8, 0.0
    for place, i in enumerate(rank):  # Holm
        running = max(running, min(1.0, (8 - place) * min(sure[i])))
        adjusted[i] = running
    for j, p, (holds, fails) in zip(judged, adjusted, sure, strict=True):
        assert j.p == pytest.approx(p, rel=1e-6), j.claim.statement
        if p > 0.05:
            assert j.verdict == "open"
        elif holds < fails:
            assert j.verdict in ("supported", "depends on the setting")
        elif j.claim.where in ("Figure 2", "section 4.2") or "quoted" in j.claim.statement:
            assert j.verdict == "contradicted"  # at the paper's size
        else:
            assert j.verdict in ("does not transfer", "depends on the setting")


def cost(place, row, experiment="metaweightnet", sizes=("small",)):
    """Bytes beyond a step's start, and time in plain steps; of the first size that has them."""
    records = [
        ROOT / f"results/benchmark/{size}/records/cpu/{experiment}/{place}" for size in sizes
    ]
    m = json.loads(next(p for r in records if (p := r / f"{row}.json").exists()).read_text())
    ratios = [a / b for a, b in zip(m["seconds"], m["plain_seconds"], strict=True)]
    return m["peak_bytes"], statistics.median(ratios)


def test_verdicts_on_costs_follow_from_the_records(kept):
    judged = {j.claim.statement: j for j in judge(kept)}
    evograd, graph = "evograd-num-candidates-{}", "evograd-graph-num-candidates-{}"
    width, both = "resnet-32-label-noise-by-width--width-1", ("paper", "small")
    place = "resnet-32-label-noise-by-data-set--cifar-10"
    t1t2, ours = (cost(place, row, sizes=("paper",))[1] for row in ("t1t2", evograd.format(2)))
    here = judged["Label noise: EvoGrad is cheaper than T1-T2, here"]
    assert here.primary[0].measured == f"{t1t2 / ours:.1f}" and t1t2 > ours
    assert here.verdict == "supported"
    widths = judged["Wider networks: the ratio of times grows"]
    ratios = [float(r) for r in widths.primary[0].measured.split(" (")[0].split(", ")]
    sizes = ("small",) if len(ratios) == 2 else both  # the paper's need more widths
    second, first = (cost(width, row, sizes=sizes)[1] for row in ("t1t2", evograd.format(2)))
    assert ratios[0] == round(second / first, 1)
    assert (widths.verdict == "supported") == (ratios[-1] > ratios[0])
    for way, row, verdict in (
        ("as released", graph, "contradicted"),
        ("here", evograd, "supported"),
    ):
        many, few = (
            cost("lenet-rotation--batch-128", row.format(k), "rotation")[0] for k in (16, 2)
        )
        claim = judged[f"Memory is constant in the candidates, {way}"]
        assert claim.primary[0].measured == f"{many / few:.2f}"
        assert claim.verdict == verdict and (many / few <= 1.05) == (verdict == "supported")
    many = cost("resnet-32-label-noise-by-weight-net--10-000-hidden-units", "t1t2")[1]
    assert many < 1.5 * cost(width, "t1t2")[1]
    growth = judged["T1-T2 takes O(PH) time"]
    assert growth.verdict == "contradicted"


# --- published differences


SHOT = ("1shot", "resnet10")


@pytest.mark.parametrize(
    ("experiment", "first", "second", "mean", "half"),
    [
        ("metaxl", ["evograd"], ["t1t2"], 2.4, 4.1),
        ("metaxl", ["t1t2"], ["joint_training"], 1.2, 3.7),
        ("cross_domain_fewshot", [*SHOT, "lft_evograd"], [*SHOT, "lft_t1t2"], 0.9, 1.3),
        ("cross_domain_fewshot", [*SHOT, "lft_evograd"], [*SHOT, "none"], 2.8, 0.6),
        ("metaweightnet", ["cifar10", "0.4", "evograd"], ["cifar10", "0.4", "t1t2"], 1.8, 0.7),
    ],
)
def test_published_differences_have_intervals(experiment, first, second, mean, half):
    assert published_difference(experiment, first, second) == pytest.approx((mean, half), abs=0.051)


# --- runs whose answer is known


def runs_of(differences, preset="study", rate=PRESETS["quick"].learning_rate):
    """Runs of EvoGrad and T1-T2 on rotation whose accuracies differ so, from seed 2 on."""
    base = load(RECORDS / "evograd-seed1.json", RunRecord)
    changes = [
        ({"method": method, "seed": seed, "learning_rate": rate}, 80 + d * (method == "evograd"))
        for seed, d in enumerate(differences, 2)
        for method in ("evograd", "t1t2")
    ]
    return [
        base.model_copy(
            update={"method": c["method"], "seed": c["seed"], "preset": preset,
                    "config": replace(PRESETS["quick"], **c).result_settings(),
                    "final": base.final | {"rotated": rotated}}
        )
        for c, rotated in changes
    ]  # fmt: skip


def judged_on(differences, rule="better", preset="study", seeds=None):
    """A claim with one comparison, on such runs."""
    seeds = seeds or tuple(range(2, 2 + len(differences)))
    part = Contrast("c", "rotation", preset, "evograd", "t1t2", seeds, rule=rule)
    runs = {("rotation", preset): runs_of(differences, preset)}
    (judged,) = judge(Kept(runs), [Claim("c", "here", (part,))])
    return judged


UP, DOWN, SMALL = (2.0, 2.2, 1.9, 2.1), (-2.0, -2.2, -1.9, -2.1), (0.1, -0.1, 0.2, -0.2)


@pytest.mark.parametrize(
    ("rule", "differences", "preset", "verdict", "word"),
    [
        ("better", UP, "study", "supported", "better"),
        ("better", DOWN, "study", "does not transfer", "worse"),
        ("better", DOWN, "paper", "contradicted", "worse"),
        ("better", SMALL, "study", "does not transfer", "no difference of a point"),
        ("better", (2.0, -2.2, 1.9, -1.5), "study", "open", "open"),
        ("not worse", (-0.2, -0.3, -0.1, -0.2), "study", "supported", "worse"),
        ("not worse", DOWN, "paper", "contradicted", "worse"),
        ("not worse", (-2.0, 1.0, 0.5, -1.5), "study", "open", "open"),
    ],
)
def test_verdicts_and_words(rule, differences, preset, verdict, word):
    judged = judged_on(differences, rule, preset)
    assert (judged.verdict, judged.primary[0].word) == (verdict, word)
    assert (judged.hours is not None) == (verdict == "open")


def test_closed_comparisons_elsewhere_that_disagree_are_named():
    kept = Kept({("rotation", "study"): runs_of(UP) + runs_of(DOWN, rate=0.5)})
    at = Contrast("usual", "rotation", "study", "evograd", "t1t2", (2, 3, 4, 5))
    other = replace(at, what="other", changes=({"learning_rate": 0.5},) * 2)
    for first, second in ((at, other), (other, at)):
        (judged,) = judge(kept, [Claim("c", "here", (first,), (second,))])
        assert judged.verdict == "depends on the setting"
        assert [f.what for f in judged.against] == [second.what]
    # A part elsewhere refutes a claim of several parts, and does not save one.
    (refuted,) = judge(kept, [Claim("c", "here", (at, at), (other,))])
    (lost,) = judge(kept, [Claim("c", "here", (other, other), (at,))])
    assert (refuted.verdict, lost.verdict) == ("depends on the setting", "does not transfer")


def test_the_hours_of_an_open_claim():
    each = load(RECORDS / "evograd-seed1.json", RunRecord).provenance
    hours = each["wall_seconds"] * each["torch_threads"] / 3600
    judged = judged_on(UP, seeds=(2, 3, 4, 5, 6, 7))  # two seeds of two methods are missing
    assert judged.verdict == "open" and judged.hours == pytest.approx(4 * hours)
    assert judged.primary[0].measured.startswith("so far +2.05 ")
    # More seeds. Mean 1, sd 1.41, two-sided level 0.05: pairs for power 90 %, by the noncentral t.
    n = 2
    while stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, n**0.5 / 2**0.5) < 0.9:
        n += 1
    assert judged_on((0.0, 2.0)).hours == pytest.approx((n - 2) * 2 * hours)


def test_own_runs_are_shown_where_a_preset_has_them(kept):
    part = next(p for c in CLAIMS for p in c.primary if isinstance(p, Contrast))
    assert part.own(Kept({}), "quick") is None
    runs = {key: value for key, value in kept.runs.items() if key == ("rotation", "quick")}
    own = part.own(Kept(runs), "quick")
    seeds = (1, 23, 345)
    quick = files("rotation", "quick")
    expected = [
        quick[f"evograd-seed{s}"]["final"]["rotated"]
        - quick[f"baseline-seed{s}"]["final"]["rotated"]
        for s in seeds
    ]
    assert own.values == pytest.approx(tuple(expected))
    rows = forest_rows(judge(kept), Kept(runs), "quick")
    assert [r.label for r in rows if r.own] == [part.title]


def test_tables_have_every_claim_and_no_empty_cell(kept):
    judged = judge(kept)
    assert len(CLAIMS) >= 15 and all(len(c.statement.split()) <= 11 for c in CLAIMS)
    tables = [claims_table(judged), summary_table(judged), *paper_tables(judged, kept).values()]
    ways = sum(c.statement.endswith(", as released") for c in CLAIMS)  # and here: one row
    assert [len(t.rows) for t in tables[:2]] == [len(CLAIMS), len(CLAIMS) - ways]
    assert all(str(cell).strip() for table in tables[:3] for row in table.rows for cell in row)
    where = {row[0] for row in tables[2].rows}
    assert where >= {*(f"Figure {n}" for n in range(1, 7)), *(f"Table {n}" for n in range(1, 6))}
    assert sentence(judged).startswith(f"Of the paper's {len(CLAIMS)} claims: ")


def test_seeds_that_chose_a_setting_do_not_judge_it():
    first = {"metaweightnet": 3, "cross_domain_fewshot": 2, "metaxl": 2, "rotation": 1}
    for part in (p for c in CLAIMS for p in c.primary if isinstance(p, Contrast)):
        assert min(part.seeds) == first[part.experiment]
