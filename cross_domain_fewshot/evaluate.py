"""Accuracy over many episodes, with its confidence interval."""

import torch
from torch import Tensor

from cross_domain_fewshot.data import EpisodeStream
from cross_domain_fewshot.models import FewShotNetwork
from cross_domain_fewshot.problem import in_mode, query_labels


@torch.no_grad()
def episode_accuracies(
    network: FewShotNetwork, stream: EpisodeStream, episodes: int, images_at_once: int = 1000
) -> Tensor:
    """Percent of the queries classified right in each of ``episodes`` episodes, (episodes,).

    In evaluation mode: running statistics, no transformation. Images of several episodes pass
    the backbone together, which changes nothing, as no image sees another there; the head, whose
    batch norm knows the episode only, takes them one by one.
    """
    accuracies = []
    with in_mode(network, training=False):
        while len(accuracies) < episodes:
            group = [stream.next()]
            per_episode = group[0].support[:, :, 0, 0, 0].numel()
            per_episode += group[0].query[:, :, 0, 0, 0].numel()
            wanted = min(max(1, images_at_once // per_episode), episodes - len(accuracies))
            group += [stream.next() for _ in range(wanted - 1)]
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
