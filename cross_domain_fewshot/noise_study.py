"""How much of EvoGrad's estimate is the transformations' noise, shared or drawn per candidate?

    python -m cross_domain_fewshot.noise_study --seeds 1 2 3 --output FOLDER

In float64, on several pairs of episodes at the start and at the end of a training with EvoGrad:
the spread of the candidates' losses, and the cosine of EvoGrad's hypergradient to the exact
one-step one (T1-T2), once with one noise for all candidates of a hypergradient and once with noise
drawn anew for each. The exact one depends on the noise too: estimates are compared with the one of
the same noise, and with the mean over many draws. One JSON file per seed; ``scripts.publish`` makes
the table from those in results/cross_domain_fewshot/noise/records.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pandas as pd
import torch
import tyro
from torch import Tensor

from common.command import run_command
from common.files import check_writable
from common.hypergrad import T1T2, EvoGrad, Tensors
from common.hypergrad.compare import cast, cosine, flat_gradient
from common.hypergrad.problem import BilevelProblem
from common.report import measured, number
from common.reporting import Number, Table, collect_provenance
from common.reporting.records import JsonObject, Record, load, save
from common.settings import ROOT
from common.training import choose_device, configure, seed_everything
from cross_domain_fewshot.config import PRESETS, Config
from cross_domain_fewshot.episodes import Episode
from cross_domain_fewshot.train import FewShotTask

CANDIDATES = {2: 16, 8: 6, 32: 3}
"""K -> number of hypergradients estimated with it on a pair of episodes."""
EXACT_DRAWS = 64
"""Draws of the noise over which the exact hypergradient is averaged."""
PAIRS = 3
"""Pairs of episodes at each moment."""
Row = dict[str, Any]


class NoiseRecord(Record):
    """What was measured with one seed; rows: see ``pair_rows``."""

    KIND: ClassVar[str] = "evograd-fewshot-noise"

    seed: int
    config: JsonObject
    rows: list[JsonObject]
    provenance: JsonObject


class SameNoise:
    """A problem whose inner loss has the same noise in every evaluation."""

    def __init__(self, problem: BilevelProblem, seed: int) -> None:
        self.problem, self.seed = problem, seed

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Episode) -> Tensor:
        torch.manual_seed(self.seed)
        return self.problem.inner_loss(params, hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Episode) -> Tensor:
        return self.problem.outer_loss(params, hyper, batch)


def pair_rows(
    problem: BilevelProblem, tensors: Sequence[Any], evograd: EvoGrad, inner_lr: float
) -> Iterator[Row]:
    """The measurements on one pair of episodes; tensors: params, hyper, the two episodes."""

    def estimate(estimator: Any, own: BilevelProblem, seed: int) -> tuple[Tensor, Tensors]:
        found = estimator(own, *tensors, generator=torch.Generator().manual_seed(seed))
        return flat_gradient(found.grads), found.diagnostics

    t1t2, draws = T1T2(inner_lr), range(EXACT_DRAWS)
    exact = torch.stack([estimate(t1t2, SameNoise(problem, seed), 0)[0] for seed in draws])
    mean = exact.mean(0)
    others = (exact.sum(0) - exact) / (EXACT_DRAWS - 1)
    yield {
        "noise": "exact",
        "to_mean": [cosine(one, rest) for one, rest in zip(exact, others, strict=True)],
    }
    for noise, count in itertools.product(("shared", "separate"), CANDIDATES):
        shared = noise == "shared"
        estimator = replace(evograd, num_candidates=count, common_noise=shared)
        row: Row = {"noise": noise, "K": count, "to_mean": [], "to_same": []}
        row |= {"loss_variance": [], "largest_weight": []}
        for seed in range(CANDIDATES[count]):
            own = SameNoise(problem, seed) if shared else problem
            grads, diagnostics = estimate(estimator, own, 1_000 + seed)
            row["to_mean"].append(cosine(grads, mean))
            if shared:
                row["to_same"].append(cosine(grads, exact[seed]))
            row["loss_variance"].append(diagnostics["losses"].var().item())
            row["largest_weight"].append(diagnostics["weights"].max().item())
        yield row


def measure_seed(config: Config) -> list[Row]:
    """The rows of one seed, on PAIRS pairs of episodes at the start and at the end of training."""
    device = choose_device(config.device)
    configure(config.threads)
    seed_everything(config.seed)
    task = FewShotTask(config, device)
    learner, rows = task.learner, []
    for moment, epochs in (("start", 0), ("end", config.epochs)):
        for epoch in range(1, epochs + 1):
            for _ in task.steps(epoch):
                pass
        learner.network.double()
        for pair in range(PAIRS):
            seen, unseen = next(task.schedule())
            episodes = task.streams["seen", seen].next(), task.streams["unseen", unseen].next()
            tensors = cast((learner.params, learner.hyper, *episodes), torch.float64)
            meta = learner.meta
            found = pair_rows(meta.problem, tensors, meta.estimator, config.learning_rate)
            rows += [{"moment": moment, "pair": pair, **row} for row in found]
        learner.network.float()
    return rows


def noise_table(records: Sequence[NoiseRecord]) -> Table:
    """Means over seeds and pairs of episodes, with 95 % intervals."""
    found = pd.DataFrame([{"seed": r.seed, "K": 0} | row for r in records for row in r.rows])
    for name in ("to_mean", "to_same", "loss_variance", "largest_weight"):  # lists of draws
        means = found[name].map(lambda d: fmean(d) if d else math.nan, na_action="ignore")
        found[name] = means
    rows: list[tuple[Any, ...]] = []
    for moment, own in found.groupby("moment", sort=False):
        exact = _interval(own.loc[own["noise"] == "exact", "to_mean"])
        rows.append((moment, "T1-T2, one draw", "–", "–", "–", "–", "1", exact))
        spread = own[own["K"] == max(CANDIDATES)].groupby("noise")["loss_variance"].mean()
        share = 100 * (1 - spread["shared"] / spread["separate"])
        for (noise, count), cell in own[own["K"] > 0].groupby(["noise", "K"], sort=False):
            shared = noise == "shared"
            sd, weight = math.sqrt(spread[noise]), cell["largest_weight"].mean()
            same = _interval(cell["to_same"]) if shared else "–"
            numbers = Number(sd, digits=3), "–" if shared else f"{share:.1f}", Number(weight)
            method = f"EvoGrad, {noise}"
            rows.append((moment, method, f"{count}", *numbers, same, _interval(cell["to_mean"])))
    pairs = found.groupby(["seed", "pair"]).ngroups
    columns = ["moment", "hypergradient, noise", "K", "sd of losses", "share of noise %",
               "largest weight", "cosine, same draw", "cosine, mean over draws"]  # fmt: skip
    return Table(
        "Few-shot: noise of the transformations in the candidates",
        pd.DataFrame(rows, columns=columns),
        caption="Embedded images, float64, at the start and at the end of training. Sd of losses: "
        "between the candidates of a hypergradient (of 32). Share of noise: the part of "
        "these losses' variance that exists only because every candidate has its own noise. "
        "Largest weight: of the softmax over the candidates, mean. Cosine to the exact one-step "
        f"hypergradient: of the same draw of the noise; of the mean over {EXACT_DRAWS} draws.",
        notes=(
            f"±: half-width of the 95 % confidence interval over {pairs} pairs of episodes "
            f"of {len(records)} seeds.",
        ),
    )


def _interval(means: pd.Series) -> Number | str:
    """Mean over pairs of episodes, with the interval by Student's t."""
    return number(measured(means), digits=3)


def main(
    seeds: tuple[int, ...] = (1, 2, 3),
    threads: int = 0,
    output: Path = ROOT / "runs/cross_domain_fewshot/noise",
) -> None:
    """Measures the transformations' noise in EvoGrad's candidates at the start and at the end of a
    training. A seed whose file is in ``output`` is not measured again."""
    check_writable(output)
    for seed in seeds:
        config = replace(PRESETS["quick"], method="lft_evograd", threads=threads, seed=seed)
        path = output / f"seed{seed}.json"
        if path.exists():
            load(path, NoiseRecord)
            continue
        record = NoiseRecord(
            seed=seed,
            config=config.result_settings(),
            rows=measure_seed(config),
            provenance=collect_provenance(),
        )
        save(record, path)
        print(path)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(main, prog="python -m cross_domain_fewshot.noise_study"))
