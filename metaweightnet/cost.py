"""The experiment's bilevel problem at its real shapes on random images, for the cost study."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional as F

from common.cost_study.case import SHARED, CostCase, CostProblem, PublishedCost, Size
from common.hypergrad.problem import leaves
from common.reporting import published
from metaweightnet.config import Config
from metaweightnet.data import Batch, Split
from metaweightnet.train import Learner, normalised

WIDTHS, HIDDEN = "ResNet-32, label noise, by width", "ResNet-32, label noise, by weight net"
DATASETS = "ResNet-32, label noise, by data set"


def cases(size: Size) -> list[CostCase]:
    """Widths of the network as in the paper's Figure 5, sizes of the weight net (3n + 1
    hyperparameters), and Figure 4's data sets."""
    small = size == "small"
    chosen: list[tuple[str, str, dict[str, Any]]]
    chosen = [(WIDTHS, f"width {n}", {"width": n}) for n in ((1, 2) if small else (1, 2, 3, 4, 5))]
    chosen += [
        (HIDDEN, f"{n:,} hidden units", {"meta_hidden": n})
        for n in ((10_000,) if small else (100, 1_000, 10_000, 100_000))
    ]
    if not small:
        chosen += [
            (DATASETS, title, {"dataset": name})
            for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
        ]
    # A tiny base step: the cost does not depend on the value of theta.
    config = Config(method="evograd", learning_rate=1e-9)
    return [
        CostCase(
            figure,
            x,
            partial(build, replace(config, **changes)),
            all_methods=not small or x == "width 1",
            own_steps=tuple(SHARED) if changes.get("width", 1) == 1 else (),
        )
        for figure, x, changes in chosen
    ]


def build(config: Config, device: torch.device) -> CostProblem:
    """The network, weight net and optimisers of a run, each batch random."""

    def learner_of(**changes: Any) -> Learner:
        return Learner(replace(config, **changes), device)

    plain, learner = learner_of(method="plain"), learner_of()
    images = torch.randint(256, (config.batch_size, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(config.batch_size) % config.num_classes
    split = Split(*(t.to(device) for t in (images, labels, labels < 0)))
    index = torch.arange(config.batch_size, device=device)
    batch, outer_batch = split.batch(index), split.batch(index.flip(0))
    shared = {
        row: partial(shared_step, learner_of(method=name))
        for row, name in SHARED.items()
        if config.width == 1
    }
    return CostProblem(
        problem=learner.meta.problem,
        params=dict(learner.network.named_parameters()),
        hyper=learner.meta.hyper,
        inner_batch=batch,
        outer_batch=outer_batch,
        plain_step=lambda: plain.base_step(batch),
        base_step=lambda: learner.base_step(batch),
        inner_lr=Config.learning_rate,
        steps={row: partial(step, batch, outer_batch) for row, step in shared.items()},
    )


def shared_step(learner: Learner, batch: Batch, meta_batch: Batch) -> None:
    """Both steps at the same parameters and weights: the base step hands over its loss, and the
    losses that the weight net sees if they are held."""
    assert learner.meta is not None
    hyper = leaves(learner.meta.hyper)
    losses = F.cross_entropy(learner.network(batch.images), batch.labels, reduction="none")
    weights = normalised(functional_call(learner.vnet, hyper, (losses.detach(),)))
    learner.optimizer.zero_grad()
    anchor = learner.meta.shared_gradient((weights * losses).sum(), hyper)
    if learner.config.holds_vnet_input:
        batch = batch._replace(seen=losses.detach())
    params = dict(learner.network.named_parameters())
    learner.meta(params, batch, meta_batch, learner.hypergradient_factor(), anchor=anchor)
    learner.optimizer.step()


def published_costs() -> list[PublishedCost]:
    """Figure 4 (40 % noise), and Figure 5, read off the picture."""
    numbers = published("metaweightnet")
    rows = {"evograd": "EvoGrad, K = 2", "t1t2": "T1T2"}
    found = []
    for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        cost = numbers["cost_figure"][dataset]
        costs = {rows[m]: (c["memory_gb"], c["seconds_per_epoch"]) for m, c in cost.items()}
        found.append(PublishedCost(DATASETS, title, costs))
    scaling = numbers["scaling_figure_digitised"]
    memory, seconds = scaling["memory_gb"], scaling["seconds_per_epoch"]
    for i, width in enumerate(scaling["width"]):
        costs = {row: (memory[m][i], seconds[m][i]) for m, row in rows.items()}
        found.append(PublishedCost(WIDTHS, f"width {width}", costs))
    return found
