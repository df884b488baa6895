"""The paper's claims, an entry for each, and their verdicts.

A claim has one primary comparison with its setting and seeds, frozen before the seeds that judge
were run; of a claim in several parts ("A above B, B above C") every part must hold. ``RULE`` says
how it is judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from common.claim_evidence import (
    MARGIN,
    POWER,
    Comparison,
    Contrast,
    Cost,
    Finding,
    Kept,
    Measurement,
    Place,
    Quoted,
    Read,
    Rows,
    Rule,
    Trend,
    published_difference,
    published_mean,
)
from common.reporting import published, published_value
from common.reporting.statistics import LEVEL, holm

Verdict = Literal[
    "supported", "contradicted", "depends on the setting", "does not transfer", "open"
]
RULE = (
    "Each claim has one primary comparison, whose setting and seeds were fixed on the date given; "
    "of a comparison in several parts every part must hold.",
    "Methods are compared on the same seeds (same data, same start): the mean difference in points "
    "over seeds, domains or languages averaged first, ± half its 95 % interval (Student's t).",
    "A comparison is better or worse if the interval lies on one side of 0, no difference of a "
    f"point if it lies within ±{MARGIN:g}, else open; “not worse” holds if it lies above "
    f"−{MARGIN:g}.",
    "A claim has one p-value, of its weakest part (intersection-union test); all are corrected "
    "together (Holm) and must be below 0.05. A claim that lacks runs counts with p = 1.",
    "Supported: the primary comparison holds. Contradicted: it fails in a setting of the paper, or "
    "the published size is excluded at the paper's size. Does not transfer: it fails at the small "
    "setting, or by this machine's clock where another's may differ.",
    "Elsewhere: evidence that supports or contradicts nothing by itself. Depends on the setting: "
    "the primary comparison is closed, and closed ones elsewhere (marked) disagree; a part that "
    "holds elsewhere does not save a claim of several parts.",
    "Open: the core-hours of the runs of the frozen seeds that are missing; where none is, of the "
    f"seeds that would close it with power {100 * POWER:g} %, were mean and spread those seen.",
    "Runs of preset quick and the reader's own are shown in the report and never counted.",
    "Label noise has two outcomes. Failed: runs of EvoGrad (and of T1-T2) at whose end the mean "
    "weights of right and wrong labels differ by less than 0.1.",
    "Costs: T1-T2 / EvoGrad. Memory is counted exactly. Times are of one machine, with one digit; "
    "a method is faster if that digit says so and the quartiles over rounds do not overlap.",
)


@dataclass(frozen=True)
class Claim:
    """primary: its parts, all of which must hold. elsewhere: further evidence. where: in the
    paper. frozen: when primary and seeds were fixed."""

    statement: str
    where: str
    primary: tuple[Comparison, ...]
    elsewhere: tuple[Comparison, ...] = ()
    frozen: date = date(2026, 12, 1)


@dataclass(frozen=True)
class Judged:
    """A claim with its findings. p: of the better supported outcome, corrected; None if exact.
    hours: core-hours that would decide an open one, None if not known. against: the findings
    elsewhere that disagree."""

    claim: Claim
    verdict: Verdict
    primary: tuple[Finding, ...]
    elsewhere: tuple[Finding, ...]
    p: float | None
    hours: float | None = None
    against: tuple[Finding, ...] = ()

    @property
    def word(self) -> str:
        """The verdict as it is shown."""
        if self.verdict != "open":
            return self.verdict
        return f"open ({self.hours:.1f} core-hours)" if self.hours else "open"


# --- runs

_ROTATION = (1, 23, 345, 4567, 56789)
_DOMAINS = tuple(
    {"unseen": unseen, "backbone": "resnet10", "n_shot": 1}
    for unseen in ("devanagari", "latin", "emoji", "icons")
)
_LANGUAGES = tuple(
    {"dataset": dataset, "target": target}
    for dataset, targets in (
        ("embedded", ("quy", "mri", "tuk")), ("masakhaner", ("hau", "kin", "lug"))
    )
    for target in targets
)  # fmt: skip
_MNIST = {"dataset": "mnist", "noise": "uniform", "noise_level": 0.6}
_PRIMARY = _MNIST | {"meta_size": 100}
_FLIP = {"dataset": "cifar10", "noise": "flip", "noise_level": 0.4, "meta_size": 1000}
_HUMAN = {"dataset": "cifar10", "noise": "human", "human_labels": "worse", "meta_size": 1000}
_CIFAR = ("cifar10", "0.4")
_STATED = {"plain": "baseline_copied", "t1t2_forward": "t1t2"}
"""Label noise: published rows, at 40 % flipped."""
_DECAY = {"meta_weight_decay": 5e-4}
_LIKE = {"protocol": "controlled"}
"""none and ft in the training loop of the methods that learn."""


def few_shot(
    against: str, words: str, rule: Rule = "better", changes: Place | None = None
) -> Contrast:
    """LFT with EvoGrad minus another method, one shot, over the unseen domains."""
    name, shot = "cross_domain_fewshot", ("1shot", "resnet10")
    stated = None
    if against != "both_domains" and not changes:
        stated = published_difference(name, (*shot, "lft_evograd"), (*shot, against))
    what, seeds = f"LFT with EvoGrad − {words}", tuple(range(2, 19))
    return Contrast(
        what, name, "study", "lft_evograd", against, seeds, _DOMAINS, rule,
        changes=({}, changes or {}), published=stated,
    )  # fmt: skip


def label_noise(
    against: str, words: str, place: Place, seeds: Sequence[int], rule: Rule = "better",
    metrics: tuple[str, str] = ("", ""), changes: Place | None = None,
) -> Contrast:  # fmt: skip
    """EvoGrad minus another method, at a setting of preset study; changes: of those methods that
    have an estimator."""
    mine, stated = changes or {}, None
    if place == _PRIMARY and metrics == ("", "") and against in _STATED:
        stated = published_difference(
            "metaweightnet", (*_CIFAR, "evograd"), (*_CIFAR, _STATED[against])
        )
    return Contrast(
        words, "metaweightnet", "study", "evograd", against, tuple(seeds), (place,),
        rule, metrics, (mine, mine if against.startswith("t1t2") else {}), published=stated,
    )  # fmt: skip


def cross_lingual(method: str, against: str, words: str) -> Contrast:
    """The difference in F1 over the languages of both small corpora."""
    stated = published_difference("metaxl", (method,), (against,))
    return Contrast(
        words, "metaxl", "study", method, against, tuple(range(2, 26)), _LANGUAGES, published=stated
    )


def _noise_elsewhere(against: str, rule: Rule) -> tuple[Contrast, ...]:
    """The settings with 1,000 clean images; seed 1 chose among them."""
    mnist = _MNIST | {"meta_size": 1000}
    settings = (
        ("MNIST, 1,000 clean images", mnist, range(2, 11)),
        ("CIFAR-10, 40 % flipped", _FLIP, range(2, 6)),
        ("CIFAR-10, human labels", _HUMAN, range(2, 6)),
    )
    return tuple(
        label_noise(against, f"{name}{words}", place, seeds, rule, changes=changes)
        for name, place, seeds in settings
        for words, changes in (("", {}), (", decay 5e-4", _DECAY))
    )


# --- costs

_CARD = 12 * 2**30
_ADDED = 8.3 / 6.2
"""What the paper measured of T1-T2 at ResNet-10, by what is counted of the same step."""


def ratio(of: str, holds: Callable[[float], bool] = lambda value: value > 1) -> Read:
    """A count of a step, first row / second: all memory in use at the peak, operations, or the peak
    beyond what was resident."""

    def read(rows: Sequence[Measurement]) -> tuple[str, bool]:
        value = getattr(rows[0], of) / getattr(rows[1], of)
        return f"{value:.2f}", holds(value)

    return read


memory, operations = ratio("total_bytes"), ratio("operations")
constant = ratio("peak_bytes", lambda value: value <= 1.05)


def time(rows: Sequence[Measurement]) -> tuple[str, bool | None]:
    """Seconds of a step, first row / second, each in plain steps of its own process."""
    times = round(rows[0].time_ratio / rows[1].time_ratio, 1)
    (low, high), (other_low, other_high) = (row.time_quartiles for row in rows)
    apart = low > other_high or high < other_low
    return f"{times:.1f}", times > 1 if apart and times != 1 else None


def widths(rows: Sequence[Measurement]) -> tuple[str, bool | None]:
    """Ratios of time of pairs of rows, from the narrowest to the widest."""
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    ratios = [round(a.time_ratio / b.time_ratio, 1) for a, b in pairs]
    at = f"{rows[0].x} to {rows[-1].x.removeprefix('width ')}"
    return f"{', '.join(f'{r:.1f}' for r in ratios)} ({at})", ratios[-1] > ratios[0]


def hyperparameters(rows: Sequence[Measurement]) -> tuple[str, bool | None]:
    """Time of a step in plain steps with few and many hyperparameters: half as much again."""
    text = ", ".join(f"× {m.time_ratio:.1f} at H = {m.hyperparameters:,}" for m in rows)
    return text, rows[1].time_ratio > 1.5 * rows[0].time_ratio


def fits(rows: Sequence[Measurement]) -> tuple[str, bool | None]:
    """Whether the first row needs at most 12 GiB and the second more; open where the second's
    count lies so near that what a card adds (workspaces, the allocator's gaps) would decide."""
    first, second = (m.total_bytes for m in rows)
    near = first <= _CARD and second <= _CARD < _ADDED * second
    text = f"{first / 1e9:.1f} GB and {second / 1e9:.1f} GB"
    return text, None if near else first <= _CARD < second


_NOISY = "metaweightnet"
_HERE = (("t1t2", "evograd num_candidates=2"),)
_RELEASED = (
    ("t1t2 released", "evograd num_candidates=2 released"),
    ("t1t2", "evograd num_candidates=2 released"),
    ("t1t2", "evograd_graph num_candidates=2"),
)
"""Rows of T1-T2 and EvoGrad, the first that was measured: all graphs kept, as the authors do."""


def cheaper(
    title: str, where: str, experiment: str, small: str, paper: Sequence[str], figure: dict
) -> list[Claim]:
    """Less time and memory than T1-T2, as released and here. small, paper: places of the cost
    study, the first counted, the first that is measured timed. figure: the published costs."""
    seconds = next(key for key in figure["t1t2"] if key.startswith("seconds"))
    stated = [figure["t1t2"][key] / figure["evograd"][key] for key in (seconds, "memory_gb")]
    claims = []
    for way, keys in (("as released", _RELEASED), ("here", _HERE)):
        timed = tuple(
            Rows(size, "cpu", tuple((x, k) for k in pair), size == "paper" or experiment == _NOISY)
            for size, x in (*(("paper", x) for x in paper), ("small", small))
            for pair in keys
        )
        counted = Rows("paper", "counted", tuple((paper[0], k) for k in keys[0]))
        parts = (
            Cost(f"time {way}", experiment, timed, time, f"{stated[0]:.1f}"),
            Cost(f"memory {way}", experiment, (counted,), memory, f"{stated[1]:.2f}"),
        )
        more = Cost(f"operations {way}", experiment, (counted,), operations)
        statement = f"{title}: EvoGrad is cheaper than T1-T2, {way}"
        claims.append(Claim(statement, where, parts, (more,)))
    return claims


def constant_memory(way: str, method: str) -> Claim:
    """Peak memory with 16 candidates by that with 2, on LeNet as in the paper."""
    keys = tuple(f"{method} num_candidates={count}" for count in (16, 2))
    at = [Rows("small", "cpu", tuple((x, key) for key in keys)) for x in ("batch 128", "width 1")]
    return Claim(
        f"Memory is constant in the candidates, {way}",
        "Table 2",
        (Cost(f"K = 16 / K = 2 {way}, LeNet", "rotation", (at[0],), constant, "1"),),
        (Cost(f"{way}, ResNet-32", "metaweightnet", (at[1],), constant),),
    )


def resnet34(what: str, shots: str, way: str, stated: str | None = None) -> Cost:
    """Whether EvoGrad's step fits, and T1-T2's does not."""
    keys = (f"{method}{way}" for method in ("evograd num_candidates=2", "t1t2"))
    rows = Rows("paper", "counted", tuple((f"ResNet-34, {shots}", key) for key in keys))
    return Cost(what, "cross_domain_fewshot", (rows,), fits, stated)


# --- all

_BASELINES = (
    ("plain", "plain training", ""),
    ("clean_only", "clean images alone", ""),
    ("plain", "plain training stopped by the clean images", "stopped"),
    ("plain", "plain training fine-tuned on them", "fine_tuned_accuracy"),
)
_JUDGES = range(3, 13)
_QUOTED = published_value("metaweightnet", *_CIFAR, "baseline_copied")
_ANGLE = published_mean("rotation", "evograd", "angle_degrees")
_FEW, _NOISE, _LINGUAL = (
    published(name)["cost_figure"] for name in ("cross_domain_fewshot", "metaweightnet", "metaxl")
)
_SCALING = published("metaweightnet")["scaling_figure_digitised"]["seconds_per_epoch"]
_RATIOS = [a / b for a, b in zip(_SCALING["t1t2"], _SCALING["evograd"], strict=True)]
CLAIMS = (
    Claim(
        "Two candidates follow the exact hypergradient",
        "Figure 2",
        (Trend("correlation with the exact one, K = 2", "toy_1d", "evograd", "correlation_2",
               "lambdas"),),
    ),
    Claim(
        "Rotation: EvoGrad learns the angle, rotated digits gain",
        "section 4.2",
        (
            Contrast("EvoGrad − baseline, rotated digits", "rotation", "paper", "evograd",
                     "baseline", _ROTATION, metrics=("rotated", "rotated"),
                     published=published_difference("rotation", ("evograd", "rotated"),
                                                    ("baseline", "rotated"))),
            Contrast("learned angle (true: 30°)", "rotation", "paper", "evograd", None, _ROTATION,
                     metrics=("angle_degrees", ""), unit="°", published=_ANGLE),
        ),
        (Contrast("EvoGrad − T1-T2, angle", "rotation", "paper", "evograd", "t1t2", _ROTATION,
                  metrics=("angle_degrees",) * 2, unit="°"),
         Contrast("EvoGrad − random rotations, rotated digits", "rotation", "paper", "evograd",
                  "random_rotation", _ROTATION, metrics=("rotated",) * 2),),
    ),
    Claim(
        "Few-shot: EvoGrad is not worse than T1-T2",
        "Table 3",
        (few_shot("lft_t1t2", "with T1-T2", "not worse"),),
    ),
    Claim(
        "Few-shot: EvoGrad beats no transformation and FT",
        "Table 3",
        (few_shot("none", "none"), few_shot("ft", "FT")),
        (few_shot("none", "none in the same loop", changes=_LIKE),
         few_shot("ft", "FT in the same loop", changes=_LIKE),
         few_shot("both_domains", "training on both domains")),
    ),
    Claim(
        "Label noise: EvoGrad is not worse than T1-T2",
        "Table 4",
        (label_noise("t1t2_forward", "EvoGrad − T1-T2, MNIST, 60 % uniform, 100 clean images",
                     _PRIMARY, _JUDGES, "not worse"),),
        _noise_elsewhere("t1t2_forward", "not worse"),
    ),
    Claim(
        "Label noise: EvoGrad beats simpler uses of the data",
        "Table 4",
        tuple(
            label_noise(method, f"EvoGrad − {words}", _PRIMARY, _JUDGES, metrics=("", metric))
            for method, words, metric in _BASELINES
        ),
        (
            *(
                label_noise("clean_only", f"− clean images alone, {size:,} of them",
                            _MNIST | {"meta_size": size}, (3, 4, 5))
                for size in (300, 1000, 3000)
            ),
            *(
                label_noise("plain", f"− plain training, both {words}", _PRIMARY, _JUDGES,
                            metrics=(metric, metric))
                for words, metric in (("stopped by the clean images", "stopped"),
                                      ("fine-tuned on them", "fine_tuned_accuracy"))
            ),
            *_noise_elsewhere("plain", "better"),
            Contrast("CIFAR-10, 40 % flipped, the paper's size", "metaweightnet", "paper",
                     "evograd", "plain", (1,), (_FLIP,)),
        ),
    ),
    Claim(
        "Label noise: plain training ends at the quoted baseline",
        "Table 4",
        (Quoted("plain training, CIFAR-10, 40 % flipped", "metaweightnet", "plain", (1,), _FLIP,
                (_QUOTED.mean, _QUOTED.spread), _QUOTED.n),),
    ),
    Claim(
        "MetaXL: EvoGrad beats T1-T2, T1-T2 beats joint training",
        "Table 5",
        (cross_lingual("evograd", "t1t2", "EvoGrad − T1-T2"),
         cross_lingual("t1t2", "joint_training", "T1-T2 − joint training")),
        (cross_lingual("evograd", "joint_training", "EvoGrad − joint training"),),
    ),
    *cheaper("Few-shot", "Figure 3", "cross_domain_fewshot", "ResNet-10, 1 shot",
             ("ResNet-10, 1 shot",), _FEW["1shot"]),
    *cheaper("Label noise", "Figure 4", "metaweightnet", "width 1", ("CIFAR-10", "width 1"),
             _NOISE["cifar10"]),
    *cheaper("MetaXL", "Figure 6", "metaxl", "6 layers, 4 sentences of 128",
             tuple(f"XLM-R base, 12 sentences of {n}" for n in (200, 128)), _LINGUAL),
    constant_memory("as released", "evograd_graph"),
    constant_memory("here", "evograd"),
    Claim(
        "Wider networks: the ratio of times grows",
        "Figure 5",
        (Cost("time by width", "metaweightnet",
              tuple(Rows(size, "cpu", tuple((f"width {n}", k) for n in found for k in _HERE[0]),
                         at_paper=size == "paper")
                    for size, found in (("paper", (1, 2, 3, 4, 5)), ("paper", (1, 2, 5)),
                                        ("small", (1, 2)))),
              widths, f"{_RATIOS[0]:.1f} to {_RATIOS[-1]:.1f}", machine=True),),
    ),
    Claim(
        "T1-T2 takes O(PH) time",
        "Table 2",
        (Cost("a step of T1-T2 in plain steps, ResNet-32", "metaweightnet",
              (Rows("small", "cpu", (("width 1", "t1t2"), ("10,000 hidden units", "t1t2"))),),
              hyperparameters, "O(PH)"),),
    ),
    Claim(
        "ResNet-34 fits 12 GB with EvoGrad, not with T1-T2",
        "section 4.3",
        (resnet34("peak of EvoGrad's and T1-T2's step as released, 1 shot", "1 shot", " released",
                  "fits; does not fit"),),
        (resnet34("as released, 5 shots", "5 shots", " released"), resnet34("here", "1 shot", "")),
    ),
)  # fmt: skip


def judge(kept: Kept, claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """Every claim by the records; see ``RULE``."""
    parts = [tuple(part.find(kept) for part in claim.primary) for claim in claims]
    sure = [_sure(findings) for findings in parts]
    tests = [not all(isinstance(part, Cost) for part in claim.primary) for claim in claims]
    adjusted = iter(holm([min(p) for p, test in zip(sure, tests, strict=True) if test]))
    judged = []
    for claim, findings, (holds, fails), test in zip(claims, parts, sure, tests, strict=True):
        p = next(adjusted) if test else None
        closed = min(holds, fails) == 0 if p is None else p <= LEVEL
        elsewhere = tuple(part.find(kept) for part in claim.elsewhere)
        level = LEVEL / max(1, len(elsewhere))
        if not closed:
            hours = _hours(findings)
            judged.append(Judged(claim, "open", findings, elsewhere, p, hours))
            continue
        verdict: Verdict = "supported"
        if fails < holds:
            lost = [f for f in findings if f.fails == min(g.fails for g in findings)]
            verdict = "contradicted" if any(f.at_paper for f in lost) else "does not transfer"
        other = [f.fails if verdict == "supported" else f.holds for f in elsewhere]
        against = tuple(f for f, q in zip(elsewhere, other, strict=True) if q <= level)
        if len(findings) > 1 and verdict != "supported":
            against = ()  # one part elsewhere does not save a claim of several
        if against and verdict != "contradicted":
            verdict = "depends on the setting"
        judged.append(Judged(claim, verdict, findings, elsewhere, p, None, against))
    return judged


def _sure(findings: Sequence[Finding]) -> tuple[float, float]:
    """p-values of "all parts hold" (the largest) and of "one fails" (the smallest times their
    number)."""
    fails = min(f.fails for f in findings) * len(findings)
    return max(f.holds for f in findings), min(1.0, fails)


def _hours(findings: Sequence[Finding]) -> float | None:
    """Core-hours of all missing runs; else of more seeds for the open parts."""
    missing = {run: hours for f in findings for run, hours in f.missing.items()}
    if missing:
        return sum(missing.values())
    wanted = [f.hours for f in findings if f.holds > LEVEL]
    return None if None in wanted or not wanted else sum(h for h in wanted if h)
