"""Accuracy over many episodes, with its confidence interval."""

import torch
from torch import Tensor

from cross_domain_fewshot.episodes import EpisodeStream
from cross_domain_fewshot.models import FewShotNetwork
from cross_domain_fewshot.problem import in_mode, query_labels


@torch.no_grad()
def episode_accuracies(
    network: FewShotNetwork, stream: EpisodeStream, episodes: int, images_at_once: int = 1000
) -> Tensor:
    """Percent of the queries classified right in each of ``episodes`` episodes, (episodes,).

    In evaluation mode: running statistics, no transformation. Images of several episodes pass
    the backbone together, where they do not affect each other; the head, whose batch norm uses the
    statistics of an episode, takes one episode at a time.
    """
    accuracies: list[Tensor] = []
    with in_mode(network, training=False):
        while len(accuracies) < episodes:
            count = max(1, images_at_once // (stream.n_way * (stream.n_shot + stream.n_query)))
            group = [stream.next() for _ in range(min(count, episodes - len(accuracies)))]
            images = [t.flatten(0, 1) for e in group for t in (e.support, e.query)]
            features = network.embed(torch.cat(images)).split([len(i) for i in images])
            for episode, support, query in zip(group, features[::2], features[1::2], strict=True):
                scores = network.head(support.unflatten(0, episode.support.shape[:2]), query)
                right = scores.argmax(1) == query_labels(episode)
                accuracies.append(100 * right.float().mean())
    return torch.stack(accuracies).cpu()


def mean_and_ci95(accuracies: Tensor) -> tuple[float, float]:
    """Mean, and half-width of its 95 % confidence interval: 1.96 sd / sqrt(n), sd with divisor n
    as in the authors' code."""
    values = accuracies.double()
    return values.mean().item(), (1.96 * values.std(correction=0) / len(values) ** 0.5).item()
