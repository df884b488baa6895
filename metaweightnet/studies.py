"""What the cost and the fidelity study look at: the problem at its real shapes, and in training.

For the fidelity study also networks of other widths, weight nets of other sizes, and two ways for
candidates to share work through EvoGrad's ``inner_losses`` hook.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
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
from common.fidelity_study.snapshots import (
    PlannedSnapshot,
    Snapshot,
    copied,
    parameters_later,
    random_pairs,
    stages,
    trained,
)
from common.hypergrad import Tensors
from common.reporting import published
from metaweightnet.config import PRESETS as TRAINED
from metaweightnet.config import Config
from metaweightnet.data import Batch
from metaweightnet.train import Learner, MetaWeightProblem, MetaWeightTask

CANDIDATE, HELD = "candidate", "held"
"""What the weight net sees in the inner loss: the candidate's own losses, as in the paper, or the
unperturbed model's (--vnet-input model)."""
READINGS = {CANDIDATE: "weight net's input: the candidate's", HELD: "weight net's input held"}
TITLE = "Label noise"
_CIFAR: dict[str, Any] = {
    "dataset": "cifar10", "noise": "flip_two", "noise_level": 0.4, "meta_weight_decay": 5e-4,
}  # fmt: skip
_QUICK = replace(TRAINED["quick"], train_size=10_000, meta_size=1_000, test_size=1_000,
                 epochs=10, milestones=(7, 9), **_CIFAR)  # fmt: skip
PRESETS = {"quick": _QUICK, "smoke": replace(TRAINED["smoke"], **_CIFAR)}
"""The trainings that are studied: CIFAR-10 at reduced size, 40 % of its labels flipped."""


def last_stages(name: str) -> bool:
    return name.startswith(("stage3.", "fc."))


PARTS = {"last stage": last_stages, "last layer": lambda name: name.startswith("fc.")}


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
            own=RELEASED,
            shared=changes.get("width", 1) == 1,
        )
        for figure, x, changes in chosen
    ]


def build(config: Config, device: torch.device) -> CostProblem:
    """The network, weight net and optimisers of a run, each batch random."""
    plain = Learner(replace(config, method="plain"), device)
    learner = Learner(config, device)

    def random_batch() -> Batch:
        images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
        labels = torch.arange(config.batch_size) % config.num_classes
        images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images.to(device), labels.to(device))

    batch, outer_batch = random_batch(), random_batch()
    case = CostProblem(
        problem=learner.meta.problem,
        params=dict(learner.network.named_parameters()),
        hyper=learner.meta.hyper,
        inner_batch=batch,
        outer_batch=outer_batch,
        plain_step=lambda: plain.base_step(batch),
        base_step=lambda: learner.base_step(batch),
        optimizer=learner.optimizer,
        inner_lr=Config.learning_rate,
    )
    return replace(case, steps=released_steps(case, learner.meta.optimizer))


def released_steps(case: CostProblem, meta_optimizer: torch.optim.Optimizer) -> dict[str, Step]:
    """Both begin with a copy of the classifier, by ``higher`` or of the module, and end with the
    base step, whose gradients stay for the next."""

    def on_copies(make: Callable[[CostProblem], Step]) -> Step:
        def step() -> None:
            copies = {n: p.detach().clone().requires_grad_() for n, p in case.params.items()}
            make(replace(case, params=copies))()

        return step

    return {
        RELEASED[0]: on_copies(lambda case: released_evograd(case, meta_optimizer)),
        RELEASED[1]: on_copies(
            lambda case: released_t1t2(case, meta_optimizer, after=case.base_step)
        ),
    }


def published_costs() -> list[PublishedCost]:
    """Figure 4 (40 % noise), and Figure 5, read off the picture."""
    numbers = published("metaweightnet")
    rows = {"evograd": EVOGRAD, "t1t2": T1T2}
    found = []
    for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        cost = numbers["cost_figure"][dataset]
        costs = {rows[m]: (c["memory_gb"], c["seconds_per_epoch"]) for m, c in cost.items()}
        found.append(PublishedCost(DATASETS, title, costs, "Figure 4"))
    scaling = numbers["scaling_figure_digitised"]
    memory, seconds = scaling["memory_gb"], scaling["seconds_per_epoch"]
    for i, width in enumerate(scaling["width"]):
        costs = {row: (memory[m][i], seconds[m][i]) for m, row in rows.items()}
        found.append(PublishedCost(WIDTHS, f"width {width}", costs, "Figure 5"))
    return found


class VmappedCandidates(MetaWeightProblem):
    """All candidates in one pass, vmapped over their parameters."""

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The K inner losses, (K,)."""
        count = len(next(iter(candidates.values())))
        buffers = {n: torch.stack([b] * count) for n, b in self.network.named_buffers()}

        def scores(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return functional_call(self.network, (params, buffers), (batch.images,))

        each = vmap(scores, randomness="same")(dict(candidates), buffers)
        return torch.stack([self.inner_loss_of(scores, hyper, batch) for scores in each])

    def inner_loss_of(self, scores: Tensor, hyper: Tensors, batch: Batch) -> Tensor:
        losses = F.cross_entropy(scores, batch.labels, reduction="none")
        return self.weighted(losses, hyper, batch)


class SharedTrunk(VmappedCandidates):
    """Candidates that differ in stage3 and fc only: what comes before is computed once."""

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """The K inner losses, (K,)."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        trunk = {name: tensor[0] for name, tensor in candidates.items() if not last_stages(name)}
        network, features = self.network, batch.images
        for module in ("conv1", "bn1", "relu", "stage1", "stage2"):
            if module == "relu":
                features = F.relu(features)
                continue
            own = _inside(module, trunk), _inside(module, buffers)
            features = functional_call(network.get_submodule(module), own, (features,))
        losses = []
        for k in range(len(candidates["fc.weight"])):
            params = {name: tensor[k] for name, tensor in candidates.items()}
            own = _inside("stage3", params), _inside("stage3", buffers)
            x = functional_call(network.get_submodule("stage3"), own, (features,)).mean((2, 3))
            scores = functional_call(network.get_submodule("fc"), _inside("fc", params), (x,))
            losses.append(self.inner_loss_of(scores, hyper, batch))
        return torch.stack(losses)


def _inside(module: str, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of one module, by their names inside it."""
    prefix = f"{module}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def snapshots(
    preset: str, device: torch.device, pairs: int, directory: Path
) -> list[PlannedSnapshot]:
    """A run with EvoGrad before its first epoch, half-way and after its last; then, after one
    epoch, networks of width 1, 2, 4 and weight nets of 10 and 1000 hidden units."""
    config = replace(PRESETS[preset], method="evograd", seed=1)
    build = partial(_snapshot, device, pairs)
    brief = replace(config, train_size=min(config.train_size, 5_000))
    sizes: dict[str, tuple[Any, ...]] = {"width": (1, 2, 4), "meta_hidden": (10, 1000)}
    return stages(config, build, directory) + [
        PlannedSnapshot(
            "metaweightnet",
            axis,
            str(size),
            partial(
                build, replace(brief, **{axis: size}), 1, directory / f"metaweightnet-{axis}-{size}"
            ),
        )
        for axis, chosen in sizes.items()
        for size in chosen
    ]


def _snapshot(
    device: torch.device, pairs: int, config: Config, epochs: int, directory: Path
) -> Snapshot:
    task = trained(MetaWeightTask, config, device, epochs, directory)
    network, vnet = task.learner.network, task.learner.vnet
    task.learner.begin_epoch(max(epochs, 1))

    def problem(dtype: torch.dtype, kind: type = MetaWeightProblem) -> MetaWeightProblem:
        return kind(copy.deepcopy(network).to(dtype), copy.deepcopy(vnet).to(dtype))

    def present() -> tuple[dict, dict]:
        return copied(dict(network.named_parameters())), copied(dict(vnet.named_parameters()))

    params, hyper = present()
    own = random_pairs(task, config, pairs)
    held = [(task.learner.meta.problem.held(params, inner), outer) for inner, outer in own]
    return Snapshot(
        problem=problem,
        params=params,
        hyper=hyper,
        readings={CANDIDATE: own, HELD: held},
        inner_lr=task.learner.learning_rate(),
        noise_prediction=HELD,
        parts=PARTS,
        hooks={
            "vmapped": (problem(torch.float32, VmappedCandidates), None),
            "shared features": (problem(torch.float32, SharedTrunk), last_stages),
        },
        later=parameters_later(task, epochs + 1, present),
    )
