"""Settings and presets of the cross-domain few-shot experiment."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from common.experiment import Experiment, Method, estimator_methods
from common.settings import (
    RUNTIME_FIELDS,
    STRICT,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RunSettings,
)
from cross_domain_fewshot.data import DOMAINS, domains_of

if TYPE_CHECKING:
    from cross_domain_fewshot.train import FewShotTask

_LABELS = {"t1t2": "T1-T2 (double backward)", "t1t2_higher": "T1-T2 (through higher)"}
METHODS = {
    "none": Method("No transformation", published="none"),
    "both_domains": Method("No transformation, trained on both domains"),
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
AtLeastTwo = Annotated[int, Field(ge=2, lt=2**31)]


@dataclass(frozen=True, config=STRICT)
class Config(RunSettings):
    """One run: a few-shot learner trained on four domains and tested on the fifth.

    Methods: none, without feature-wise transformations; both_domains, likewise, but in LFT's loop
    and trained on the episodes of both domains: the simplest use of the same data; ft, with
    transformations that no hypergradient learns; lft_*, with learned ones, by the estimator's name.
    Defaults: the paper's, and those of the authors' released code where the text does not say.
    """

    experiment: ClassVar[str] = "cross_domain_fewshot"
    methods: ClassVar[Mapping[str, Method]] = METHODS
    runtime_fields: ClassVar[frozenset[str]] = RUNTIME_FIELDS | {"pretrained_dir", "workers"}

    method: str = "lft_evograd"
    """What is run; the methods are listed above."""
    log_every: PositiveInt = 50
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""
    pretrained_dir: Path | None = None
    """Where pre-trained backbones are kept; default runs/cross_domain_fewshot/pretrained."""
    workers: NonNegativeInt = 4
    """Threads that read image files."""
    benchmark: str = "paper"
    """The domains. paper: photographs in your own folder; embedded: the small ones shipped here;
    NAME,NAME,NAME...: your own, of which the first is the base domain."""
    unseen: str = "cub"
    """The domain left out of training, on whose novel classes the result is measured."""
    backbone: Literal["resnet10", "resnet18", "resnet34"] = "resnet10"
    """Network that embeds the images; a RelationNet compares them."""
    width: PositiveInt = 64
    """Channels of the first stage."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """Start of the network: 7x7 convolution and max-pool, or 3x3 convolution (both stride 2)."""
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
    protocol: Literal["released", "controlled", "pairs", "fixed"] = "released"
    """The training loop of none and ft. released: episodes of all seen domains equally often, no
    auxiliary loss, FT's transformations trained with the model on the training loss. controlled:
    that of the methods that learn (an epoch's episodes are of one pseudo-seen domain, with a
    classification loss on the base domain), FT's transformations fixed. pairs, fixed: released, but
    with the stream of the methods that learn, or with FT's transformations fixed."""
    order: Literal["released", "base_first", "meta_first"] = "released"
    """The first step of an iteration: the model's or the transformations'. Both use the same
    episode of the pseudo-seen domain. released: meta_first for T1-T2, else base_first."""
    epochs: PositiveInt = 400
    """Epochs; each has one pseudo-seen and one pseudo-unseen domain."""
    episodes: PositiveInt = 100
    """Episodes (iterations) per epoch; spread evenly over the domains, if of all."""
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
        return self.method not in ("none", "both_domains")

    @property
    def seen(self) -> tuple[str, ...]:
        """The domains of training."""
        return tuple(d for d in domains_of(self.benchmark) if d != self.unseen)

    @property
    def base_domain(self) -> str:
        """The domain of pre-training, auxiliary loss and validation."""
        return domains_of(self.benchmark)[0]

    @property
    def trains_on_unseen(self) -> bool:
        """Whether episodes of the pseudo-unseen domain are used: for the hypergradient, or for the
        base step too."""
        return METHODS[self.method].estimator is not None or self.method == "both_domains"

    @property
    def auxiliary(self) -> bool:
        """Whether the episodes' loss has a classification loss on the base domain added to it."""
        return self.trains_on_unseen or self.protocol == "controlled"

    @property
    def paired(self) -> bool:
        """Whether an epoch's episodes are of one pseudo-seen and one pseudo-unseen domain, drawn
        for each epoch, instead of all seen domains."""
        return self.auxiliary or self.protocol == "pairs"

    @property
    def trains_ft(self) -> bool:
        """Whether the transformations are trained with the model, on the training loss."""
        return self.method == "ft" and self.protocol in ("released", "pairs")

    @property
    def meta_first(self) -> bool:
        """Whether the meta step comes before the base step."""
        released = self.order == "released" and self.method.startswith("lft_t1t2")
        return released or self.order == "meta_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        domains = domains_of(self.benchmark)
        if len(set(domains)) != len(domains) or len(domains) < 3 or "" in domains:
            raise ValueError(
                f"--benchmark {self.benchmark} is unknown: use {', '.join(DOMAINS)}, or at least "
                "three domains of your own as NAME,NAME,NAME"
            )
        if self.unseen not in domains or self.unseen == self.base_domain:
            possible = ", ".join(d for d in domains if d != self.base_domain)
            raise ValueError(f"--unseen {self.unseen} cannot be left out: use {possible}")
        if self.trains_on_unseen and self.protocol != "released":
            raise ValueError(f"--protocol {self.protocol} is for methods none and ft: leave it out")
        if self.protocol == "fixed" and self.method != "ft":
            raise ValueError("--protocol fixed is for method ft: leave it out")
        if self.order != "released" and METHODS[self.method].estimator is None:
            raise ValueError(f"--order is for methods with a meta step, not {self.method}")


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


class FewShot(Experiment):
    name = "cross_domain_fewshot"
    title = "Cross-domain few-shot learning"
    description = (
        "Learns feature-wise transformations that carry a few-shot learner to a new domain."
    )
    config = Config
    methods = METHODS
    presets = PRESETS
    metric = "accuracy"
    best_metric = "val_accuracy"
    baseline = "none"
    axes = ("unseen", "backbone", "n_shot")

    def planned(self, preset: str) -> list[Config]:
        """None and ft in the released way and in the controlled one, then the methods that learn;
        in larger presets also the simplest use of the same data."""
        methods: list[tuple[str, Any]] = [
            (name, loop) for name in ("none", "ft") for loop in ("released", "controlled")
        ]
        methods += [("lft_evograd", "released"), ("lft_t1t2", "released")]
        cells: list[dict[str, Any]] = [{}]
        if preset in ("paper", "study"):
            methods.append(("both_domains", "released"))
        if preset == "paper":
            cells = [
                {"unseen": unseen, "backbone": backbone, "n_shot": n_shot}
                for backbone in ("resnet10", "resnet34")
                for n_shot in (1, 5)
                for unseen in DOMAINS["paper"][1:]
            ]
        elif preset == "study":
            methods.append(("lft_along_gradient", "released"))
            unseens = ("devanagari", "latin", "emoji", "icons")
            cells = [{"seed": seed, "unseen": unseen} for seed in range(1, 6) for unseen in unseens]
        return [
            replace(PRESETS[preset], **cell, method=method, protocol=protocol)
            for cell in cells
            for method, protocol in methods
            # The paper has no second-order result for ResNet-34.
            if (cell.get("backbone"), method) != ("resnet34", "lft_t1t2")
        ]

    def task(self, config: Config, device: torch.device) -> "FewShotTask":
        from cross_domain_fewshot.train import FewShotTask

        return FewShotTask(config, device)


EXPERIMENT = FewShot()
