"""The training steps: tagger and transformation network with their optimisers."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.settings import Estimator
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
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, decay: str
) -> torch.optim.Adam:
    """Adam whose weight decay is "coupled" (added to the gradient) or "decoupled" (AdamW)."""
    kind = {"coupled": torch.optim.Adam, "decoupled": torch.optim.AdamW}[decay]
    return kind(parameters, learning_rate, eps=1e-8, weight_decay=weight_decay)


class Learner:
    """What is trained, and one training step of every method."""

    def __init__(
        self, config: Config, encoder: XLMRobertaModel, num_labels: int, device: torch.device
    ) -> None:
        self.config = config
        self.tagger = Tagger(encoder, num_labels, config.inputs == "released").to(device)
        self.transformation = Transformation(
            self.tagger.encoder.hidden_size, config.layers, config.bottleneck, config.detach_input
        ).to(device)
        self.optimizer = adam(
            self.tagger.parameters(), config.learning_rate, config.weight_decay, config.decay
        )
        self.meta_optimizer = adam(
            self.transformation.parameters(),
            config.meta_learning_rate,
            config.meta_weight_decay,
            config.meta_decay,
        )
        self.problem = MetaXLProblem(self.tagger, self.transformation)
        self.shared_problem = SharedEncoderProblem(self.tagger, self.transformation)
        self.repeated_problem = RepeatedPassesProblem(self.tagger, self.transformation)

    def estimator(self, method: str) -> Estimator:
        """The method's estimator; EvoGrad perturbs the classifier only."""
        perturb = is_head if method == "evograd" else None
        return self.config.estimator(method, self.current_learning_rate, perturb)

    def current_learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def set_rates(self, factor: float) -> None:
        """Both learning rates as parts of their greatest values."""
        self.optimizer.param_groups[0]["lr"] = factor * self.config.learning_rate
        self.meta_optimizer.param_groups[0]["lr"] = factor * self.config.meta_learning_rate

    def step(
        self, source: Batch, target: Batch, noise: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The configured method's training step on one batch of each language; its metrics.

        noise: from which perturbations are drawn; None is torch's own generator.
        """
        method = self.config.method
        if method == "joint_training":
            return self.joint_step(source, target)
        if method == "target_only":
            return self.joint_step(target)
        train, meta = target.halves()
        if method == "joint_half":
            return self._update(self._loss(source) + self._loss(train), self.config.clip)
        batch = InnerBatch(source, train)
        if method == "decay_only":
            metrics = self.decay_step()
        elif method != "evograd":
            metrics = self.meta_step(method, batch, meta, noise)
        elif self.config.faithful:
            metrics = self.repeated_meta_step(batch, meta, noise)
        else:
            return self.shared_step(batch, meta, noise)
        return metrics | self.base_step(batch)

    def joint_step(self, *batches: Batch) -> dict[str, Tensor]:
        """Ordinary training on the mean of the losses, without a transformation network."""
        return self._update(sum(map(self._loss, batches)) / len(batches))

    def base_step(self, batch: InnerBatch) -> dict[str, Tensor]:
        """The tagger's step on L_T with the transformation network as it is now."""
        params, hyper = self._parameters()
        constants = {name: tensor.detach() for name, tensor in hyper.items()}
        return self._update(self.problem.inner_loss(params, constants, batch), self.config.clip)

    def decay_step(self) -> dict[str, Tensor]:
        """The transformation network's step by its weight decay alone."""
        _, hyper = self._parameters()
        return self._meta_update({name: torch.zeros_like(h) for name, h in hyper.items()})

    def meta_step(
        self,
        method: str,
        batch: InnerBatch,
        meta: Batch,
        noise: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The transformation network's step, all of theta being differentiated (not evograd)."""
        params, hyper = self._parameters()
        result = self.estimator(method)(self.problem, params, hyper, batch, meta, generator=noise)
        return {"meta_loss": result.outer_loss} | self._meta_update(result.grads)

    def shared_step(
        self, batch: InnerBatch, meta: Batch, noise: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """EvoGrad with one encoder pass for candidates, meta loss and base step.

        The passes below the lowest transformed layer (source) and through the last (target) keep
        their graph for the base step; candidates and meta loss take their values. So nothing but
        the head, and layers above a transformed one, is computed more often than in an ordinary
        step, and the meta half of the target batch has no graph at all.
        """
        encoder = self.tagger.encoder

        def passed(batch: Batch, depth: int) -> Batch:
            hidden = encoder(batch.input_ids, batch.attention_mask, stop=depth)
            return replace(batch, hidden=hidden, depth=depth)

        source = passed(batch.source, self.transformation.layers[0])
        train = passed(batch.target, encoder.num_layers)
        with torch.no_grad():
            meta = passed(meta, encoder.num_layers)
        params, hyper = self._parameters()
        result = self.estimator("evograd")(
            self.shared_problem,
            params,
            hyper,
            InnerBatch(source.detached(), train.detached()),
            meta,
            generator=noise,
        )
        metrics = {"meta_loss": result.outer_loss} | self._meta_update(result.grads)
        return metrics | self.base_step(InnerBatch(source, train))

    def repeated_meta_step(
        self, batch: InnerBatch, meta: Batch, noise: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """EvoGrad as the authors' code computes it: 2K + 1 encoder passes (source and target for
        every candidate, the meta loss), each with dropout masks of its own, all kept as one graph
        and back-propagated through."""
        params, hyper = self._parameters()
        heads = {name: tensor for name, tensor in params.items() if is_head(name)}
        rest = {name: tensor for name, tensor in params.items() if not is_head(name)}
        estimator = replace(self.estimator("evograd"), mode="graph", common_noise=False)
        result = estimator(
            self.repeated_problem, heads, {**hyper, **rest}, batch, meta, generator=noise
        )
        grads = {name: result.grads[name] for name in hyper}
        return {"meta_loss": result.outer_loss} | self._meta_update(grads)

    def _parameters(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return (
            dict(self.tagger.named_parameters()),
            dict(self.transformation.named_parameters()),
        )

    def _loss(self, batch: Batch) -> Tensor:
        return self.problem.loss(self._parameters()[0], batch)

    def _meta_update(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes the meta step; norms of the hypergradient and of what coupled decay adds to it."""
        parameters = dict(self.transformation.named_parameters())
        norm = nn.utils.get_total_norm(list(grads.values()))
        with torch.no_grad():
            weights = nn.utils.get_total_norm(list(parameters.values()))
        for name, parameter in parameters.items():
            parameter.grad = grads[name]
        self.meta_optimizer.step()
        decay = self.config.meta_weight_decay * weights
        return {"hypergradient_norm": norm, "decay_norm": decay}

    def _update(self, loss: Tensor, clip: float | None = None) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.tagger.parameters(), clip)
        self.optimizer.step()
        return {"train_loss": loss.detach()}
