"""The warm start: the backbone as part of an ordinary classifier of the base domain."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.files import locked
from common.run import fit, load_checkpoint
from common.settings import ROOT
from common.training import Part, new_generator, seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import DomainSplit
from cross_domain_fewshot.episodes import ClassifierBatches
from cross_domain_fewshot.models import ResNet


class PretrainTask:
    """Adam on the cross-entropy of backbone, mean over pixels and one fully connected layer."""

    def __init__(self, config: Config, split: DomainSplit, device: torch.device) -> None:
        generator = new_generator(config.seed, "pre-training")
        self.batches = ClassifierBatches(split, config.pretrain_batch_size, generator, augment=True)
        backbone = ResNet(config.backbone, config.width, config.stem, transformed=False)
        self.backbone = backbone.to(device)
        self.classifier = nn.Linear(backbone.channels, len(split.class_names)).to(device)
        self.optimizer = torch.optim.Adam(
            [*self.backbone.parameters(), *self.classifier.parameters()],
            config.pretrain_learning_rate,
        )
        self.right, self.seen = torch.zeros((), device=device), 0
        self.steps_per_epoch = len(self.batches)
        self.state: Mapping[str, Part] = {
            "backbone": self.backbone,
            "classifier": self.classifier,
            "optimizer": self.optimizer,
            "batches": self.batches.order,
        }

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        self.backbone.train()
        self.right.zero_()
        self.seen = 0
        for _ in range(self.steps_per_epoch):
            images, labels = self.batches.next()
            scores = self.classifier(self.backbone(images).mean((2, 3)))
            loss = F.cross_entropy(scores, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.right += (scores.argmax(1) == labels).sum()
            self.seen += len(labels)
            yield {"loss": loss.detach()}

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Accuracy in percent on the epoch's augmented training images, during the training."""
        return {"train_accuracy": 100 * self.right.item() / self.seen}


def pretrained_backbone(
    config: Config, split: DomainSplit, device: torch.device
) -> tuple[dict[str, Tensor], str]:
    """The state of the pre-trained backbone, and the SHA-256 of its names and values.

    split: the base domain's. The first run that needs the backbone trains it, with its seed; others
    with the same settings and data wait and use the result. An interrupted training is continued.
    The state of the global random generators is undefined afterwards.
    """
    settings = config.pretraining() | {"data": split.checksum, "device": device.type}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    name = f"{config.benchmark}-{config.backbone}-seed{config.seed}-{digest}"
    root = config.pretrained_dir or ROOT / "runs" / config.experiment / "pretrained"
    folder = root / name
    with locked(folder):
        saved = load_checkpoint(folder / "checkpoint.pt", settings)
        if saved is None or len(saved["epochs"]) < config.pretrain_epochs:
            seed_everything(config.seed)
            title = f"{config.experiment} pre-training {name}"
            task, epochs = PretrainTask(config, split, device), config.pretrain_epochs
            fit(task, epochs, folder, settings, config.log_every, title)
            saved = load_checkpoint(folder / "checkpoint.pt", settings)
    state: dict[str, Tensor] = saved["task"]["backbone"]
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return state, total.hexdigest()
