"""Settings and presets of the cross-lingual entity-recognition experiment."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from common.errors import UserError
from common.experiment import Experiment, Method
from common.settings import (
    STRICT,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RunSettings,
    Seed,
)

SMALL = "small"
"""The value of --encoder that stands for an encoder trained here instead of a published one."""
SECOND_ORDER = ("t1t2", "t1t2_higher")
"""Methods that differentiate the attention twice."""
METHODS = {
    "joint_training": Method("Joint training", published="joint_training"),
    "joint_half": Method("Joint training on halves"),
    "evograd": Method("EvoGrad", "evograd", published="evograd"),
    "t1t2": Method("T1-T2 (double backward)", "t1t2", published="t1t2"),
    "t1t2_higher": Method("T1-T2 (through higher)", "t1t2_higher", published="t1t2"),
    "finite_difference": Method("Finite difference", "finite_difference"),
    "along_gradient": Method("EvoGrad along the gradient", "along_gradient"),
    "anchored": Method("EvoGrad, one candidate at theta", "anchored"),
    "decay_only": Method("Decay only"),
    "target_only": Method("Target only"),
}


@dataclass(frozen=True, config=STRICT)
class Config(RunSettings):
    """One run: a tagger for a target language with few sentences, helped by a source language.

    Methods without a transformation network: joint_training on both languages; joint_half, a
    control that trains as the methods below do, on half of each target batch; target_only, a
    control without the source language. The others have a transformation network: decay_only, a
    control with a hypergradient of zero, and the estimators by name. Defaults: the paper's.
    """

    experiment: ClassVar[str] = "metaxl"
    methods: ClassVar[Mapping[str, Method]] = METHODS

    log_every: PositiveInt = 20
    """Iterations between two logged values (progress bar, metrics.jsonl, traces of the record)."""

    dataset: Literal["wikiann", "embedded", "masakhaner", "conll"] = "wikiann"
    """WikiAnn (PAN-X) and MasakhaNER, the corpus that comes with this project, or any files in
    CoNLL's columns."""
    source: str = "en"
    """Language with many labelled sentences."""
    target: str = "qu"
    """Language with few labelled sentences."""
    source_sentences: PositiveInt = 5_000
    """Training sentences of the source language, at most."""
    target_sentences: Annotated[int, Field(ge=2, lt=2**31)] = 100
    """Training sentences of the target language, at most; a batch of them is halved."""
    data_seed: Seed = 42
    """Draws the training sentences if there are more than asked for; the same for all runs."""
    eval_sentences: NonNegativeInt = 0
    """Dev and test sentences: the first ones; 0 is all."""
    train_length: Annotated[int, Field(ge=8, lt=2**31)] = 200
    """Subwords of a training sentence, at most."""
    eval_length: Annotated[int, Field(ge=8, lt=2**31)] = 512
    """Subwords of a dev or test sentence, at most."""

    encoder: str = "FacebookAI/xlm-roberta-base"
    """XLM-R: a folder, a name on the Hugging Face hub, or "small": the same architecture, small,
    trained here on the text of the data set."""
    small_layers: PositiveInt = 2
    """Encoder small: layers."""
    small_hidden: Annotated[int, Field(ge=32, multiple_of=32)] = 96
    """Encoder small: size of the hidden states; an attention head has 32 of them."""
    small_vocabulary: PositiveInt = 3_000
    """Encoder small: subwords of its tokenizer."""
    pretraining_steps: NonNegativeInt = 3_000
    """Encoder small: steps of masked-language-model training."""
    pretraining_seed: NonNegativeInt = 1
    """Encoder small: its seed; all runs start from the same encoder, as with a published one."""

    layers: tuple[NonNegativeInt, ...] = (12,)
    """Layers whose output is transformed; 0 is the embeddings."""
    bottleneck: PositiveInt = 384
    """Hidden units of a transformation network."""
    faithful: bool = False
    """EvoGrad: repeat the encoder's passes for every candidate, with its own dropout masks, and
    back-propagate through them, as the authors' code does, instead of one pass for all."""

    epochs: PositiveInt = 20
    """Passes over the source sentences."""
    batch_size: Annotated[int, Field(ge=2, lt=2**31)] = 12
    """Sentences per batch, of each language; a meta step takes half of the target's."""
    learning_rate: PositiveFloat = 3e-5
    """Adam on the tagger; also T1-T2's inner step size, with the schedule."""
    weight_decay: NonNegativeFloat = 5e-4
    """On the tagger, added to the gradient (Adam with L2)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of all steps in which the learning rates rise from 0; then they fall to 0."""
    clip: PositiveFloat = 10.0
    """Largest norm of the tagger's gradient; joint_training and target_only do not clip."""
    meta_learning_rate: PositiveFloat = 1e-6
    """Adam on the transformation network."""
    meta_weight_decay: NonNegativeFloat = 5e-4
    """On the transformation network."""
    meta_decay: Literal["coupled", "decoupled"] = "coupled"
    """The transformation network's weight decay: added to the hypergradient, or decoupled."""

    @property
    def has_transformation(self) -> bool:
        """Whether source sentences go through a transformation network."""
        return self.method == "decay_only" or METHODS[self.method].estimator is not None

    @property
    def attention(self) -> Literal["eager", "sdpa"]:
        """Fused attention has no second derivative; plain matrix products have."""
        return "eager" if self.method in SECOND_ORDER else "sdpa"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == self.target:
            raise ValueError(f"--target {self.target} must differ from --source")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            given = " ".join(map(str, self.layers))
            raise ValueError(f"--layers {given} must be different numbers")
        if self.encoder == SMALL:
            self._check_depth(self.small_layers)
        if self.faithful and self.method != "evograd":
            raise ValueError(f"--faithful is for --method evograd, not {self.method}")

    def _check_depth(self, last: int) -> None:
        if self.has_transformation and max(self.layers) > last:
            raise UserError(
                f"--layers {max(self.layers)} does not exist: the encoder has layers 1 to {last}"
            )

    def check_encoder(self, encoder: Any) -> None:
        """Raises UserError if a layer to be transformed is not among the encoder's (0: its
        embeddings), or it cannot take sentences of the lengths asked for."""
        self._check_depth(encoder.num_hidden_layers)
        longest = encoder.max_position_embeddings - 2
        for name in ("train_length", "eval_length"):
            if (length := getattr(self, name)) > longest:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {length} is more than the {longest} of the encoder")


_PAPER = Config()
_QUICK = replace(
    _PAPER,
    preset="quick",
    dataset="embedded",
    source="eng",
    target="quy",
    source_sentences=900,
    eval_sentences=200,
    train_length=48,
    eval_length=128,
    encoder=SMALL,
    layers=(2,),
    bottleneck=48,
    epochs=4,
    learning_rate=2e-3,
    meta_learning_rate=1e-3,
    log_every=10,
)
PRESETS = {
    "quick": _QUICK,
    "smoke": replace(
        _QUICK,
        preset="smoke",
        source_sentences=36,
        target_sentences=24,
        eval_sentences=20,
        small_hidden=32,
        small_vocabulary=500,
        pretraining_steps=20,
        bottleneck=16,
        epochs=2,
        log_every=1,
    ),
    "study": replace(_QUICK, preset="study"),
    "paper": _PAPER,
}
PAPER_TARGETS = ("qu", "cdo", "ilo", "xmf", "mhr", "mi", "tk", "gn")
COMPARED = ("joint_training", "joint_half", "evograd", "t1t2", "target_only", "decay_only")
"""Methods behind the tables."""


class CrossLingual(Experiment):
    name = "metaxl"
    title = "Cross-lingual named entities (MetaXL)"
    description = "Learns to transform a source language's representations for a target language."
    config = Config
    methods = METHODS
    presets = PRESETS
    metric = "selected_f1"
    best_metric = "dev_f1"
    baseline = "joint_training"
    axes = ("dataset", "source", "target")

    def planned(self, preset: str) -> list[Config]:
        """Preset study: of both small corpora."""
        cells: list[dict[str, Any]] = [{"target": "quy"}]
        methods, seeds = [*COMPARED], [1]
        if preset == "paper":
            cells, seeds = [{"target": t} for t in PAPER_TARGETS], [11, 1, 2]
        elif preset == "study":
            swahili = {"dataset": "masakhaner", "source": "swa"}
            cells = [{"target": t} for t in ("quy", "mri", "tuk")]
            cells += [swahili | {"target": t} for t in ("hau", "kin", "lug")]
            methods, seeds = [*COMPARED, "along_gradient"], [1, 2, 3, 4, 5]
        return [
            replace(PRESETS[preset], **cell, method=method, seed=seed)
            for seed in seeds
            for cell in cells
            for method in methods
        ]

    def task(self, config: Config, device: torch.device) -> Any:
        from metaxl.train import MetaXLTask

        return MetaXLTask(config, device)


EXPERIMENT = CrossLingual()
