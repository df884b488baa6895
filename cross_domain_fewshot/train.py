"""One run of the cross-domain few-shot experiment: one method, one unseen domain, one seed."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from common.reporting import RunRecord
from common.runs import execute
from common.training import Best, Cost, Part, measure, new_generator, seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import data_checksums, open_domain
from cross_domain_fewshot.episodes import ClassifierBatches, EpisodeStream
from cross_domain_fewshot.evaluate import episode_accuracies, mean_and_ci95
from cross_domain_fewshot.feature_transform import deviation_curves, is_hyper
from cross_domain_fewshot.images import DomainSplit
from cross_domain_fewshot.pretrain import pretrained_backbone
from cross_domain_fewshot.steps import Learner


class FewShotTask:
    """Epochs of episodes of the seen domains, validated on the base domain, tested on the unseen
    one."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        base = self.open(config.base_domain, "base")
        data = data_checksums(config.benchmark, config.data_dir)
        backbone, checksums = pretrained_backbone(config, base, device, data)
        self.checksums: Mapping[str, str] = data | checksums
        seed_everything(config.seed)  # pre-training has drawn random numbers, or has been skipped

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
        self.val = self.open(config.base_domain, "val")
        self.test = self.open(config.unseen, "novel")
        self.best = Best()
        self.steps_per_epoch = config.episodes
        self.state: Mapping[str, Part] = {
            **self.learner.state,
            "best": self.best,
            "domains": self.domains,
            **{" ".join(name): episodes for name, episodes in self.streams.items()},
            **({"aux_batches": self.aux_batches} if self.aux_batches else {}),
        }

    def open(self, name: str, split: str) -> DomainSplit:
        c = self.config
        return open_domain(
            c.benchmark, name, split, c.image_size, c.data_dir, self.device, c.workers
        )

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        # The auxiliary loss's weight falls 20 times, whatever the number of epochs.
        weight = 0.9 ** (20 * (epoch - 1) // self.config.epochs)
        for seen, unseen in self.schedule():
            episode = self.streams["seen", seen].next()
            aux_batch = self.aux_batches.next() if self.aux_batches else None
            other = self.streams["unseen", unseen].next() if self.learner.meta else None
            yield self.learner.step(episode, other, aux_batch, weight)

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

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Validation after every epoch; after the last one the test, with the last weights and with
        those of the best epoch by validation. In percent."""
        val, val_ci95 = self.accuracy(self.val, "validation")
        metrics = {"val_accuracy": val, "val_ci95": val_ci95}
        if self.config.transformed:
            metrics["moved"] = self.learner.moved
        best_weights = self.best.offer(val, self.network.state_dict())
        if epoch == self.config.epochs:
            accuracy = best = self.accuracy(self.test, "test")
            if self.best.value > val:
                last = {n: t.clone() for n, t in self.network.state_dict().items()}
                self.network.load_state_dict(best_weights)
                best = self.accuracy(self.test, "test")
                self.network.load_state_dict(last)
            metrics |= dict(zip(("accuracy", "ci95"), accuracy, strict=True))
            metrics |= dict(zip(("best_accuracy", "best_ci95"), best, strict=True))
        return metrics

    def accuracy(self, split: DomainSplit, name: str) -> tuple[float, float]:
        """Mean and 95 % half-width in the "validation" or the "test". The episodes depend only on
        seed and name, so they are the same for every method and epoch."""
        c = self.config
        episodes, queries, cycled = c.test_episodes, c.test_query, 0
        if name == "validation":
            episodes, queries, cycled = c.val_episodes, c.val_query, c.min_class_size
        generator = new_generator(c.seed, name)
        stream = EpisodeStream(split, c.n_way, c.n_shot, queries, generator, False, cycled)
        return mean_and_ci95(episode_accuracies(self.network, stream, episodes))

    def curves(self) -> dict[str, list[float]]:
        """For the figure: the transformations' standard deviations by layer."""
        return deviation_curves(self.network)

    def measure_cost(self) -> Cost:
        """Of a whole iteration, always on the same batches."""
        first = self.config.seen[0]
        unseen = self.streams["unseen", first].next() if self.learner.meta else None
        seen = self.streams["seen", first].next()
        aux_batch = self.aux_batches.next() if self.aux_batches else None
        return measure(
            lambda: self.learner.step(seen, unseen, aux_batch, 1.0),
            self.device,
            repeats=5,
            warm_up=1,
        )


def run(config: Config) -> RunRecord:
    """Trains and evaluates, or continues, or returns the record of a finished run."""
    return execute(config, FewShotTask, config.epochs, "val_accuracy")
