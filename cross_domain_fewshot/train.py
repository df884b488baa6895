"""One run of the cross-domain few-shot experiment: one method, one unseen domain, one seed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.reporting import RunRecord
from common.runs import execute
from common.training import Cost, GeneratorState, measure, new_generator, seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import (
    ClassifierBatches,
    Episode,
    EpisodeStream,
    data_checksums,
    open_domain,
)
from cross_domain_fewshot.evaluate import episode_accuracies, mean_and_ci95
from cross_domain_fewshot.feature_transform import deviation_curves, is_hyper
from cross_domain_fewshot.learner import Batch, Learner
from cross_domain_fewshot.pretrain import pretrained_backbone


class FewShotTask:
    """Episodes of a pseudo-seen domain for the model, of a pseudo-unseen one for lambda."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        base = self.open(config.base_domain, "base")
        data = data_checksums(config.benchmark, config.data_dir)
        backbone, checksums = pretrained_backbone(config, base, device, data)
        self.checksums = data | checksums
        seed_everything(config.seed)  # the pre-training drew random numbers, if it took place

        stream = partial(new_generator, config.seed)
        self.aux_batches = None
        if config.chosen("auxiliary") == "on":
            generator = stream("auxiliary batches")
            self.aux_batches = ClassifierBatches(base, config.aux_batch_size, generator, True)
        aux_classes = self.aux_batches.num_classes if self.aux_batches else 0
        self.learner = Learner(config, device, aux_classes)
        self.network = self.learner.network
        thetas = {n: p for n, p in self.network.backbone.named_parameters() if is_hyper(n)}
        self.network.backbone.load_state_dict(backbone | thetas)
        self.start = {n: p.detach().clone() for n, p in self.learner.hyper.items()}
        self.best = _Best(self.network)

        self.domains = stream("domains")
        splits = {name: base if name == config.base_domain else self.open(name, "base")
                  for name in config.seen}  # fmt: skip
        # Two streams per domain, so that the model meets the same episodes whatever the method.
        episodes = (config.n_way, config.n_shot, config.n_query)
        self.streams = {
            (role, name): EpisodeStream(split, *episodes, stream(f"{role} {name}"), True, cycled)
            for role, cycled in (("seen", config.min_class_size), ("unseen", 0))
            for name, split in splits.items()
        }
        self.val, self.test = (
            self.open(config.base_domain, "val"),
            self.open(config.unseen, "novel"),
        )
        self.steps_per_epoch = config.episodes
        self.state = {
            **self.learner.state,
            "best": self.best,
            "domains": GeneratorState(self.domains),
            **{" ".join(name): episodes for name, episodes in self.streams.items()},
        }
        if self.aux_batches is not None:
            self.state["aux_batches"] = self.aux_batches

    def open(self, name: str, split: str):
        config = self.config
        return open_domain(
            config.benchmark,
            name,
            split,
            config.image_size,
            config.data_dir,
            self.device,
            config.workers,
        )

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        for seen, unseen in self.schedule():
            episode = self.streams["seen", seen].next()
            aux_batch = self.aux_batches.next() if self.aux_batches else None
            other = self.streams["unseen", unseen].next() if self.learner.estimator else None
            yield self.step(episode, other, aux_batch, self.aux_weight(epoch))

    def schedule(self) -> Iterator[tuple[str, str | None]]:
        """The domains of an epoch's episodes, pseudo-seen and pseudo-unseen (None if mixed)."""
        names, episodes = self.config.seen, self.config.episodes

        def drawn(count: int) -> Tensor:
            return torch.randperm(count, generator=self.domains)

        if self.config.chosen("stream") == "pairs":
            seen, unseen = (names[index] for index in drawn(len(names))[:2].tolist())
            yield from [(seen, unseen)] * episodes
        else:
            rounds = [drawn(len(names)) for _ in range(-(-episodes // len(names)))]
            for index in torch.cat(rounds)[:episodes][drawn(episodes)].tolist():
                yield names[index], None

    def step(
        self, seen: Episode, unseen: Episode | None, aux_batch: Batch | None, aux_weight: float
    ) -> dict[str, Tensor]:
        """One iteration: base step and meta step in the chosen order."""
        meta_first = self.config.chosen("order") == "meta_first"
        metrics = {}
        if unseen is not None and meta_first:
            metrics |= self.learner.meta_step(seen, unseen)
        metrics |= self.learner.base_step(seen, aux_batch, aux_weight)
        if unseen is not None and not meta_first:
            metrics |= self.learner.meta_step(seen, unseen)
        return metrics

    def aux_weight(self, epoch: int) -> float:
        """Weight of the auxiliary loss, 0.9^(20 e // epochs) with e counted from 0: 20 falls."""
        return 0.9 ** (20 * (epoch - 1) // self.config.epochs)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Validation after every epoch; after the last one the test, with the last weights and
        with those of the best epoch by validation. In percent."""
        val, val_ci95 = self.accuracy(self.val, "validation", self.config.val_episodes)
        metrics = {"val_accuracy": val, "val_ci95": val_ci95}
        if self.config.transformed:
            moved = [p.detach() - self.start[n] for n, p in self.learner.hyper.items()]
            metrics["moved"] = nn.utils.get_total_norm(moved).item()
        self.best.keep(val, self.network)
        if epoch == self.config.epochs:
            accuracy = self.accuracy(self.test, "test", self.config.test_episodes)
            best = accuracy
            if self.best.value > val:
                last = {n: t.clone() for n, t in self.network.state_dict().items()}
                self.network.load_state_dict(self.best.network)
                best = self.accuracy(self.test, "test", self.config.test_episodes)
                self.network.load_state_dict(last)
            metrics |= dict(zip(("accuracy", "ci95"), accuracy, strict=True))
            metrics |= dict(zip(("best_accuracy", "best_ci95"), best, strict=True))
        return metrics

    def accuracy(self, split: Any, name: str, episodes: int) -> tuple[float, float]:
        """Mean and 95 % half-width; the episodes depend on seed and name only, so they are the
        same for every method and epoch."""
        config = self.config
        generator = new_generator(config.seed, name)
        queries, cycled = config.test_query, 0
        if name == "validation":
            queries, cycled = config.val_query, config.min_class_size
        shape = (config.n_way, config.n_shot, queries)
        stream = EpisodeStream(split, *shape, generator, False, cycled)
        return mean_and_ci95(episode_accuracies(self.network, stream, episodes))

    def curves(self) -> dict[str, list[float]]:
        """For the figure: the transformations' standard deviations by layer."""
        return deviation_curves(self.network)

    def measure_cost(self) -> Cost:
        return measure(self.one_step(), self.device, repeats=5, warm_up=1)

    def one_step(self) -> Callable[[], object]:
        """A whole iteration, as a function for measuring; always on the same batches."""
        first = self.config.seen[0]
        unseen = self.streams["unseen", first].next() if self.learner.estimator else None
        seen = self.streams["seen", first].next()
        aux_batch = self.aux_batches.next() if self.aux_batches else None
        return lambda: self.step(seen, unseen, aux_batch, 1.0)


class _Best:
    """The network of the best epoch by validation, the first of equals; part of a checkpoint."""

    def __init__(self, network: nn.Module) -> None:
        self.value = -1.0
        self.network = {n: t.clone() for n, t in network.state_dict().items()}

    def keep(self, value: float, network: nn.Module) -> None:
        """Takes the network over if ``value`` is higher than any before."""
        if value > self.value:
            self.value = value
            for name, tensor in network.state_dict().items():
                self.network[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "network": self.network}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
        for name, tensor in state["network"].items():
            self.network[name].copy_(tensor)


def run(config: Config) -> RunRecord:
    """Trains and evaluates, or continues, or returns the record of a finished run."""
    return execute(config, FewShotTask, config.epochs, best_metric="val_accuracy")
