"""The bilevel problem: a tagger trained on two languages, validated on one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from metaxl.models import Tagger
from metaxl.tokens import IGNORED
from metaxl.transformation import Transformation


@dataclass(frozen=True)
class Batch:
    """Sentences: subwords, mask and labels, each (N, L).

    hidden: perhaps the output (N, L, H) of layer ``depth``, computed beforehand.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    hidden: Tensor | None = None
    depth: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def halves(self) -> tuple[Self, Self]:
        """The sentences for training, as many or one more, and those for the meta loss."""
        middle = (len(self) + 1) // 2
        first, second = slice(None, middle), slice(middle, None)
        return tuple(
            Batch(self.input_ids[part], self.attention_mask[part], self.labels[part])
            for part in (first, second)
        )

    def detached(self) -> Self:
        """The same batch, its hidden states without a graph."""
        return replace(self, hidden=self.hidden.detach())


InnerBatch = tuple[Batch, Batch]
"""Source sentences, target sentences."""


class MetaXLProblem:
    """theta: the tagger's parameters; lambda: those of the transformation network (RTN).

        L_T = CE(head(RTN(encoder(source)))) + CE(head(encoder(target, training half)))
        L_V = CE(head(encoder(target, other half)))

    CE: mean cross-entropy over labelled subwords. Dropout is as the modules' mode says. Where a
    batch brings hidden states, the layers below are not passed again, and not differentiated.
    """

    def __init__(self, tagger: Tagger, transformation: Transformation) -> None:
        self.tagger, self.transformation = tagger, transformation

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        """The training loss L_T."""
        source, target = batch
        source_loss = self._loss(params, self.states(params, source, hyper), source)
        return source_loss + self._loss(params, self.states(params, target), target)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The loss L_V on target sentences; lambda does not occur."""
        return self._loss(params, self.states(params, batch), batch)

    def states(self, params: Tensors, batch: Batch, hyper: Tensors | None = None) -> Tensor:
        """What the head is given, (N, L, H): transformed if ``hyper`` is there, after dropout."""

        def transform(layer: int, hidden: Tensor) -> Tensor:
            return functional_call(self.transformation, dict(hyper), (layer, hidden))

        hidden = functional_call(
            self.tagger.encoder,
            _part(params, "encoder."),
            (batch.input_ids, batch.attention_mask),
            {
                "transform": None if hyper is None else transform,
                "hidden": batch.hidden,
                "depth": batch.depth,
            },
        )
        return self.tagger.dropout(hidden)

    def _loss(self, params: Tensors, states: Tensor, batch: Batch) -> Tensor:
        scores = F.linear(states, params["head.weight"], params["head.bias"])
        return token_loss(scores, batch.labels)


class SharedEncoderProblem(MetaXLProblem):
    """The same losses; EvoGrad's candidates, which differ in the head alone, share one encoder
    pass."""

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        """L_T of K heads, (K,), all with the same dropout; ValueError if the encoders differ too.

        The graph to lambda holds the encoder's layers above the lowest transformed one, once.
        """
        encoder = {}
        for name, tensor in candidates.items():
            if name.startswith("encoder."):
                if tensor.stride(0) != 0:
                    raise ValueError(
                        f"{name} differs between candidates, which share the encoder: "
                        "perturb the head only (perturb=is_head), or use MetaXLProblem"
                    )
                encoder[name] = tensor[0]
        source, target = batch
        states = self.states(encoder, source, hyper), self.states(encoder, target)
        heads = zip(candidates["head.weight"], candidates["head.bias"], strict=True)
        losses = []
        for weight, bias in heads:
            head = {"head.weight": weight, "head.bias": bias}
            losses.append(sum(self._loss(head, s, b) for s, b in zip(states, batch, strict=True)))
        return torch.stack(losses)


class RepeatedPassesProblem(MetaXLProblem):
    """The same losses, with the encoder's parameters among the hyperparameters.

    So every candidate's pass through the encoder, and the meta loss's, is kept as a graph and
    differentiated, as in the authors' code; the encoder's part of the result is of no use.
    """

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: InnerBatch) -> Tensor:
        return super().inner_loss({**params, **hyper}, self._network(hyper), batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        return super().outer_loss({**params, **hyper}, self._network(hyper), batch)

    def _network(self, hyper: Tensors) -> Tensors:
        return {n: t for n, t in hyper.items() if not n.startswith("encoder.")}


def token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of scores (N, L, C) over the labelled subwords of labels (N, L)."""
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def joint_loss(tagger: Tagger, batches: Sequence[Batch]) -> Tensor:
    """The sum over languages of the mean cross-entropy, without a transformation network."""
    return sum(token_loss(tagger(b.input_ids, b.attention_mask), b.labels) for b in batches)


def _part(params: Tensors, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in params.items() if n.startswith(prefix)}
