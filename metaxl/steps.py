"""The training steps: tagger and transformation network with their optimisers."""

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
    joint_loss,
)
from metaxl.transformation import Transformation
from metaxl.transformers_import import XLMRobertaModel


class Learner:
    """What is trained, and one training step of every method."""

    def __init__(
        self, config: Config, encoder: XLMRobertaModel, num_labels: int, device: torch.device
    ) -> None:
        self.config = config
        self.tagger = Tagger(encoder, num_labels).to(device)
        self.transformation = Transformation(
            self.tagger.encoder.hidden_size, config.layers, config.bottleneck, config.detach_hidden
        ).to(device)
        # Decoupled weight decay, and no eps to speak of for the hypergradient: either would
        # outweigh one that is small.
        self.optimizer = torch.optim.AdamW(
            self.tagger.parameters(),
            config.learning_rate,
            eps=1e-8,
            weight_decay=config.weight_decay,
        )
        self.meta_optimizer = torch.optim.AdamW(
            self.transformation.parameters(),
            config.meta_learning_rate,
            eps=1e-15,
            weight_decay=config.meta_weight_decay,
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
        if method == "evograd" and not self.config.faithful:
            return self.shared_step(source, target, noise)
        train, meta = target.halves()
        if method == "evograd":
            metrics = self.repeated_meta_step((source, train), meta, noise)
        else:
            metrics = self.meta_step(method, (source, train), meta, noise)
        return metrics | self.base_step((source, train))

    def joint_step(self, *batches: Batch) -> dict[str, Tensor]:
        """Ordinary training on all sentences, without a transformation network."""
        return self._update(joint_loss(self.tagger, batches))

    def base_step(self, batch: InnerBatch) -> dict[str, Tensor]:
        """The tagger's step on L_T with the transformation network as it is now."""
        params, hyper = self._parameters()
        constants = {name: tensor.detach() for name, tensor in hyper.items()}
        return self._update(self.problem.inner_loss(params, constants, batch))

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
        return self._meta_update(result.grads, result.outer_loss)

    def shared_step(
        self, source: Batch, target: Batch, noise: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """EvoGrad with one encoder pass for candidates, meta loss and base step.

        The passes below the lowest transformed layer (source) and through the last (target) keep
        their graph for the base step; candidates and meta loss take their values. So nothing but
        the head, and layers above a transformed one, is computed more often than in an ordinary
        step, and the meta half of the target batch has no graph at all.
        """
        train, meta = target.halves()
        encoder = self.tagger.encoder

        def passed(batch: Batch, depth: int) -> Batch:
            hidden = encoder(batch.input_ids, batch.attention_mask, stop=depth)
            return replace(batch, hidden=hidden, depth=depth)

        source = passed(source, self.transformation.layers[0])
        train = passed(train, encoder.num_layers)
        with torch.no_grad():
            meta = passed(meta, encoder.num_layers)
        params, hyper = self._parameters()
        result = self.estimator("evograd")(
            self.shared_problem,
            params,
            hyper,
            (source.detached(), train.detached()),
            meta,
            generator=noise,
        )
        metrics = self._meta_update(result.grads, result.outer_loss)
        return metrics | self.base_step((source, train))

    def repeated_meta_step(
        self, batch: InnerBatch, meta: Batch, noise: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """EvoGrad as the authors' code computes it: 2K + 1 encoder passes (source and target for
        every candidate, the meta loss), all kept as one graph and back-propagated through."""
        params, hyper = self._parameters()
        heads = {name: tensor for name, tensor in params.items() if is_head(name)}
        rest = {name: tensor for name, tensor in params.items() if not is_head(name)}
        estimator = replace(self.estimator("evograd"), mode="graph")
        result = estimator(
            self.repeated_problem, heads, {**hyper, **rest}, batch, meta, generator=noise
        )
        grads = {name: result.grads[name] for name in hyper}
        return self._meta_update(grads, result.outer_loss)

    def _parameters(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return (
            dict(self.tagger.named_parameters()),
            dict(self.transformation.named_parameters()),
        )

    def _meta_update(self, grads: dict[str, Tensor], outer_loss: Tensor) -> dict[str, Tensor]:
        for name, parameter in self.transformation.named_parameters():
            parameter.grad = grads[name]
        self.meta_optimizer.step()
        norm = nn.utils.get_total_norm(list(grads.values()))
        return {"meta_loss": outer_loss, "hypergradient_norm": norm}

    def _update(self, loss: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.tagger.parameters(), self.config.clip)
        self.optimizer.step()
        return {"train_loss": loss.detach()}
