"""The warm start: the backbone as part of an ordinary classifier of the base domain."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.files import locked
from common.run import fit
from common.settings import ROOT
from common.training import Part, new_generator, seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import DomainSplit
from cross_domain_fewshot.episodes import ClassifierBatches
from cross_domain_fewshot.models import ResNet

DECISIVE = ("benchmark", "backbone", "width", "stem", "image_size", "pretrain_epochs",
            "pretrain_batch_size", "pretrain_learning_rate", "seed")  # fmt: skip
"""The settings of a backbone; runs that agree in them share one."""


class PretrainTask:
    """Adam on the cross-entropy of backbone, mean over pixels and one fully connected layer."""

    def __init__(self, config: Config, split: DomainSplit, device: torch.device) -> None:
        generator = new_generator(config.seed, "pre-training")
        self.batches = ClassifierBatches(split, config.pretrain_batch_size, generator, augment=True)
        backbone = ResNet(config.backbone, config.width, config.stem, transformed=False)
        self.backbone = backbone.to(device)
        self.classifier = nn.Linear(backbone.channels, len(split.class_names)).to(device)
        trained = [*self.backbone.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.Adam(trained, config.pretrain_learning_rate)
        self.steps_per_epoch = len(self.batches.order)
        self.state: Mapping[str, Part] = {
            "backbone": self.backbone,
            "classifier": self.classifier,
            "optimizer": self.optimizer,
            "batches": self.batches.order,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Loss, and accuracy in percent, on augmented training images."""
        self.backbone.train()
        for _ in range(self.steps_per_epoch):
            images, labels = self.batches.next()
            scores = self.classifier(self.backbone(images).mean((2, 3)))
            loss = F.cross_entropy(scores, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            accuracy = 100 * (scores.argmax(1) == labels).float().mean()
            yield {"loss": loss.detach(), "train_accuracy": accuracy}

    def evaluate(self, epoch: int) -> dict[str, float]:
        return {}


def pretrained_backbone(
    config: Config, split: DomainSplit, device: torch.device
) -> tuple[dict[str, Tensor], str]:
    """The state of the pre-trained backbone, and the SHA-256 of its names and values.

    split: the base domain's. The first run that needs the backbone trains it, with its seed; others
    with the same settings and data wait and use the result. An interrupted training is continued.
    The state of the global random generators is undefined afterwards.
    """
    settings = {name: getattr(config, name) for name in DECISIVE}
    settings |= {"data": split.checksum, "device": device.type}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    name = f"{config.benchmark}-{config.backbone}-seed{config.seed}-{digest}"
    root = config.pretrained_dir or ROOT / "runs" / config.experiment / "pretrained"
    with locked(root / name):
        seed_everything(config.seed)
        task, epochs = PretrainTask(config, split, device), config.pretrain_epochs
        title = f"{config.experiment} pre-training {name}"
        fit(task, epochs, root / name, settings, config.log_every, title)
    state, total = task.backbone.state_dict(), hashlib.sha256()
    for name, tensor in state.items():
        total.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return state, total.hexdigest()
