"""What the cost study measures of this experiment: steps of XLM-R with a transformation network.

Random weights and sentences: the cost does not depend on what they say. All methods of a case use
the same attention: written out as matrix products, which have the second derivative that T1-T2
needs, or fused, which has none.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from common.cost_study.case import (
    RELEASED,
    CostCase,
    CostProblem,
    PublishedCost,
    Size,
    released_evograd,
    released_t1t2,
)
from common.cost_study.records import PLAIN, T1T2
from common.reporting import published
from metaxl.config import Config
from metaxl.data import Batch
from metaxl.models import is_head, random_encoder
from metaxl.train import InnerBatch, Learner

FIGURE = "XLM-R with a transformation network"
SHARED = "evograd num_candidates=2 shared"
_LABELS = 9  # O, and B and I of PER, ORG, LOC, MISC
_ALWAYS = {"t1t2_forward": "log_softmax has no second derivative over a forward-mode one"}
_WITHOUT_FUSED = dict.fromkeys(
    ("t1t2", "t1t2_higher", "unrolled", "reversible", "forward_mode", "implicit_cg", "neumann"),
    "fused attention has no second derivative",
) | {"t1t2_forward": "fused attention has no forward-mode derivative"}


@dataclass(frozen=True)
class Shape:
    """XLM-R of so many layers and subwords in its vocabulary; so many sentences and their length.

    hidden_size: units; heads have 64 of them.
    """

    layers: int
    vocabulary: int
    batch_size: int
    length: int
    hidden_size: int = 768


SHAPES: dict[Size, dict[str, Shape]] = {
    # On a CPU core a step of XLM-R base takes half a minute: half its layers, a small vocabulary.
    "small": {"6 layers, 4 sentences of 128": Shape(6, 8_000, 4, 128)},
    "paper": {
        "XLM-R base, 12 sentences of 128": Shape(12, 250_002, 12, 128),
        "XLM-R base, 12 sentences of 200": Shape(12, 250_002, 12, 200),
    },
}


def cases(size: Size) -> list[CostCase]:
    """The cases of a size; at the paper's, also with fused attention."""
    kinds = {"": "eager"} | ({", fused attention": "sdpa"} if size == "paper" else {})
    return [
        CostCase(
            FIGURE + suffix,
            x,
            partial(build, shape, attention),
            all_methods=size == "paper",
            own=(SHARED, RELEASED[0]) if suffix else (SHARED, *RELEASED),
        )
        for suffix, attention in kinds.items()
        for x, shape in SHAPES[size].items()
    ]


def published_costs() -> list[PublishedCost]:
    """The paper's Figure 6."""
    figure = published("metaxl")["cost_figure"]
    rows = {"joint_training": PLAIN, "evograd": RELEASED[0], "t1t2": T1T2}
    costs = {row: (figure[m]["memory_gb"], figure[m]["seconds"]) for m, row in rows.items()}
    return [PublishedCost(FIGURE, "XLM-R base, 12 sentences of 200", costs, "Figure 6")]


def build(shape: Shape, attention: str, device: torch.device) -> CostProblem:
    """A case on ``device``: plain_step is joint training on all sentences of both languages."""
    config = replace(
        Config(),
        method="evograd",
        layers=(shape.layers,),
        bottleneck=shape.hidden_size // 2,
        batch_size=shape.batch_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = random_encoder(
            attention,
            vocab_size=shape.vocabulary,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden_size,
            num_attention_heads=shape.hidden_size // 64,
            intermediate_size=4 * shape.hidden_size,
        )
        learner = Learner(config, encoder, _LABELS, device)
        source, target = (_random_batch(shape, device) for _ in range(2))
    learner.tagger.train()
    train, meta = target.halves()
    inner_batch = InnerBatch(source, train)

    case = CostProblem(
        problem=learner.meta.problem,
        params=dict(learner.tagger.named_parameters()),
        hyper=learner.meta.hyper,
        inner_batch=inner_batch,
        outer_batch=meta,
        plain_step=lambda: learner.joint_step(source, target),
        base_step=lambda: learner.base_step(inner_batch),
        inner_lr=config.learning_rate,
        perturb=is_head,
        excluded=_WITHOUT_FUSED if attention == "sdpa" else _ALWAYS,
    )
    # As released, every candidate passes the encoder, which is not cut off (2K + 1 passes).
    alone = replace(case, problem=learner.problem)
    optimizer = learner.meta.optimizer
    steps = {
        SHARED: lambda: learner.shared_step(inner_batch, meta),
        RELEASED[0]: released_evograd(alone, optimizer, is_head, detach=False),
        RELEASED[1]: released_t1t2(alone, optimizer, after=case.base_step),
    }
    return replace(case, steps=steps)


def _random_batch(shape: Shape, device: torch.device) -> Batch:
    size = shape.batch_size, shape.length
    input_ids = torch.randint(5, shape.vocabulary, size).to(device)
    labels = torch.randint(_LABELS, size).to(device)
    return Batch(input_ids, torch.ones_like(input_ids), labels)
