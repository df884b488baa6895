"""Settings and presets of the label-noise experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from common.bounds import Bounds, NonNegativeFloat, PositiveFloat, PositiveInt
from common.errors import UserError
from common.experiment import Experiment, Method, estimator_methods, variant_of
from common.settings import EstimatorSettings, RunSettings

CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100}
_T1T2 = {"t1t2": "double backward", "t1t2_higher": "through higher", "t1t2_forward": "forward mode"}
METHODS = {
    "plain": Method("Plain training", published="baseline_copied"),
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
# They compare dL_T/dlambda at two points, which approximates T1-T2 only if the weights are held.
_ALWAYS_HELD = ("finite_difference", "along_gradient", "along_gradient_one_sided")
Changes = dict[str, Any]
"""Settings by name: how a run differs from its preset."""


@dataclass(frozen=True)
class Config(EstimatorSettings):
    """One run: a classifier on noisily labelled images, samples weighted by their loss.

    Methods: plain training; frozen_vnet, a random weight net that is never updated;
    evograd_matched, whose hypergradient is scaled to the expected size of T1-T2's; sign_flipped,
    the negated hypergradient of evograd; the others by the estimator's name. Defaults: the paper's.
    """

    experiment: ClassVar[str] = "metaweightnet"
    methods: ClassVar[Mapping[str, Method]] = METHODS
    carrying_out: ClassVar[frozenset[str]] = RunSettings.carrying_out | {"human_dir"}

    log_every: int = 50
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""

    dataset: Literal["mnist", "cifar10", "cifar100"] = "cifar10"
    """The images; MNIST: the first 50,000 training images, padded to 32x32, in three channels."""
    noise: Literal["flip", "flip_one", "uniform", "hierarchical", "human"] = "flip"
    """Wrong labels: of two other classes, of one, of all, of those in the same superclass
    (CIFAR-100), or people's (CIFAR-10N)."""
    noise_level: Annotated[float, Bounds(least=0, most=1)] = 0.4
    """Fraction of wrong labels (uniform: of labels drawn anew; human: not used)."""
    flip_pairs: Literal["released", "seed"] = "released"
    """Noise flip's two target classes of each class: those of the authors' code, the same in every
    run, or drawn with the run's seed."""
    human_labels: Literal["worse", "aggregate", "random1", "random2", "random3"] = "worse"
    """Label set of CIFAR-10N: 40, 9, 17, 18 and 18 % wrong."""
    human_dir: Path | None = None
    """A folder that holds CIFAR-10N's labels; else --data-dir, EVOGRAD_DATA."""
    split: Literal["disjoint", "authors"] = "disjoint"
    """Meta set: drawn with the seed and kept out of training; or, as in the authors' code, always
    that of seed 1, although the training set excludes that of its own seed."""

    network: Literal["resnet", "wrn"] = "resnet"
    """ResNet (option A), or wide ResNet: --network wrn --depth 28 --width 10."""
    depth: PositiveInt = 32
    """Layers: 6n + 2 for resnet, 6n + 4 for wrn."""
    width: PositiveInt = 1
    """Channels are 16-32-64 times this."""
    meta_hidden: PositiveInt = 100
    """Hidden units of the weight net: 3n + 1 hyperparameters."""
    vnet_input: Literal["candidate", "model"] = "candidate"
    """EvoGrad: the losses that the weight net sees in the meta step: each candidate's own, as in
    the paper, or those of the unperturbed model (held), as always with finite_difference and
    along_gradient; see problem.py."""

    epochs: PositiveInt = 60
    """Passes over the training images."""
    batch_size: PositiveInt = 100
    """Images per batch, for training and for the meta step."""
    learning_rate: PositiveFloat = 0.1
    """SGD on the classifier; also T1-T2's inner step size, with the milestones."""
    momentum: Annotated[float, Bounds(least=0, below=1)] = 0.9
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
    test_size: Annotated[int, Bounds(least=1, most=10_000)] = 10_000
    """Test images: the first ones of the test set."""

    @property
    def num_classes(self) -> int:
        return CLASSES[self.dataset]

    def run_name(self) -> str:
        level = self.human_labels if self.noise == "human" else f"{self.noise_level:g}"
        words = [self.dataset, self.noise, level, super().run_name(), *variant(self.deciding())]
        return "-".join(words).replace(" ", "-")

    @property
    def holds_vnet_input(self) -> bool:
        """Whether the weight net sees the unperturbed model's losses wherever L_T is taken."""
        return self.vnet_input == "model" or self.method in _ALWAYS_HELD

    def validate(self) -> Self:
        super().validate()
        if self.noise == "hierarchical" and self.dataset != "cifar100":
            raise UserError("--noise hierarchical needs the superclasses of --dataset cifar100")
        if self.noise == "human" and self.dataset != "cifar10":
            raise UserError("--noise human (CIFAR-10N) needs --dataset cifar10")
        extra, example = (2, "32") if self.network == "resnet" else (4, "28 (and --width 10)")
        if self.depth <= extra or (self.depth - extra) % 6:
            raise UserError(
                f"--depth {self.depth} must be 6n + {extra} for --network {self.network}, "
                f"such as {example}"
            )
        if self.meta_size < self.num_classes or self.meta_size % self.num_classes:
            raise UserError(
                f"--meta-size {self.meta_size} must be a multiple of the {self.num_classes} classes"
            )
        if self.train_size > 50_000 - self.meta_size:
            raise UserError(
                f"--train-size {self.train_size} must be at most {50_000 - self.meta_size} "
                "(50,000 without the meta set)"
            )
        return self


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
_STUDY = replace(_QUICK, preset="study")
PRESETS = {"quick": _QUICK, "smoke": _SMOKE, "study": _STUDY, "paper": _PAPER}

_HELD = {"vnet_input": "model"}
_QUICK_CELLS: list[Changes] = [
    {"method": "plain"},
    {"method": "frozen_vnet"},
    {"method": "sign_flipped"},
    {"method": "evograd"},
    {"method": "evograd", **_HELD},
    {"method": "along_gradient"},
    {"method": "t1t2_forward"},
]
"""What preset quick compares: training without learned weights, the control, the paper's method,
its variants without the moving input and without sampling noise, the exact hypergradient."""


def _as_in_paper(*names: str) -> Changes:
    return {name: getattr(_PAPER, name) for name in names}


_PAPERS_DECAY_CELLS = [
    {"method": name} | _as_in_paper("meta_weight_decay")
    for name in ("evograd", "along_gradient", "t1t2_forward")
]
_MORE_CELLS: list[Changes] = [
    {"method": "evograd", "num_candidates": 8},
    {"method": "evograd", "num_candidates": 8, **_HELD},
    {"method": "anchored", **_HELD},
    {"method": "evograd_matched", **_HELD},
    {"method": "finite_difference"},
    *_PAPERS_DECAY_CELLS,
]
"""What preset study adds on MNIST: more candidates, other estimators, the paper's weight decay."""


def planned_runs(preset: str) -> list[Config]:
    """The runs behind the tables and figures of a preset, the most informative first."""
    plan = {"paper": _paper_plan, "study": _study_plan}.get(preset)
    cells = plan() if plan else [(1, cell) for cell in _QUICK_CELLS]
    return [replace(PRESETS[preset], seed=seed, **cell) for seed, cell in cells]


def _paper_plan() -> list[tuple[int, Changes]]:
    """Table 4 with five seeds; the controls of the hypergradient at the highest noise level."""
    cells: list[Changes] = [
        {"dataset": dataset, "noise_level": level, "method": method}
        for dataset in ("cifar10", "cifar100")
        for level in (0.0, 0.2, 0.4)
        for method in ("plain", "frozen_vnet", "evograd", "t1t2")
    ]
    cells += [{"method": method} for method in ("evograd_matched", "sign_flipped")]
    return [(seed, cell) for seed in range(1, 6) for cell in cells]


_STUDY_CIFAR: Changes = {
    "dataset": "cifar10",
    "train_size": 10_000,
    "test_size": 10_000,
    # Long enough to learn the wrong labels by heart.
    "epochs": 24,
    "milestones": (12, 22),
    "log_every": 40,
}


def _study_plan() -> list[tuple[int, Changes]]:
    """MNIST with ten seeds; with five CIFAR-10: flip as in the paper, then people's labels, which
    not all have; both with quick's decay of the weight net and with the paper's."""
    plan = [(seed, cell) for seed in range(1, 11) for cell in _QUICK_CELLS]
    plan += [(seed, cell) for seed in range(1, 11) for cell in _MORE_CELLS]
    cells = _QUICK_CELLS + _PAPERS_DECAY_CELLS
    for noise in (_as_in_paper("noise", "noise_level"), {"noise": "human"}):
        plan += [(seed, _STUDY_CIFAR | noise | cell) for seed in range(1, 6) for cell in cells]
    return plan


variant = variant_of(
    PRESETS,
    {
        "split": "{} split",
        "vnet_input": "held input",
        "num_candidates": "K = {}",
        "share_base_step": "shared base step",
        "flip_pairs": "pairs by seed",
        "meta_optimizer": "meta {}",
        "meta_weight_decay": "decay {:g}",
    },
)


EXPERIMENT = Experiment(
    name="metaweightnet",
    title="Label noise (Meta-Weight-Net)",
    description="Learns the weights of noisily labelled images from a few clean ones.",
    methods=METHODS,
    presets=PRESETS,
    planned=planned_runs,
    metric="accuracy",
    baseline="plain",
    axes=("dataset", "noise", "noise_level"),
    variant=variant,
    data={
        "quick": ("mnist",),
        "smoke": ("mnist",),
        "study": ("mnist", "cifar10"),
        "paper": ("cifar10", "cifar100"),
    },
)
