"""The experiment's bilevel problem at the paper's shapes on random images, for the cost study."""

from collections.abc import Callable
from dataclasses import replace

import torch

from common.cost_study.case import CostCase, CostProblem, PublishedCost, Size
from common.reporting import published
from common.training import seed_everything
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.data import Episode, LabelledImages
from cross_domain_fewshot.problem import FeatureTransformProblem
from cross_domain_fewshot.steps import Learner

AUX_CLASSES = 64
"""Base classes of miniImageNet."""
FIGURE = "Few-shot: cost by backbone and shots"
_EXCLUDED = {"t1t2_forward": "lambda passes through batch norm"}


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
        CostCase(FIGURE, case_name(c), _builder(c), all_methods=size == "paper")
        for c in configurations(size)
    ]


def published_costs() -> list[PublishedCost]:
    """The paper's Figure 3."""
    figure = published("cross_domain_fewshot")["cost_figure"]
    rows = {"evograd": "EvoGrad, K = 2", "t1t2": "T1T2"}
    return [
        PublishedCost(
            FIGURE,
            f"ResNet-10, {x}",
            {
                row: (figure[key][method]["memory_gb"], figure[key][method]["seconds_per_epoch"])
                for method, row in rows.items()
            },
        )
        for key, x in (("1shot", "1 shot"), ("5shot", "5 shots"))
    ]


def case_name(config: Config) -> str:
    shots = f"{config.n_shot} shot{'s' if config.n_shot > 1 else ''}"
    return f"{config.backbone.replace('resnet', 'ResNet-')}, {shots}"


def random_episode(config: Config, device: torch.device) -> Episode:
    """Random images in the shape of an episode."""
    shape = (3, config.image_size, config.image_size)
    support, query = (
        torch.randn(config.n_way, count, *shape, device=device)
        for count in (config.n_shot, config.n_query)
    )
    return Episode(support, query)


def random_aux_batch(config: Config, device: torch.device) -> LabelledImages:
    """Random images and labels for the auxiliary loss."""
    count, side = config.aux_batch_size, config.image_size
    images = torch.randn(count, 3, side, side, device=device)
    return LabelledImages(images, torch.arange(count, device=device) % AUX_CLASSES)


def make_learner(config: Config, device: torch.device) -> Learner:
    seed_everything(1)
    return Learner(config, device, AUX_CLASSES)


def _builder(config: Config) -> Callable[[torch.device], CostProblem]:
    """plain_step is that of method none, base_step that of ft (fixed), both with the auxiliary
    loss."""

    def build(device: torch.device) -> CostProblem:
        plain = make_learner(replace(config, method="none"), device)
        learner = make_learner(replace(config, method="ft", ft="fixed"), device)
        seen, unseen = random_episode(config, device), random_episode(config, device)
        aux_batch = random_aux_batch(config, device)
        return CostProblem(
            problem=FeatureTransformProblem(learner.network),
            params=learner.params,
            hyper=learner.hyper,
            inner_batch=seen,
            outer_batch=unseen,
            plain_step=lambda: plain.base_step(seen, aux_batch, 1.0),
            base_step=lambda: learner.base_step(seen, aux_batch, 1.0),
            inner_lr=config.learning_rate,
            excluded=_EXCLUDED,
        )

    return build
