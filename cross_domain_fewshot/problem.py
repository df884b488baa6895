"""The bilevel problem: few-shot learning on one domain that shall generalise to another."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from cross_domain_fewshot.episodes import Episode
from cross_domain_fewshot.models import FewShotNetwork


def query_labels(episode: Episode) -> Tensor:
    """The labels of the queries in the order of the scores, (n_way * n_query,)."""
    n_way, n_query = episode.query.shape[:2]
    return torch.arange(n_way, device=episode.query.device).repeat_interleave(n_query)


def episode_loss(network: FewShotNetwork, episode: Episode) -> Tensor:
    """Mean cross-entropy of the queries' scores over the n_way classes, a scalar."""
    return F.cross_entropy(network(episode.support, episode.query), query_labels(episode))


@contextmanager
def in_mode(network: FewShotNetwork, training: bool) -> Iterator[None]:
    """The network in training or evaluation mode; the previous mode is restored afterwards."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)


class FeatureTransformProblem:
    """theta: backbone and head; lambda: theta_gamma and theta_beta of the transformations.

        L_T = episode loss on the pseudo-seen domain, training mode: batch statistics,
              transformations active
        L_V = episode loss on the pseudo-unseen domain, evaluation mode: running statistics,
              no transformation, so lambda does not occur in it

    The noise of the transformations comes from torch's global generators, which estimators seed,
    so it is the same in every evaluation of L_T within one hypergradient. Running statistics of the
    backbone's batch norms are written to clones of the buffers and dropped. RelationNet's head has
    none and uses the episode's in both losses.

    The auxiliary loss is not part of L_T: it does not contain the transformations, so its mixed
    derivative by theta and lambda is zero.
    """

    def __init__(self, network: FewShotNetwork) -> None:
        self.network = network

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Episode) -> Tensor:
        """L_T, a scalar."""
        return self._loss(params, hyper, batch, training=True)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Episode) -> Tensor:
        """L_V, a scalar."""
        return self._loss(params, hyper, batch, training=False)

    def _loss(self, params: Tensors, hyper: Tensors, episode: Episode, training: bool) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with in_mode(self.network, training):
            tensors = {**params, **hyper}, buffers
            scores = functional_call(self.network, tensors, (episode.support, episode.query))
        return F.cross_entropy(scores, query_labels(episode))
