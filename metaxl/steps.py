"""The training steps: tagger and transformation network with their optimisers."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.hypergrad import EvoGradGraph, Hypergradient
from common.training import MetaStep, Part, new_generator
from metaxl.config import Config
from metaxl.models import Tagger, is_head
from metaxl.problem import (
    Batch,
    InnerBatch,
    MetaXLProblem,
    RepeatedPassesProblem,
    SharedEncoderProblem,
)
from metaxl.transformation import Transformation
from metaxl.transformers_import import XLMRobertaModel


def adam(
    parameters: Iterable[Tensor], learning_rate: float, weight_decay: float, decay: str
) -> torch.optim.Adam:
    """Adam whose weight decay is "coupled" (added to the gradient) or "decoupled" (AdamW)."""
    kind = {"coupled": torch.optim.Adam, "decoupled": torch.optim.AdamW}[decay]
    return kind(parameters, learning_rate, eps=1e-8, weight_decay=weight_decay)


class Learner:
    """What is trained, and one training step of every method.

    meta: the transformation network's step; None for methods without one.
    """

    def __init__(
        self, config: Config, encoder: XLMRobertaModel, num_labels: int, device: torch.device
    ) -> None:
        self.config = config
        self.tagger = Tagger(encoder, num_labels).to(device)
        self.transformation = Transformation(
            self.tagger.encoder.hidden_size, config.layers, config.bottleneck
        ).to(device)
        self.optimizer = adam(
            self.tagger.parameters(), config.learning_rate, config.weight_decay, "coupled"
        )
        self.problem = MetaXLProblem(self.tagger, self.transformation)
        self.repeated_problem = RepeatedPassesProblem(self.tagger, self.transformation)
        self.state: dict[str, Part] = {"tagger": self.tagger, "optimizer": self.optimizer}
        self.meta = None
        if config.has_transformation:
            self.meta = self._meta_step()
            self.state["meta"] = self.meta.state

    def _meta_step(self) -> MetaStep:
        config, problem, perturb = self.config, self.problem, None
        if config.method == "evograd":  # which perturbs the classifier only
            problem, perturb = SharedEncoderProblem(self.tagger, self.transformation), is_head
        return MetaStep(
            config.make_estimator(self.current_learning_rate, perturb),
            problem,
            dict(self.transformation.named_parameters()),
            adam(
                self.transformation.parameters(),
                config.meta_learning_rate,
                config.meta_weight_decay,
                config.meta_decay,
            ),
            new_generator(config.seed, "perturbations"),
            config.every,
        )

    @property
    def params(self) -> dict[str, Tensor]:
        """theta: the tagger's parameters."""
        return dict(self.tagger.named_parameters())

    def current_learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def set_rates(self, factor: float) -> None:
        """Both learning rates as parts of their greatest values."""
        self.optimizer.param_groups[0]["lr"] = factor * self.config.learning_rate
        if self.meta is not None:
            self.meta.optimizer.param_groups[0]["lr"] = factor * self.config.meta_learning_rate

    def step(self, source: Batch, target: Batch) -> dict[str, Tensor]:
        """The configured method's training step on one batch of each language; its metrics."""
        method = self.config.method
        if method == "joint_training":
            return self.joint_step(source, target)
        if method == "target_only":
            return self.joint_step(target)
        train, meta = target.halves()
        if method == "joint_half":
            loss = self.problem.loss(self.params, source) + self.problem.loss(self.params, train)
            return self._update(loss, self.config.clip)
        batch = InnerBatch(source, train)
        if not self.meta.due():
            return self.base_step(batch)
        if method == "evograd" and not self.config.faithful:
            return self.shared_step(batch, meta)
        take = {"decay_only": self.decay_step, "evograd": self.repeated_meta_step}
        return take.get(method, self.meta_step)(batch, meta) | self.base_step(batch)

    def joint_step(self, *batches: Batch) -> dict[str, Tensor]:
        """Ordinary training on the mean of the losses, without a transformation network."""
        losses = [self.problem.loss(self.params, batch) for batch in batches]
        return self._update(torch.stack(losses).mean())

    def base_step(self, batch: InnerBatch) -> dict[str, Tensor]:
        """The tagger's step on L_T with the present transformation network."""
        constants = {name: h.detach() for name, h in self.transformation.named_parameters()}
        loss = self.problem.inner_loss(self.params, constants, batch)
        return self._update(loss, self.config.clip)

    def meta_step(self, batch: InnerBatch, meta: Batch) -> dict[str, Tensor]:
        """The transformation network's step along the estimator's hypergradient."""
        return self.decay_norm() | self.meta(self.params, batch, meta)

    def decay_step(self, batch: InnerBatch, meta: Batch) -> dict[str, Tensor]:
        """The transformation network's step by its weight decay alone."""
        metrics, hyper = self.decay_norm(), self.meta.hyper
        zero = torch.zeros(())
        self.meta.apply(Hypergradient({n: torch.zeros_like(h) for n, h in hyper.items()}, zero))
        return metrics

    def shared_step(self, batch: InnerBatch, meta: Batch) -> dict[str, Tensor]:
        """EvoGrad with one encoder pass for candidates, meta loss and base step.

        The passes below the lowest transformed layer (source) and through the last (target) keep
        their graph for the base step; candidates and meta loss use their values. So only the head,
        and the layers above a transformed one, are computed more often than in an ordinary step,
        and the meta half of the target batch has no graph.
        """
        encoder = self.tagger.encoder

        def passed(batch: Batch, depth: int) -> Batch:
            hidden = encoder(batch.input_ids, batch.attention_mask, stop=depth)
            return replace(batch, hidden=hidden, depth=depth)

        source = passed(batch.source, self.transformation.layers[0])
        train = passed(batch.target, encoder.num_layers)
        with torch.no_grad():
            meta = passed(meta, encoder.num_layers)
        metrics = self.meta_step(InnerBatch(source.detached(), train.detached()), meta)
        return metrics | self.base_step(InnerBatch(source, train))

    def repeated_meta_step(self, batch: InnerBatch, meta: Batch) -> dict[str, Tensor]:
        """EvoGrad as the authors' code computes it: 2K + 1 encoder passes (source and target for
        every candidate, the meta loss), each with its own dropout masks, all kept as one graph
        and back-propagated through."""
        heads = {name: tensor for name, tensor in self.params.items() if is_head(name)}
        rest = {name: tensor for name, tensor in self.params.items() if not is_head(name)}
        estimator = EvoGradGraph(**vars(self.meta.estimator) | {"common_noise": False})
        hyper = {**self.meta.hyper, **rest}
        result = estimator(
            self.repeated_problem, heads, hyper, batch, meta, generator=self.meta.generator
        )
        return self.decay_norm() | self.meta.apply(result)

    def decay_norm(self) -> dict[str, Tensor]:
        """Norm of what coupled weight decay adds to the hypergradient."""
        with torch.no_grad():
            norm = nn.utils.get_total_norm(list(self.meta.hyper.values()))
        return {"decay_norm": self.config.meta_weight_decay * norm}

    def _update(self, loss: Tensor, clip: float | None = None) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.tagger.parameters(), clip)
        self.optimizer.step()
        return {"train_loss": loss.detach()}
