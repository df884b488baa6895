"""The experiment's bilevel problem at the paper's shapes on random images, for the cost study."""

from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.cost_study.case import (
    RELEASED,
    CostCase,
    CostProblem,
    PublishedCost,
    Size,
    Step,
    released_evograd,
    released_t1t2,
)
from common.cost_study.records import EVOGRAD, T1T2
from common.hypergrad import Tensors
from common.reporting import published
from common.training import seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.episodes import Episode, LabelledImages
from cross_domain_fewshot.models import TransformedBatchNorm2d, channel_noise, deviation
from cross_domain_fewshot.train import FeatureTransformProblem, Learner, episode_loss

AUX_CLASSES = 64
"""Base classes of miniImageNet."""
FIGURE = "Few-shot: cost by backbone and shots"


def configurations(size: Size) -> list[Config]:
    """paper: ResNet-10, -18 and -34, 1 and 5 shots, 224 px, 16 queries per class; small:
    ResNet-10, 1 shot, 2 queries per class and an auxiliary batch of 4."""
    if size == "small":
        return [Config(n_query=2, aux_batch_size=4)]
    return [
        Config(backbone=backbone, n_shot=n_shot)
        for backbone in ("resnet10", "resnet18", "resnet34")
        for n_shot in (1, 5)
    ]


def cases(size: Size) -> list[CostCase]:
    """The points of the figure, each built when it is asked for."""
    return [
        CostCase(FIGURE, case_name(c), partial(build, c), all_methods=size == "paper", own=RELEASED)
        for c in configurations(size)
    ]


def case_name(config: Config) -> str:
    """The place of a configuration in the figure."""
    shots = f"{config.n_shot} shot{'s' if config.n_shot > 1 else ''}"
    return f"{config.backbone.replace('resnet', 'ResNet-')}, {shots}"


def build(config: Config, device: torch.device) -> CostProblem:
    """Random images. plain_step is that of method none, base_step that of ft (fixed), both with
    the auxiliary loss."""

    def learner_of(**changes: Any) -> Learner:
        seed_everything(1)
        return Learner(replace(config, **changes), device, AUX_CLASSES)

    def images(*count: int) -> Tensor:
        return torch.randn(*count, 3, config.image_size, config.image_size, device=device)

    def episode() -> Episode:
        return Episode(*(images(config.n_way, n) for n in (config.n_shot, config.n_query)))

    plain, learner = learner_of(method="none"), learner_of(method="ft", protocol="fixed")
    seen, unseen, count = episode(), episode(), config.aux_batch_size
    labels = torch.arange(count, device=device) % AUX_CLASSES
    aux_batch = LabelledImages(images(count), labels)
    case = CostProblem(
        problem=FeatureTransformProblem(learner.network),
        params=learner.params,
        hyper=learner.hyper,
        inner_batch=seen,
        outer_batch=unseen,
        plain_step=lambda: plain.base_step(seen, aux_batch, 1.0),
        base_step=lambda: learner.base_step(seen, aux_batch, 1.0),
        inner_lr=config.learning_rate,
        excluded={"t1t2_forward": "lambda passes through batch norm"},
    )
    return replace(case, steps=released_steps(case, learner, aux_batch))


def released_steps(
    case: CostProblem, learner: Learner, aux_batch: LabelledImages
) -> dict[str, Step]:
    """The graph of the auxiliary loss stands beside the episode's. T1-T2's base step takes the
    gradient of its inner step, and the auxiliary loss's graph waits until after the outer loss."""
    meta_optimizer = torch.optim.Adam(case.hyper.values(), Config.meta_learning_rate)

    def auxiliary_loss() -> Tensor:
        learner.network.eval()
        scores = learner.auxiliary(learner.network.backbone(aux_batch.images).mean((2, 3)))
        learner.network.train()
        return F.cross_entropy(scores, aux_batch.labels)

    def update() -> None:
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=False)

    def base_step() -> None:
        losses = auxiliary_loss(), episode_loss(learner.network, case.inner_batch)
        for loss in losses:
            loss.backward()
        update()

    def t1t2() -> None:
        waiting = [auxiliary_loss()]

        def before(grads: Tensors) -> None:
            waiting.pop().backward()
            for name, parameter in case.params.items():
                if parameter.grad is None:  # in the first step, of what the auxiliary loss lacks
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += grads[name].detach()
            update()

        released_t1t2(case, meta_optimizer, before)()

    evograd = released_evograd(replace(case, base_step=base_step), meta_optimizer)
    return {RELEASED[0]: as_released(evograd), RELEASED[1]: as_released(t1t2)}


def as_released(step: Step) -> Step:
    """With the authors' layers: ReLU works in place, and the transformation is a product and a sum
    of feature maps after batch norm, not a part of it."""

    def transformed(module: TransformedBatchNorm2d, x: Tensor) -> Tensor:
        y = nn.BatchNorm2d.forward(module, x)
        if not module.training:
            return y
        scale = 1 + channel_noise(module.theta_gamma) * deviation(module.theta_gamma)
        shift = channel_noise(module.theta_beta) * deviation(module.theta_beta)
        return scale[:, None, None].expand_as(y) * y + shift[:, None, None].expand_as(y)

    def changed() -> None:
        with (
            patch.object(F, "relu", lambda x, inplace=True: torch.relu_(x)),
            patch.object(TransformedBatchNorm2d, "forward", transformed),
        ):
            step()

    return changed


def published_costs() -> list[PublishedCost]:
    """The paper's Figure 3."""
    figure = published("cross_domain_fewshot")["cost_figure"]
    rows = {"evograd": EVOGRAD, "t1t2": T1T2}
    found = []
    for key, x in (("1shot", "1 shot"), ("5shot", "5 shots")):
        cost = figure[key]
        costs = {r: (cost[m]["memory_gb"], cost[m]["seconds_per_epoch"]) for m, r in rows.items()}
        found.append(PublishedCost(FIGURE, f"ResNet-10, {x}", costs, "Figure 3"))
    return found
