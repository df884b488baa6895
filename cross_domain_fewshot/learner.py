"""The networks with their optimisers, and the two updates: the base step and the meta step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.training import GeneratorState, new_generator
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import Episode
from cross_domain_fewshot.feature_transform import split_parameters
from cross_domain_fewshot.models import AuxiliaryClassifier, FewShotNetwork, build_backbone
from cross_domain_fewshot.problem import FeatureTransformProblem, episode_loss

Batch = tuple[Tensor, Tensor]
"""Images (N, 3, S, S) of the base domain and their labels (N,)."""


class Learner:
    """The networks, their optimisers and the two updates, apart from where episodes come from.

    aux_classes: classes of the auxiliary classifier; 0 leaves it out.
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
        trained: list[nn.Parameter] = list(self.params.values())
        if config.method == "ft" and config.ft == "trained":
            trained += [theta.requires_grad_() for theta in self.hyper.values()]
        self.auxiliary = None
        if aux_classes:
            self.auxiliary = AuxiliaryClassifier(self.network.channels, aux_classes).to(device)
            trained += self.auxiliary.parameters()
        self.optimizer = torch.optim.Adam(trained, config.learning_rate)
        self.problem = FeatureTransformProblem(self.network)
        self.noise = new_generator(config.seed, "perturbations")
        self.state: dict[str, Any] = {"network": self.network, "optimizer": self.optimizer}
        if self.auxiliary is not None:
            self.state["auxiliary"] = self.auxiliary
        self.estimator = config.hypergradient_estimator()
        if self.estimator is not None:
            self.meta_optimizer = torch.optim.Adam(
                self.hyper.values(),
                config.meta_learning_rate,
                eps=config.meta_eps,
                weight_decay=config.meta_weight_decay,
            )
            self.state["meta_optimizer"] = self.meta_optimizer
            self.state["perturbations"] = GeneratorState(self.noise)

    def base_step(
        self, seen: Episode, aux_batch: Batch | None, aux_weight: float
    ) -> dict[str, Tensor]:
        """Adam on the episode loss with transformations active plus aux_weight times the auxiliary
        loss; returns the losses by name.

        Each loss is differentiated on its own and the gradients add up, so that only one graph is
        in memory at a time. The auxiliary loss comes first, in evaluation mode, so that it does not
        see the running statistics of this episode.
        """
        losses = {}
        if self.auxiliary is not None and aux_batch is not None:
            images, labels = aux_batch
            self.network.eval()
            loss = F.cross_entropy(self.auxiliary(self.network.pooled(images)), labels)
            (aux_weight * loss).backward()
            losses["aux_loss"] = loss.detach()
        self.network.train()
        loss = episode_loss(self.network, seen)
        loss.backward()
        self.optimizer.step()
        # Freed now: gradients must not take up memory during the meta step.
        self.optimizer.zero_grad()
        return {"train_loss": loss.detach(), **losses}

    def meta_step(self, seen: Episode, unseen: Episode) -> dict[str, Tensor]:
        """Adam on the transformations, by the estimated hypergradient."""
        result = self.estimator(
            self.problem, self.params, self.hyper, seen, unseen, generator=self.noise
        )
        for name, parameter in self.hyper.items():
            parameter.grad = result.grads[name]
        self.meta_optimizer.step()
        norm = nn.utils.get_total_norm(list(result.grads.values()))
        self.meta_optimizer.zero_grad()
        return {"meta_loss": result.outer_loss, "hypergradient_norm": norm}
