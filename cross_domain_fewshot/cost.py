"""The experiment's bilevel problem at the paper's shapes on random images, for the cost study."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.cost_study.case import CostCase, CostProblem, PublishedCost, Size
from common.reporting import published
from common.training import seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.episodes import Episode, LabelledImages
from cross_domain_fewshot.train import FeatureTransformProblem, Learner

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
        CostCase(FIGURE, case_name(c), partial(build, c), all_methods=size == "paper")
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
    return CostProblem(
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


def published_costs() -> list[PublishedCost]:
    """The paper's Figure 3."""
    figure = published("cross_domain_fewshot")["cost_figure"]
    rows = {"evograd": "EvoGrad, K = 2", "t1t2": "T1T2"}
    found = []
    for key, x in (("1shot", "1 shot"), ("5shot", "5 shots")):
        cost = figure[key]
        costs = {r: (cost[m]["memory_gb"], cost[m]["seconds_per_epoch"]) for m, r in rows.items()}
        found.append(PublishedCost(FIGURE, f"ResNet-10, {x}", costs))
    return found
