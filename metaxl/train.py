"""One run, to be read from top to bottom: problem, base step, meta step, epochs, evaluation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import get_total_norm, parameters_to_vector

from common.hypergrad import EvoGradGraph, Hypergradient, Tensors
from common.run import Task
from common.training import (
    Best,
    Cost,
    EndlessBatches,
    EpochBatches,
    MetaStep,
    Part,
    measure,
    new_generator,
)
from metaxl.config import Config
from metaxl.data import Batch, load_material
from metaxl.evaluate import entity_scores, representation_curves
from metaxl.models import Tagger, Transformation, is_head
from metaxl.tokens import IGNORED
from metaxl.transformers_import import XLMRobertaModel


class InnerBatch(NamedTuple):
    """Sentences of both languages to train on."""

    source: Batch
    target: Batch


class MetaXLProblem:
    """theta: the tagger's parameters; lambda: those of the transformation network (RTN).

        L_T = sum_l a_l CE(head(encoder_l(source))) + CE(head(encoder(target, training half)))
        L_V = CE(head(encoder(target, other half)))

    encoder_l: transformed at layer l. a: softmax over the RTN's layers; 1 for a single one. CE:
    mean cross-entropy over labelled subwords. Dropout follows the modules' mode. Where a batch has
    hidden states, the layers below them are not computed again, and not differentiated.
    """

    def __init__(self, tagger: Tagger, transformation: Transformation) -> None:
        self.tagger, self.transformation = tagger, transformation

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        """The training loss L_T."""
        return self.training_loss(params, hyper, self.encoded(params, hyper, batch), batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The loss L_V, on sentences without the RTN; lambda does not occur."""
        return head_loss(params, self.states(params, batch), batch)

    def encoded(self, params: Tensors, hyper: Tensors, batch: InnerBatch) -> list[Tensor]:
        """The head's inputs, (N, L, H): for source sentences one for every transformed layer, then
        for target sentences."""
        layers = self.transformation.layers
        source = [self.states(params, batch.source, hyper, layer) for layer in layers]
        return [*source, self.states(params, batch.target)]

    def states(
        self, params: Tensors, batch: Batch, hyper: Tensors | None = None, layer: int | None = None
    ) -> Tensor:
        """The last hidden states after dropout, (N, L, H), transformed at ``layer`` if given."""
        prefix = "encoder."
        own = {n.removeprefix(prefix): t for n, t in params.items() if n.startswith(prefix)}
        encode = partial(functional_call, self.tagger.encoder, own)
        subwords, hidden, depth = (batch.input_ids, batch.attention_mask), batch.hidden, batch.depth
        if layer is not None:
            below = encode((*subwords, hidden, depth, layer))
            hidden = functional_call(self.transformation, dict(hyper), (layer, below))
            depth = layer
        return self.tagger.dropout(encode((*subwords, hidden, depth)))

    def training_loss(
        self, head: Tensors, hyper: Tensors, states: list[Tensor], batch: InnerBatch
    ) -> Tensor:
        """L_T of the states that ``encoded`` gives."""
        *source, target = states
        losses = torch.stack([head_loss(head, own, batch.source) for own in source])
        mixed = torch.softmax(hyper["mixing"], 0) @ losses
        return mixed + head_loss(head, target, batch.target)


def head_loss(head: Tensors, states: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of the head's scores of states (N, L, H) over the labelled subwords."""
    scores = F.linear(states, head["head.weight"], head["head.bias"])
    return F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


class SharedEncoderProblem(MetaXLProblem):
    """The same losses; EvoGrad's candidates, which differ only in the head, share one encoder
    pass."""

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        """L_T of K heads, (K,), all with the same dropout; ValueError if the encoders differ too.

        The graph to lambda holds the encoder's layers above the lowest transformed one, once.
        """
        encoder = {n: t for n, t in candidates.items() if not is_head(n)}
        if different := [name for name, tensor in encoder.items() if tensor.stride(0) != 0]:
            raise ValueError(
                f"{different[0]} differs between candidates, which share the encoder: "
                "perturb the head only (perturb=is_head), or use MetaXLProblem"
            )
        states = self.encoded({n: t[0] for n, t in encoder.items()}, hyper, batch)
        heads = [{n: t[k] for n, t in candidates.items() if is_head(n)}
                 for k in range(len(candidates["head.bias"]))]  # fmt: skip
        return torch.stack([self.training_loss(head, hyper, states, batch) for head in heads])


class RepeatedPassesProblem(MetaXLProblem):
    """The same losses, with the encoder's parameters among the hyperparameters.

    So every candidate's pass through the encoder, and the meta loss's, is kept as a graph and
    differentiated, as in the authors' code; the encoder's part of the result is not used.
    """

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        network = {n: t for n, t in hyper.items() if not n.startswith("encoder.")}
        return super().inner_loss({**params, **hyper}, network, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        return super().outer_loss({**params, **hyper}, hyper, batch)


class Learner:
    """What is trained, and one training step of every method.

    meta: the transformation network's step; None for methods without one.
    """

    def __init__(
        self, config: Config, encoder: XLMRobertaModel, num_labels: int, device: torch.device
    ) -> None:
        self.config, self.meta = config, None
        self.tagger = Tagger(encoder, num_labels).to(device)
        hidden_size = encoder.config.hidden_size
        self.transformation = Transformation(hidden_size, config.layers, config.bottleneck)
        self.transformation.to(device)
        self.params = dict(self.tagger.named_parameters())
        self.optimizer = torch.optim.Adam(
            self.params.values(), config.learning_rate, weight_decay=config.weight_decay
        )
        networks = self.tagger, self.transformation
        self.problem = MetaXLProblem(*networks)
        self.repeated_problem = RepeatedPassesProblem(*networks)
        self.state: dict[str, Part] = {"tagger": self.tagger, "optimizer": self.optimizer}
        if config.has_transformation:
            shared = config.method == "evograd"  # which perturbs the classifier only
            hyper = dict(self.transformation.named_parameters())
            self.meta = MetaStep(
                config.make_estimator(self.current_learning_rate, is_head if shared else None),
                SharedEncoderProblem(*networks) if shared else self.problem,
                hyper,
                torch.optim.Adam(
                    hyper.values(),
                    config.meta_learning_rate,
                    weight_decay=config.meta_weight_decay,
                    decoupled_weight_decay=config.meta_decay == "decoupled",
                ),
                new_generator(config.seed, "perturbations"),
                config.every,
            )
            self.state["meta"] = self.meta.state

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
            losses = [self.problem.outer_loss(self.params, {}, b) for b in (source, train)]
            return self._update(losses[0] + losses[1], self.config.clip)
        batch = InnerBatch(source, train)
        if not self.meta.due():
            return self.base_step(batch)
        if method == "evograd" and not self.config.faithful:
            return self.shared_step(batch, meta)
        take = {"decay_only": self.decay_step, "evograd": self.repeated_meta_step}
        return take.get(method, self.meta_step)(batch, meta) | self.base_step(batch)

    def joint_step(self, *batches: Batch) -> dict[str, Tensor]:
        """Ordinary training on the mean of the losses, without a transformation network."""
        losses = [self.problem.outer_loss(self.params, {}, batch) for batch in batches]
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
        metrics = self.decay_norm()
        zeros = {name: torch.zeros_like(h) for name, h in self.meta.hyper.items()}
        self.meta.apply(Hypergradient(zeros, torch.zeros(())))
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
        train = passed(batch.target, encoder.model.config.num_hidden_layers)
        with torch.no_grad():
            meta = passed(meta, encoder.model.config.num_hidden_layers)
        metrics = self.meta_step(InnerBatch(source.detached(), train.detached()), meta)
        return metrics | self.base_step(InnerBatch(source, train))

    def repeated_meta_step(self, batch: InnerBatch, meta: Batch) -> dict[str, Tensor]:
        """EvoGrad as the authors' code computes it: 2K + 1 encoder passes (source and target for
        every candidate, the meta loss), each with its own dropout masks, all kept as one graph
        and back-propagated through."""
        heads = {name: tensor for name, tensor in self.params.items() if is_head(name)}
        rest = {name: tensor for name, tensor in self.params.items() if not is_head(name)}
        estimator = EvoGradGraph(**vars(self.meta.estimator) | {"common_noise": False})
        hyper, generator = {**self.meta.hyper, **rest}, self.meta.generator
        result = estimator(self.repeated_problem, heads, hyper, batch, meta, generator=generator)
        return self.decay_norm() | self.meta.apply(result)

    def decay_norm(self) -> dict[str, Tensor]:
        """Norm of what coupled weight decay adds to the hypergradient."""
        norm = get_total_norm([h.detach() for h in self.meta.hyper.values()])
        return {"decay_norm": self.config.meta_weight_decay * norm}

    def _update(self, loss: Tensor, clip: float | None = None) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.tagger.parameters(), clip)
        self.optimizer.step()
        return {"train_loss": loss.detach()}


class MetaXLTask(Task):
    """A meta step on the transformation network, then a base step of the tagger."""

    def __init__(self, config: Config, device: torch.device) -> None:
        encoder, self.splits, self.labels, self.checksums = load_material(config, device)
        self.config, self.device = config, device
        self.learner = Learner(config, encoder, len(self.labels), device)
        # For source sentences when they are evaluated.
        self.transformation = self.learner.transformation if config.has_transformation else None
        stream, size, cpu = (
            partial(new_generator, config.seed),
            config.batch_size,
            torch.device("cpu"),
        )
        sources, targets = len(self.splits["source"]), len(self.splits["target"])
        self.source_batches = EpochBatches(sources, size, stream("source batches"), cpu)
        self.target_batches = EndlessBatches(targets, size, stream("target batches"), cpu)
        self.steps_per_epoch = len(self.source_batches)
        self.best = Best()
        batches = {"source_batches": self.source_batches, "target_batches": self.target_batches}
        self.state: Mapping[str, Part] = {**self.learner.state, "best": self.best, **batches}

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        self.learner.tagger.train()
        first = (epoch - 1) * self.steps_per_epoch
        for step, index in enumerate(self.source_batches.epoch(), first):
            self.learner.set_rates(self.rate(step))
            source = self.splits["source"].batch(index)
            target = self.splits["target"].batch(self.next_target())
            yield self.learner.step(source, target)

    def next_target(self) -> Tensor:
        """The next target sentences; a single remaining one, with an empty half, is skipped."""
        index = self.target_batches.next()
        return index if len(index) > 1 else self.target_batches.next()

    def rate(self, step: int) -> float:
        """The fraction of the largest learning rates in step 0, 1, ...: a linear rise from 0 over
        the fraction ``warmup`` of all steps, then a linear fall."""
        total = self.config.epochs * self.steps_per_epoch
        rise = int(self.config.warmup * total)
        return step / rise if step < rise else (total - step) / (total - rise)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Entity F1 in percent: dev, test, source_dev; selected: test at the best dev so far."""
        scores = partial(entity_scores, self.learner.tagger)
        dev = scores(self.splits["dev"], self.labels)["f1"]
        test = scores(self.splits["test"], self.labels)
        source = scores(self.splits["source_dev"], self.labels, self.transformation)
        metrics = {"dev_f1": dev, "source_dev_f1": source["f1"]}
        metrics |= {f"test_{name}": value for name, value in test.items()}
        selected = self.best.offer(dev, test)
        metrics |= {f"selected_{name}": value for name, value in selected.items()}
        return metrics | (self.movement(epoch) if self.transformation is not None else {})

    def movement(self, epoch: int) -> dict[str, float]:
        """How the transformation network has moved from its start.

        moved: Euclidean distance. norm_ratio: its norm divided by that at the start. decay_cosine:
        the cosine between its movement and that by weight decay alone, which depends only on the
        start and the schedule (coupled, whatever the run's decay is).
        """
        config, meta = self.config, self.learner.meta
        decayed = [tensor.clone() for tensor in meta.start.values()]
        optimizer = torch.optim.Adam(decayed, weight_decay=config.meta_weight_decay)
        for tensor in decayed:
            tensor.grad = torch.zeros_like(tensor)
        for step in range(epoch * self.steps_per_epoch):
            optimizer.param_groups[0]["lr"] = config.meta_learning_rate * self.rate(step)
            optimizer.step()
        first, now, alone = (
            parameters_to_vector(tensors).detach().double()
            for tensors in (meta.start.values(), meta.hyper.values(), decayed)
        )
        return {
            "moved": (now - first).norm().item(),
            "norm_ratio": (now.norm() / first.norm()).item(),
            "decay_cosine": F.cosine_similarity(now - first, alone - first, dim=0).item(),
        }

    def curves(self) -> dict[str, list[float]]:
        """Points of source and target words for the figure of representations."""
        splits = self.splits["source_dev"], self.splits["dev"]
        return representation_curves(self.learner.tagger, self.transformation, *splits)

    def measure_cost(self) -> Cost:
        self.learner.tagger.train()
        first = torch.arange(self.config.batch_size)
        source, target = (
            self.splits[n].batch(first[: len(self.splits[n])]) for n in ("source", "target")
        )
        return measure(lambda: self.learner.step(source, target), self.device, repeats=5, warm_up=2)
