"""Settings and presets of the label-noise experiment."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from common.experiment import Experiment, Method, estimator_methods
from common.settings import (
    RUNTIME_FIELDS,
    STRICT,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    RunSettings,
)

CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100}
_T1T2 = {"t1t2": "double backward", "t1t2_higher": "through higher", "t1t2_forward": "forward mode"}
METHODS = {
    "plain": Method("Plain training", published="baseline_copied"),
    "clean_only": Method("Clean images alone"),
    "frozen_vnet": Method("Frozen random weight net"),
    **estimator_methods(
        labels={
            "anchored": "EvoGrad, one candidate at theta",
            "along_gradient": "EvoGrad along the gradient",
            "along_gradient_one_sided": "EvoGrad along the gradient, one-sided",
            "finite_difference": "Finite difference",
            **{name: f"T1-T2 ({way})" for name, way in _T1T2.items()},
        },
        published={"evograd": "evograd", **dict.fromkeys(_T1T2, "t1t2")},
    ),
    "evograd_matched": Method("EvoGrad, matched size", "evograd"),
    "sign_flipped": Method("EvoGrad, sign flipped", "evograd"),
}
Changes = dict[str, Any]
"""Settings by dotted key: how a run differs from its preset."""


@dataclass(frozen=True, config=STRICT)
class Config(RunSettings):
    """One run: a classifier on noisily labelled images, samples weighted by their loss.

    Methods: plain training; frozen_vnet, a random weight net that is never updated;
    evograd_matched, whose hypergradient is scaled to the expected size of T1-T2's; sign_flipped,
    the negated hypergradient of evograd; the others by the estimator's name. Defaults: the paper's.
    """

    experiment: ClassVar[str] = "metaweightnet"
    methods: ClassVar[Mapping[str, Method]] = METHODS
    runtime_fields: ClassVar[frozenset[str]] = RUNTIME_FIELDS | {"human_dir"}

    log_every: PositiveInt = 50
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""

    dataset: Literal["mnist", "cifar10", "cifar100"] = "cifar10"
    """The images; MNIST: the first 50,000 training images, padded to 32x32, in three channels."""
    noise: Literal["flip", "flip_two", "flip_one", "uniform", "hierarchical", "human"] = "flip"
    """Wrong labels: of the two other classes that the authors' code draws for each class, the same
    in every run (flip); of two, or of one, drawn with the run's seed (flip_two, flip_one); of all
    classes (uniform); of those in the same superclass (hierarchical, CIFAR-100); human labels
    (human, CIFAR-10N)."""
    noise_level: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Fraction of wrong labels (uniform: of labels drawn anew; human: not used)."""
    human_labels: Literal["worse", "aggregate", "random1", "random2", "random3"] = "worse"
    """Label set of CIFAR-10N: 40, 9, 17, 18 and 18 % wrong."""
    human_dir: Path | None = None
    """A folder that holds CIFAR-10N's labels; else --data-dir, EVOGRAD_DATA."""

    depth: PositiveInt = 32
    """Layers of the ResNet (option A): 6n + 2."""
    width: PositiveInt = 1
    """Channels are 16-32-64 times this."""
    meta_hidden: PositiveInt = 100
    """Hidden units of the weight net: 3n + 1 hyperparameters."""
    log_loss: bool = False
    """The weight net sees the logarithm of the loss. Not in the paper: it keeps the net out of
    saturation, where it stops learning."""
    vnet_input: Literal["candidate", "model"] = "candidate"
    """EvoGrad: the losses that the weight net sees in the meta step: each candidate's own, as in
    the paper, or those of the unperturbed model (held), as always with finite_difference and
    along_gradient; see train.py."""

    epochs: PositiveInt = 60
    """Passes over the training images."""
    batch_size: PositiveInt = 100
    """Images per batch, for training and for the meta step."""
    learning_rate: PositiveFloat = 0.1
    """SGD on the classifier; also T1-T2's inner step size, with the milestones."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Nesterov momentum of both SGDs."""
    weight_decay: NonNegativeFloat = 5e-4
    """On the classifier."""
    milestones: tuple[PositiveInt, ...] = (40, 50)
    """The learning rate falls tenfold after each of these epochs."""
    meta_optimizer: Literal["sgd", "adam"] = "sgd"
    """On the weight net: SGD as in the paper, or AdamW, invariant to the hypergradient's scale."""
    meta_learning_rate: PositiveFloat = 1e-3
    """Of the weight net; constant."""
    meta_weight_decay: NonNegativeFloat = 5e-4
    """On the weight net; adam: decoupled from the hypergradient, so each step shrinks the net by
    the factor 1 - learning rate * decay."""

    augment: bool = True
    """Random crops of images padded by reflection, half of them mirrored."""
    image_size: Literal[32, 16] = 32
    """Side in pixels: 16 takes the mean over 2x2 pixels."""
    train_size: PositiveInt = 49_000
    """Noisily labelled training images."""
    meta_size: PositiveInt = 1_000
    """Clean images for the meta step, equally many per class."""
    test_size: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Test images: the first ones of the test set."""

    @property
    def num_classes(self) -> int:
        return CLASSES[self.dataset]

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = 50_000 - self.meta_size
        if self.noise == "hierarchical" and self.dataset != "cifar100":
            raise ValueError("--noise hierarchical needs the superclasses of --dataset cifar100")
        if self.noise == "human" and self.dataset != "cifar10":
            raise ValueError("--noise human (CIFAR-10N) needs --dataset cifar10")
        if self.depth <= 2 or (self.depth - 2) % 6:
            raise ValueError(f"--depth {self.depth} must be 6n + 2, such as 8, 20 or 32")
        if self.meta_size < self.num_classes or self.meta_size % self.num_classes:
            raise ValueError(
                f"--meta-size {self.meta_size} must be a multiple of the {self.num_classes} classes"
            )
        if self.train_size > largest:
            raise ValueError(
                f"--train-size {self.train_size} must be at most {largest}, 50,000 without the "
                "meta set"
            )


_PAPER = Config()
_QUICK = replace(
    _PAPER,
    preset="quick",
    dataset="mnist",
    noise="uniform",
    noise_level=0.6,
    depth=8,
    image_size=16,
    train_size=5_000,
    # Few: the more clean images there are, the better it is to train on them at once.
    meta_size=100,
    test_size=5_000,
    # Without augmentation the network ends up learning the wrong labels by heart.
    augment=False,
    epochs=12,
    milestones=(6, 11),
    meta_optimizer="adam",
    meta_learning_rate=3e-3,
    # Keeps the weight net out of saturation, where it stops learning.
    meta_weight_decay=1.0,
    log_every=10,
)
_SMOKE = replace(
    _QUICK,
    preset="smoke",
    epochs=2,
    milestones=(1,),
    train_size=500,
    meta_size=200,
    test_size=500,
    log_every=1,
)
PRESETS = {
    "quick": _QUICK,
    "smoke": _SMOKE,
    "study": replace(_QUICK, preset="study"),
    "paper": _PAPER,
}


def _cells(*methods: str, **changes: Any) -> list[Changes]:
    """A cell of the plans for each method, all with the same changes."""
    return [{"method": method, **changes} for method in methods]


def _seeded(seeds: Iterable[int], cells: Iterable[Changes]) -> list[Changes]:
    return [{"seed": seed, **cell} for seed in seeds for cell in cells]


_LEARNED = ("evograd", "along_gradient", "t1t2_forward")
_HELD: Changes = {"vnet_input": "model"}
_EIGHT: Changes = {"estimator.num_candidates": 8}
_DECAY: Changes = {"meta_weight_decay": _PAPER.meta_weight_decay}
_SGD: Changes = {"meta_optimizer": "sgd", "meta_learning_rate": _PAPER.meta_learning_rate, **_DECAY}
_FAIR_CELLS = _cells("plain", "clean_only", *_LEARNED)
_QUICK_CELLS = [*_FAIR_CELLS[:3], *_cells("evograd", **_HELD), *_FAIR_CELLS[3:]]
"""What preset quick compares: training without learned weights on all images and on the clean ones,
the paper's method, its variants without the moving input and without sampling noise, the exact
hypergradient."""
_CONTROLS = _cells("frozen_vnet", "sign_flipped")
_DECAY_CELLS = _cells(*_LEARNED, **_DECAY)
_MORE_CELLS = [
    *_cells("evograd", **_EIGHT),
    *_cells("evograd", **_EIGHT, **_HELD),
    *_cells("anchored", "evograd_matched", **_HELD),
    *_cells("finite_difference"),
    *_DECAY_CELLS,
]
"""What preset study adds with 1,000 clean images: more candidates, other estimators, the paper's
weight decay."""
QUESTIONS = [
    *(cell for m in (2, 5, 10) for cell in _cells(*_LEARNED, every=m)),
    *(c for n in (10, 1_000, 10_000) for c in _cells("evograd", "t1t2_forward", meta_hidden=n)),
    *(cell for s in (1e-4, 1e-2) for cell in _cells("evograd", **{"estimator.sigma": s})),
    # As long as 12 epochs of T1-T2 in forward mode.
    *_cells("plain", epochs=36, milestones=(18, 33)),
    *_cells("evograd", epochs=16, milestones=(8, 15)),
    *_cells(*_LEARNED, log_loss=True),
    *_cells(*_LEARNED, **_SGD),
]
"""What docs/findings.md asks at study's MNIST setting with 100 clean images."""
_STUDY_CIFAR: Changes = {
    "dataset": "cifar10",
    "train_size": 10_000,
    "meta_size": 1_000,
    "test_size": 10_000,
    # Long enough to learn the wrong labels by heart.
    "epochs": 24,
    "milestones": (12, 22),
    "log_every": 40,
}


def _paper_plan() -> list[Changes]:
    """Table 4 with five seeds; the controls of the hypergradient at the highest noise level."""
    cells = [
        {"dataset": dataset, "noise_level": level} | cell
        for dataset in ("cifar10", "cifar100")
        for level in (0.0, 0.2, 0.4)
        for cell in _cells("plain", "frozen_vnet", "evograd", "t1t2")
    ]
    return _seeded(range(1, 6), cells + _cells("evograd_matched", "sign_flipped"))


def _study_plan() -> list[Changes]:
    """MNIST, where seeds 1 and 2 have chosen the setting and seeds 3 to 12 judge; there too, more
    clean images, at which the simplest uses of them overtake, and the QUESTIONS; then 1,000 clean
    images with ten seeds, and CIFAR-10 with five: flip as in the paper, then human labels, which
    not all have; both with quick's decay of the weight net and with the paper's."""
    cells = _QUICK_CELLS + _CONTROLS
    known = [cell for cell in cells if cell["method"] != "clean_only"]
    plan = _seeded(range(3, 13), cells) + _seeded((3, 4, 5), QUESTIONS)
    for size in (300, 1_000, 3_000):
        plan += _seeded((3, 4, 5), [{"meta_size": size} | cell for cell in _FAIR_CELLS])
    more = [{"meta_size": 1_000} | cell for cell in known + _MORE_CELLS]
    plan += [run for run in _seeded(range(1, 11), more) if run not in plan]
    for noise in ({"noise": "flip", "noise_level": 0.4}, {"noise": "human"}):
        cifar = [_STUDY_CIFAR | noise | cell for cell in known + _DECAY_CELLS]
        plan += _seeded(range(1, 6), cifar)
    return plan


class LabelNoise(Experiment):
    name = "metaweightnet"
    title = "Label noise (Meta-Weight-Net)"
    description = "Learns the weights of noisily labelled images from a few clean ones."
    config = Config
    methods = METHODS
    presets = PRESETS
    metric = best_metric = "accuracy"
    baseline = "plain"
    axes = ("dataset", "noise", "noise_level", "meta_size")

    def planned(self, preset: str) -> list[Config]:
        """The most informative first."""
        plans = {"paper": _paper_plan, "study": _study_plan}
        small = _QUICK_CELLS + (_CONTROLS if preset == "smoke" else [])
        plan = plans[preset]() if preset in plans else _seeded((1,), small)
        return [PRESETS[preset].changed(changes) for changes in plan]

    def place(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        # Human labels have no level.
        detail = "human_labels" if settings["noise"] == "human" else "noise_level"
        return {name: settings[name] for name in ("dataset", "noise", detail, "meta_size")}

    def base(self, preset: str, place: Mapping[str, Any]) -> Changes:
        return _STUDY_CIFAR if (preset, place["dataset"]) == ("study", "cifar10") else {}

    def datasets(self, preset: str) -> tuple[str, ...]:
        several = {"study": ("mnist", "cifar10"), "paper": ("cifar10", "cifar100")}
        return several.get(preset, ("mnist",))

    def task(self, config: Config, device: torch.device) -> Any:
        from metaweightnet.train import MetaWeightTask

        return MetaWeightTask(config, device)


EXPERIMENT = LabelNoise()
