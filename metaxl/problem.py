"""The bilevel problem: a tagger trained on two languages, validated on one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

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

    hidden: None, or the output (N, L, H) of layer ``depth``, computed beforehand.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    hidden: Tensor | None = None
    depth: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def halves(self) -> tuple[Self, Self]:
        """The sentences for training, and the same number or one more for the meta loss."""
        middle = len(self) // 2
        return (
            type(self)(self.input_ids[:middle], self.attention_mask[:middle], self.labels[:middle]),
            type(self)(self.input_ids[middle:], self.attention_mask[middle:], self.labels[middle:]),
        )

    def detached(self) -> Self:
        """The same batch, its hidden states without a graph."""
        return replace(self, hidden=self.hidden.detach())


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
        source = self.source_states(params, hyper, batch.source)
        target = self.states(params, batch.target)
        return self._training_loss(params, hyper, source, target, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The loss L_V on target sentences; lambda does not occur."""
        return self.loss(params, batch)

    def loss(self, params: Tensors, batch: Batch) -> Tensor:
        """The loss on sentences without a transformation network."""
        return self._head_loss(params, self.states(params, batch), batch)

    def source_states(self, params: Tensors, hyper: Tensors, batch: Batch) -> list[Tensor]:
        """The head's inputs for source sentences: (N, L, H) for every transformed layer."""
        return [self.states(params, batch, hyper, layer) for layer in self.transformation.layers]

    def states(
        self,
        params: Tensors,
        batch: Batch,
        hyper: Tensors | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """The last hidden states after dropout, (N, L, H), transformed at ``layer`` if given."""
        encoder_params = _part(params, "encoder.")

        def encoded(hidden: Tensor | None, depth: int, stop: int | None) -> Tensor:
            inputs = batch.input_ids, batch.attention_mask, hidden, depth, stop
            return functional_call(self.tagger.encoder, encoder_params, inputs)

        hidden, depth = batch.hidden, batch.depth
        if layer is not None:
            below = encoded(hidden, depth, layer)
            hidden = functional_call(self.transformation, dict(hyper), (layer, below))
            depth = layer
        return self.tagger.dropout(encoded(hidden, depth, None))

    def _training_loss(
        self,
        head: Tensors,
        hyper: Tensors,
        source: Sequence[Tensor],
        target: Tensor,
        batch: InnerBatch,
    ) -> Tensor:
        """L_T of the states that :meth:`source_states` and :meth:`states` give."""
        losses = torch.stack([self._head_loss(head, states, batch.source) for states in source])
        mixed = torch.softmax(hyper["mixing"], 0) @ losses
        return mixed + self._head_loss(head, target, batch.target)

    def _head_loss(self, head: Tensors, states: Tensor, batch: Batch) -> Tensor:
        return token_loss(F.linear(states, head["head.weight"], head["head.bias"]), batch.labels)


class SharedEncoderProblem(MetaXLProblem):
    """The same losses; EvoGrad's candidates, which differ only in the head, share one encoder
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
        source = self.source_states(encoder, hyper, batch.source)
        target = self.states(encoder, batch.target)
        heads = [
            {"head.weight": weight, "head.bias": bias}
            for weight, bias in zip(candidates["head.weight"], candidates["head.bias"], strict=True)
        ]
        return torch.stack(
            [self._training_loss(head, hyper, source, target, batch) for head in heads]
        )


class RepeatedPassesProblem(MetaXLProblem):
    """The same losses, with the encoder's parameters among the hyperparameters.

    So every candidate's pass through the encoder, and the meta loss's, is kept as a graph and
    differentiated, as in the authors' code; the encoder's part of the result is not used.
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


def _part(params: Tensors, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in params.items() if n.startswith(prefix)}
