"""The training steps: the networks' base step and the transformations' meta step."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.training import MetaStep, Part, new_generator
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.episodes import Episode, LabelledImages
from cross_domain_fewshot.feature_transform import split_parameters
from cross_domain_fewshot.models import AuxiliaryClassifier, FewShotNetwork, build_backbone
from cross_domain_fewshot.problem import FeatureTransformProblem, episode_loss


class Learner:
    """What is trained.

    aux_classes: classes of the auxiliary classifier; 0 leaves it out. Methods none and ft have no
    meta step; trained transformations of ft are in the model's optimiser.
    """

    def __init__(self, config: Config, device: torch.device, aux_classes: int = 0) -> None:
        backbone = build_backbone(
            config.backbone, config.head, config.width, config.stem, config.transformed
        )
        try:
            network = FewShotNetwork(backbone, config.head, config.image_size)
        except ValueError as error:
            raise UserError(f"--image-size: {error}") from None
        self.network = network.to(device)
        self.params, self.hyper = split_parameters(self.network)
        self.start = {name: theta.detach().clone() for name, theta in self.hyper.items()}
        self.meta_first = config.chosen("order") == "meta_first"
        trained: list[Tensor] = list(self.params.values())
        if config.method == "ft" and config.ft == "trained":
            trained += [theta.requires_grad_() for theta in self.hyper.values()]
        self.auxiliary = None
        if aux_classes:
            self.auxiliary = AuxiliaryClassifier(self.network.channels, aux_classes).to(device)
            trained += self.auxiliary.parameters()
        self.optimizer = torch.optim.Adam(trained, config.learning_rate)
        self.state: dict[str, Part] = {"network": self.network, "optimizer": self.optimizer}
        if self.auxiliary is not None:
            self.state["auxiliary"] = self.auxiliary
        self.meta = None
        if (estimator := config.method_estimator(config.learning_rate)) is not None:
            optimizer = torch.optim.Adam(
                self.hyper.values(),
                config.meta_learning_rate,
                eps=config.meta_eps,
                weight_decay=config.meta_weight_decay,
            )
            generator = new_generator(config.seed, "perturbations")
            problem = FeatureTransformProblem(self.network)
            self.meta = MetaStep(estimator, problem, self.hyper, optimizer, generator)
            self.state["meta"] = self.meta.state

    def step(
        self,
        seen: Episode,
        unseen: Episode | None,
        aux_batch: LabelledImages | None,
        aux_weight: float,
    ) -> dict[str, Tensor]:
        """One iteration: base step and meta step in the run's order; their metrics."""
        if self.meta is None:
            return self.base_step(seen, aux_batch, aux_weight)
        if self.meta_first:
            metrics = self.meta(self.params, seen, unseen)
            return metrics | self.base_step(seen, aux_batch, aux_weight)
        metrics = self.base_step(seen, aux_batch, aux_weight)
        return metrics | self.meta(self.params, seen, unseen)

    def base_step(
        self, seen: Episode, aux_batch: LabelledImages | None, aux_weight: float
    ) -> dict[str, Tensor]:
        """Adam on the episode loss with transformations active plus aux_weight times the auxiliary
        loss; returns the losses by name.

        Each loss is differentiated separately and the gradients add up, so that only one graph is
        in memory at a time. The auxiliary loss comes first, in evaluation mode, so that this
        episode does not affect its running statistics.
        """
        losses = {}
        if self.auxiliary is not None and aux_batch is not None:
            self.network.eval()
            scores = self.auxiliary(self.network.pooled(aux_batch.images))
            loss = F.cross_entropy(scores, aux_batch.labels)
            (aux_weight * loss).backward()
            losses["aux_loss"] = loss.detach()
        self.network.train()
        loss = episode_loss(self.network, seen)
        loss.backward()
        self.optimizer.step()
        # Freed now: gradients must not take memory during the meta step.
        self.optimizer.zero_grad()
        return {"train_loss": loss.detach(), **losses}

    @property
    def moved(self) -> float:
        """Euclidean distance of the transformations from their start."""
        ways = [theta.detach() - self.start[name] for name, theta in self.hyper.items()]
        return nn.utils.get_total_norm(ways).item()
