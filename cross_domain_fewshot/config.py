"""Settings and presets of the cross-domain few-shot experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from common.bounds import Bounds, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from common.errors import UserError
from common.experiment import Experiment, Method, estimator_methods
from common.settings import EstimatorSettings, RunSettings
from cross_domain_fewshot.data import BASE_DOMAIN, DOMAINS

_LABELS = {"t1t2": "T1-T2 (double backward)", "t1t2_higher": "T1-T2 (through higher)"}
METHODS = {
    "none": Method("No transformation", published="none"),
    "ft": Method("FT", published="ft"),
    **{
        f"lft_{name}": replace(method, label=f"LFT, {method.label}")
        for name, method in estimator_methods(
            labels=_LABELS,
            published={n: f"lft_{n}" for n in ("evograd", "t1t2")} | {"t1t2_higher": "lft_t1t2"},
            excluded=("t1t2_forward",),  # lambda passes through batch norm
        ).items()
    },
}
AtLeastTwo = Annotated[int, Bounds(least=2)]


@dataclass(frozen=True)
class Config(EstimatorSettings):
    """One run: a few-shot learner trained on four domains and tested on the fifth.

    Methods: none, without feature-wise transformations; ft, with transformations that no
    hypergradient learns; lft_*, with learned ones, by the estimator's name. Defaults: the paper's,
    and those of the authors' released code where the text does not say.
    """

    experiment: ClassVar[str] = "cross_domain_fewshot"
    methods: ClassVar[Mapping[str, Method]] = METHODS
    carrying_out: ClassVar[frozenset[str]] = RunSettings.carrying_out | {
        "pretrained_dir",
        "workers",
    }

    method: str = "lft_evograd"
    """What is run; the methods are listed above."""
    log_every: PositiveInt = 50
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""
    pretrained_dir: Path | None = None
    """Where pre-trained backbones are kept; default runs/cross_domain_fewshot/pretrained."""
    workers: NonNegativeInt = 4
    """Threads that read image files ahead."""

    benchmark: Literal["paper", "embedded"] = "paper"
    """The five domains: photographs in your own folder, or the small ones shipped here."""
    unseen: str = "cub"
    """The domain left out of training, on whose novel classes the result is measured."""
    backbone: Literal["conv4", "conv6", "resnet10", "resnet18", "resnet34"] = "resnet10"
    """Network that embeds the images."""
    head: Literal["relationnet", "matchingnet", "protonet"] = "relationnet"
    """How a query is compared with the support samples."""
    width: PositiveInt = 64
    """Channels of the first stage (conv4, conv6: of every block)."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """Start of a ResNet: 7x7 convolution and max-pool, or 3x3 convolution (both stride 2)."""
    image_size: PositiveInt = 224
    """Side of the images in pixels."""

    n_way: AtLeastTwo = 5
    """Classes of an episode."""
    n_shot: PositiveInt = 1
    """Support samples per class."""
    n_query: PositiveInt = 16
    """Queries per class in training."""
    min_class_size: NonNegativeInt = 50
    """A class with fewer images is repeated in a cycle up to this number, in the episodes of the
    pseudo-seen domain and of the validation; 0: never."""

    stream: Literal["released", "mixed", "pairs"] = "released"
    """Domains of an epoch's episodes. mixed: all seen domains equally often; pairs: one pseudo-seen
    and one pseudo-unseen, drawn for each epoch; released: mixed for none and ft, pairs for lft."""
    auxiliary: Literal["released", "on", "off"] = "released"
    """Classification loss on the base domain, added to the episode's; released: only for lft."""
    ft: Literal["trained", "fixed"] = "trained"
    """Transformations of method ft: trained with the model on the training loss, or fixed."""
    order: Literal["released", "base_first", "meta_first"] = "released"
    """The first step of an iteration: the model's or the transformations'. Both use the same
    episode of the pseudo-seen domain. released: meta_first for T1-T2, else base_first."""
    common_noise: bool = False
    """EvoGrad: the transformations' noise is the same for all candidates of a hypergradient."""

    epochs: PositiveInt = 400
    """Epochs; each has one pseudo-seen and one pseudo-unseen domain."""
    episodes: PositiveInt = 100
    """Episodes (iterations) per epoch; in a mixed stream spread evenly over the domains."""
    learning_rate: PositiveFloat = 1e-3
    """Adam on the model; also the size of T1-T2's inner SGD step."""
    meta_learning_rate: PositiveFloat = 1e-3
    """Adam on the transformations."""
    meta_weight_decay: NonNegativeFloat = 1e-8
    """On the transformations (L2, as part of the hypergradient)."""
    meta_eps: PositiveFloat = 1e-8
    """eps of the Adam on the transformations; if it is far below the hypergradient's size, that
    size does not matter."""
    aux_batch_size: PositiveInt = 16
    """Images of the base domain per auxiliary classification loss."""

    pretrain_epochs: PositiveInt = 400
    """Passes of the ordinary classifier over the base domain."""
    pretrain_batch_size: AtLeastTwo = 16
    """Images per batch of the pre-training."""
    pretrain_learning_rate: PositiveFloat = 1e-3
    """Adam of the pre-training."""

    val_episodes: PositiveInt = 100
    """Episodes of the base domain's val split after every epoch."""
    test_episodes: AtLeastTwo = 1000
    """Episodes of the unseen domain's novel split after the last epoch."""
    val_query: PositiveInt = 16
    """Queries per class in validation."""
    test_query: PositiveInt = 15
    """Queries per class in the test."""

    @property
    def transformed(self) -> bool:
        """Whether the backbone has transformation layers."""
        return self.method != "none"

    @property
    def seen(self) -> tuple[str, ...]:
        """The domains of training."""
        return tuple(d for d in DOMAINS[self.benchmark] if d != self.unseen)

    @property
    def base_domain(self) -> str:
        """The domain of pre-training, auxiliary loss and validation."""
        return BASE_DOMAIN[self.benchmark]

    @property
    def learned(self) -> bool:
        """Whether a hypergradient learns the transformations."""
        return METHODS[self.method].estimator is not None

    def released(self) -> dict[str, str]:
        """What the released code does for this method where ``released`` is asked for."""
        return {
            "stream": "pairs" if self.learned else "mixed",
            "auxiliary": "on" if self.learned else "off",
            "order": "meta_first" if self.method.startswith("lft_t1t2") else "base_first",
        }

    def chosen(self, name: str) -> str:
        """The stream, the auxiliary or the order of this run."""
        value = getattr(self, name)
        return self.released()[name] if value == "released" else value

    def run_name(self) -> str:
        episodes = f"{self.n_way}way-{self.n_shot}shot"
        words = [self.unseen, self.backbone, self.head, episodes, super().run_name()]
        return "-".join([*words, *variant(self.deciding())]).replace(" ", "-")

    def pretraining(self) -> dict[str, Any]:
        """What decides a pre-trained backbone; runs that agree in it share one."""
        names = ("benchmark", "backbone", "width", "stem", "image_size", "pretrain_epochs",
                 "pretrain_batch_size", "pretrain_learning_rate", "seed", "tf32")  # fmt: skip
        # The convolutional backbones pool differently for RelationNet.
        maps = {"maps": self.head == "relationnet"} if self.backbone.startswith("conv") else {}
        return {name: getattr(self, name) for name in names} | maps

    def validate(self) -> Self:
        super().validate()
        domains = DOMAINS[self.benchmark]
        if self.unseen not in domains or self.unseen == self.base_domain:
            possible = ", ".join(d for d in domains if d != self.base_domain)
            raise UserError(f"--unseen {self.unseen} cannot be left out: use {possible}")
        if self.share_base_step:
            raise UserError(
                "--share-base-step is not for few-shot: its base step has a different loss, and "
                "most orders take the meta step at different parameters"
            )
        if self.learned and self.stream == "mixed":
            raise UserError(f"--stream mixed has no pseudo-unseen domain for {self.method}")
        return self._normalised()

    def _normalised(self) -> Self:
        """Settings that ask for what the method does anyway, or that do not affect it, become the
        default, so that equal runs have equal settings and names."""
        same: dict[str, Any] = {} if self.learned else {"order": "released"}
        same |= {n: "released" for n, value in self.released().items() if self.chosen(n) == value}
        if self.method != "ft":
            same["ft"] = "trained"
        return replace(self, **same)


_PAPER = Config()
_QUICK = replace(
    _PAPER,
    preset="quick",
    benchmark="embedded",
    unseen="icons",
    workers=0,
    width=16,
    stem="small",
    image_size=32,
    n_query=5,
    min_class_size=0,
    epochs=20,
    episodes=12,
    # With few steps the transformations must move faster.
    meta_learning_rate=1e-2,
    meta_eps=1e-15,
    pretrain_epochs=12,
    pretrain_batch_size=32,
    val_episodes=60,
    test_episodes=600,
    val_query=5,
    test_query=5,
    log_every=5,
)
PRESETS = {
    "quick": _QUICK,
    "smoke": replace(
        _QUICK,
        preset="smoke",
        width=8,
        epochs=2,
        episodes=3,
        pretrain_epochs=1,
        pretrain_batch_size=64,
        val_episodes=5,
        test_episodes=10,
        log_every=1,
    ),
    # Five times quick's episodes, after a longer pre-training.
    "study": replace(
        _QUICK, preset="study", epochs=60, episodes=20, pretrain_epochs=60, test_episodes=2_000
    ),
    "paper": _PAPER,
}


CONTROLLED: dict[str, Any] = {"stream": "pairs", "auxiliary": "on", "ft": "fixed"}
"""The training loop of the methods that learn, for those that do not."""


def planned_runs(preset: str) -> list[Config]:
    """The runs behind the tables and figures of a preset: none and ft in the released way and in
    the controlled one, then the methods that learn."""
    default = PRESETS[preset]
    methods: list[dict[str, Any]] = [
        {"method": "none"},
        {"method": "none"} | CONTROLLED,
        {"method": "ft"},
        {"method": "ft"} | CONTROLLED,
        {"method": "lft_evograd"},
        {"method": "lft_t1t2"},
    ]
    cells: list[dict[str, Any]] = [{}]
    if preset == "paper":
        cells = [
            {"unseen": unseen, "backbone": backbone, "n_shot": n_shot}
            for backbone in ("resnet10", "resnet34")
            for n_shot in (1, 5)
            for unseen in DOMAINS["paper"][1:]
        ]
    if preset == "study":
        methods.append({"method": "lft_along_gradient"})
        cells = [
            {"unseen": unseen, "seed": seed}
            for seed in range(1, 6)
            for unseen in ("devanagari", "latin", "emoji", "icons")
        ]
    return [
        replace(default, **cell, **method).validate()
        for cell in cells
        for method in methods
        # The paper has no second-order result for ResNet-34.
        if (cell.get("backbone"), method["method"]) != ("resnet34", "lft_t1t2")
    ]


# Settings that a run's name contains anyway, or that do not change the result.
_NAMED = ("method", "seed", "preset", "unseen", "backbone", "head", "n_way", "n_shot", "log_every")


def variant(settings: Mapping[str, Any]) -> list[str]:
    """How a run's settings differ from its preset, except for _NAMED; ``controlled`` stands for
    those of CONTROLLED together."""
    preset = PRESETS[settings["preset"]].deciding()
    changes = {
        name: settings[name]
        for name, default in preset.items()
        if name not in _NAMED and settings.get(name, default) != default
    }
    controlled = replace(Config(method=settings["method"]), **CONTROLLED)._normalised()
    loop = {name: getattr(controlled, name) for name in CONTROLLED}
    loop = {name: value for name, value in loop.items() if value != preset[name]}
    words = []
    if loop and loop.items() <= changes.items():
        words = ["controlled"]
        changes = {name: value for name, value in changes.items() if name not in loop}
    return words + [f"{name} {value}" for name, value in changes.items()]


EXPERIMENT = Experiment(
    name="cross_domain_fewshot",
    title="Cross-domain few-shot learning",
    description="Learns feature-wise transformations that carry a few-shot learner to a new "
    "domain.",
    methods=METHODS,
    presets=PRESETS,
    planned=planned_runs,
    metric="accuracy",
    baseline="none",
    axes=("unseen", "backbone", "n_shot", "stream", "auxiliary", "ft"),
    variant=variant,
)
