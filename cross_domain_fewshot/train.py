"""One run, to be read from top to bottom: problem, base step, meta step, epochs, evaluation."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from common.run import Task
from common.training import Best, Cost, MetaStep, Part, measure, new_generator, seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import DomainSplit, open_domain
from cross_domain_fewshot.episodes import ClassifierBatches, Episode, EpisodeStream, LabelledImages
from cross_domain_fewshot.models import (
    RelationNet,
    ResNet,
    auxiliary_classifier,
    deviation_curves,
    split_parameters,
)
from cross_domain_fewshot.pretrain import pretrained_backbone

Batches = tuple[Episode, Episode | None, LabelledImages | None]
"""Of an iteration: pseudo-seen and pseudo-unseen episode, auxiliary batch."""


def query_labels(episode: Episode) -> Tensor:
    """The labels of the queries in the order of the scores, (n_way * n_query,)."""
    n_way, n_query = episode.query.shape[:2]
    return torch.arange(n_way, device=episode.query.device).repeat_interleave(n_query)


def episode_loss(network: RelationNet, episode: Episode) -> Tensor:
    """Mean cross-entropy of the queries' scores over the n_way classes, a scalar."""
    return F.cross_entropy(network(episode.support, episode.query), query_labels(episode))


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
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

    def __init__(self, network: RelationNet) -> None:
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


class Learner:
    """What is trained.

    aux_classes: classes of the auxiliary classifier; 0 leaves it out. Methods that learn no
    transformations by hypergradients have no meta step; trained transformations of ft are in the
    model's optimiser.
    """

    def __init__(self, config: Config, device: torch.device, aux_classes: int = 0) -> None:
        backbone = ResNet(config.backbone, config.width, config.stem, config.transformed)
        self.network = RelationNet(backbone, config.image_size).to(device)
        self.params, self.hyper = split_parameters(self.network)
        self.start = {name: theta.detach().clone() for name, theta in self.hyper.items()}
        self.meta_first = config.meta_first
        trained: list[Tensor] = list(self.params.values())
        if config.trains_ft:
            trained += [theta.requires_grad_() for theta in self.hyper.values()]
        self.state: dict[str, Part] = {"network": self.network}
        self.auxiliary: Any = None
        self.meta: Any = None
        if aux_classes:
            self.auxiliary = auxiliary_classifier(backbone.channels, aux_classes).to(device)
            trained += self.auxiliary.parameters()
            self.state["auxiliary"] = self.auxiliary
        self.optimizer = self.state["optimizer"] = torch.optim.Adam(trained, config.learning_rate)
        estimator = config.make_estimator(config.learning_rate, common_noise=False)
        if estimator is not None:
            optimizer = torch.optim.Adam(
                self.hyper.values(),
                config.meta_learning_rate,
                eps=config.meta_eps,
                weight_decay=config.meta_weight_decay,
            )
            generator = new_generator(config.seed, "perturbations")
            problem = FeatureTransformProblem(self.network)
            self.meta = MetaStep(estimator, problem, self.hyper, optimizer, generator, config.every)
            self.state["meta"] = self.meta.state

    def step(
        self, seen: Episode, unseen: Episode | None, aux: LabelledImages | None, aux_weight: float
    ) -> dict[str, Tensor]:
        """One iteration: base step and meta step in the run's order; their metrics.

        unseen: for the meta step; of methods without one, trained on as well.
        """
        if self.meta is None:
            return self.base_step(seen, aux, aux_weight, unseen)
        due = self.meta.due()
        metrics = self.meta(self.params, seen, unseen) if due and self.meta_first else {}
        metrics |= self.base_step(seen, aux, aux_weight)
        if due and not self.meta_first:
            metrics |= self.meta(self.params, seen, unseen)
        return metrics

    def base_step(
        self,
        seen: Episode,
        aux: LabelledImages | None,
        aux_weight: float,
        unseen: Episode | None = None,
    ) -> dict[str, Tensor]:
        """Adam on the episode loss (mean of two, if there is an ``unseen`` episode) with
        transformations active plus aux_weight times the auxiliary loss; returns the losses by name.

        Each loss is differentiated separately and the gradients add up, so that only one graph is
        in memory at a time. The auxiliary loss comes first, in evaluation mode, so that this
        episode does not affect its running statistics.
        """
        losses = {}
        if aux is not None:
            self.network.eval()
            scores = self.auxiliary(self.network.backbone(aux.images).mean((2, 3)))
            loss = F.cross_entropy(scores, aux.labels)
            (aux_weight * loss).backward()
            losses["aux_loss"] = loss.detach()
        self.network.train()
        episodes = [seen] if unseen is None else [seen, unseen]
        train_losses = []
        for episode in episodes:
            loss = episode_loss(self.network, episode)
            loss.backward(torch.full_like(loss, 1 / len(episodes)))
            train_losses.append(loss.detach())
        self.optimizer.step()
        # Freed now: gradients must not take memory during the meta step.
        self.optimizer.zero_grad()
        return {"train_loss": torch.stack(train_losses).mean(), **losses}


class FewShotTask(Task):
    """Epochs of episodes of the seen domains, validated on the base domain, tested on the unseen
    one."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        checksums: dict[str, str] = {}

        def opened(name: str, split: str) -> DomainSplit:
            where = config.benchmark, name, split, config.image_size, config.data_dir
            found = open_domain(*where, device, config.workers)
            checksums[name if config.benchmark == "embedded" else f"{name} {split}"] = (
                found.checksum
            )
            return found

        # All before any training: a broken image is found at once.
        splits = {name: opened(name, "base") for name in config.seen}
        self.val = opened(config.base_domain, "val")
        self.test = opened(config.unseen, "novel")
        base = splits[config.base_domain]
        backbone, checksums["pretrained_backbone"] = pretrained_backbone(config, base, device)
        self.checksums = checksums
        seed_everything(config.seed)  # pre-training has drawn random numbers, or has been skipped

        self.learner = Learner(config, device, len(base.class_names) * config.auxiliary)
        self.network = self.learner.network
        self.network.backbone.load_state_dict(backbone, strict=False)  # has no transformations

        stream = partial(new_generator, config.seed)
        self.domains, self.best = stream("domains"), Best()
        # Two streams per domain, so that the model meets the same episodes whatever the method.
        episodes = (config.n_way, config.n_shot, config.n_query)
        self.streams: dict[Any, EpisodeStream] = {
            (role, name): EpisodeStream(split, *episodes, stream(f"{role} {name}"), True, cycled)
            for role, cycled in (("seen", config.min_class_size), ("unseen", 0))
            for name, split in splits.items()
        }
        self.steps_per_epoch = config.episodes
        self.state: dict[str, Part] = {
            **self.learner.state,
            "best": self.best,
            "domains": self.domains,
            **{" ".join(name): episodes.generator for name, episodes in self.streams.items()},
        }
        self.aux_batches = None
        if config.auxiliary:
            generator = stream("auxiliary batches")
            self.aux_batches = ClassifierBatches(base, config.aux_batch_size, generator, True)
            self.state["aux_batches"] = self.aux_batches.order

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        # The auxiliary loss's weight falls 20 times, whatever the number of epochs.
        weight = 0.9 ** (20 * (epoch - 1) // self.config.epochs)
        for seen, unseen in self.schedule():
            yield self.learner.step(*self.batches(seen, unseen), weight)

    def batches(self, seen: str, unseen: str | None) -> Batches:
        """The next ones, from two domains."""
        return (
            self.streams["seen", seen].next(),
            self.streams["unseen", unseen].next() if self.config.trains_on_unseen else None,
            self.aux_batches.next() if self.aux_batches else None,
        )

    def schedule(self) -> Iterator[tuple[str, str | None]]:
        """The domains of an epoch's episodes, pseudo-seen and pseudo-unseen (None if mixed)."""
        names, episodes = self.config.seen, self.config.episodes

        def drawn(count: int) -> Tensor:
            return torch.randperm(count, generator=self.domains)

        if self.config.paired:
            seen, unseen = (names[index] for index in drawn(len(names))[:2].tolist())
            yield from [(seen, unseen)] * episodes
        else:
            rounds = [drawn(len(names)) for _ in range(-(-episodes // len(names)))]
            for index in torch.cat(rounds)[:episodes][drawn(episodes)].tolist():
                yield names[index], None

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Validation after every epoch; after the last one the test, with the last weights and with
        those of the best epoch by validation. In percent."""
        c = self.config
        # Both depend on seed and name alone, so they are the same for every method and epoch.
        validation = (self.val, c.val_episodes, c.val_query, "validation", c.min_class_size)
        test = (self.test, c.test_episodes, c.test_query, "test")
        val, val_ci95 = self.accuracy(*validation)
        metrics = {"val_accuracy": val, "val_ci95": val_ci95}
        if c.transformed:
            hyper, start = self.learner.hyper, self.learner.start
            ways = [theta.detach() - start[name] for name, theta in hyper.items()]
            metrics["moved"] = nn.utils.get_total_norm(ways).item()
        best_weights = self.best.offer(val, self.network.state_dict())
        if epoch == c.epochs:
            last = best = self.accuracy(*test)
            if self.best.value > val:
                weights = copy.deepcopy(self.network.state_dict())
                self.network.load_state_dict(best_weights)
                best = self.accuracy(*test)
                self.network.load_state_dict(weights)
            names = ("accuracy", "ci95", "best_accuracy", "best_ci95")
            metrics |= dict(zip(names, last + best, strict=True))
        return metrics

    def accuracy(
        self, split: DomainSplit, episodes: int, queries: int, name: str, cycled: int = 0
    ) -> tuple[float, float]:
        """Mean over ``episodes`` episodes from the stream ``name``, and its 95 % half-width."""
        c, generator = self.config, new_generator(self.config.seed, name)
        stream = EpisodeStream(split, c.n_way, c.n_shot, queries, generator, False, cycled)
        return mean_and_ci95(episode_accuracies(self.network, stream, episodes))

    def curves(self) -> dict[str, list[float]]:
        """For the figure: the transformations' standard deviations by layer."""
        return deviation_curves(self.network)

    def measure_cost(self) -> Cost:
        """Of a whole iteration, always on the same batches."""
        first = self.config.seen[0]
        step = partial(self.learner.step, *self.batches(first, first), 1.0)
        return measure(step, self.device, repeats=5, warm_up=1)


@torch.no_grad()
def episode_accuracies(
    network: RelationNet, stream: EpisodeStream, episodes: int, images_at_once: int = 1000
) -> Tensor:
    """Percent of the queries classified right in each of ``episodes`` episodes, (episodes,).

    In evaluation mode: running statistics, no transformation. Images of several episodes pass
    the backbone together, where they do not affect each other; the head, whose batch norm uses the
    statistics of an episode, takes one episode at a time.
    """
    accuracies: list[Tensor] = []
    count = max(1, images_at_once // (stream.n_way * (stream.n_shot + stream.n_query)))
    with in_mode(network, training=False):
        while len(accuracies) < episodes:
            group = [stream.next() for _ in range(min(count, episodes - len(accuracies)))]
            images = [t.flatten(0, 1) for e in group for t in (e.support, e.query)]
            features = network.backbone(torch.cat(images)).split([len(i) for i in images])
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
