"""The problem, EvoGrad's estimates over lambda, and trajectories of (x, lambda).

    L_T(x, lambda) = (x - 1)^2 + lambda x^2,   L_V(x) = (x - 1/2)^2

The inner optimum is x*(lambda) = 1 / (1 + lambda), so there

    dL_V(x*)/dlambda = (lambda - 1) / (lambda + 1)^3.
"""

import torch
from torch import Tensor
from torch.func import vmap

from common.hypergrad import EvoGradGraph, Tensors
from common.reporting import RunRecord, collect_provenance, save, utc_now
from common.run import RECORD, finished_record
from common.training import choose_device, configure, new_generator
from toy_1d.config import Config

LAMBDA_RANGE = (0.1, 2.0)
STARTS = {"x": (-1.8, -0.9, 0.9, 1.3, 1.5), "lambda": (0.2, 1.2, 0.8, 0.2, 1.7)}
"""Where the trajectories begin: x0 and lambda0, as in the paper."""


class OneDimensional:
    """theta is {"x": scalar}, lambda is {"lambda": scalar}; no batches."""

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        return (params["x"] - 1) ** 2 + hyper["lambda"] * params["x"] ** 2

    def inner_losses(self, candidates: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        """All candidates at once, x of shape (K,)."""
        return self.inner_loss(candidates, hyper)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: None = None) -> Tensor:
        return (params["x"] - 0.5) ** 2


def inner_gradient(x: Tensor, lam: Tensor) -> Tensor:
    """dL_T/dx, element by element."""
    return 2 * (x - 1) + 2 * lam * x


def exact_hypergradient(lam: Tensor) -> Tensor:
    """dL_V(x*(lambda))/dlambda at the inner optimum, element by element."""
    return (lam - 1) / (lam + 1) ** 3


def evograd(config: Config, candidates: int, x: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
    """One EvoGrad hypergradient for each entry of x and lam (N,), with noise eps (N, K).

    The estimator handles one problem; vmap runs it over all N at once.
    """
    estimator = EvoGradGraph(candidates, config.estimator.sigma, config.estimator.temperature)

    def one(x: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        at = {"x": x}, {"lambda": lam}
        return estimator(OneDimensional(), *at, None, None, noise={"x": noise}).grads["lambda"]

    return vmap(one, randomness="same")(x, lam, noise)


def draw(config: Config, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Perturbations eps, sigma * N(0, 1)."""
    return config.estimator.sigma * torch.randn(shape, generator=generator, dtype=torch.float64)


def estimates(config: Config, device: torch.device) -> dict[str, list[float]]:
    """Mean and standard deviation of the estimate over the trials, for every lambda and K."""
    lam = torch.linspace(*LAMBDA_RANGE, config.lambdas, dtype=torch.float64)
    series = {
        "iteration": list(range(1, config.lambdas + 1)),
        "lambda": lam.tolist(),
        "exact": exact_hypergradient(lam).tolist(),
    }
    for count in config.candidates:
        generator = new_generator(config.seed, f"estimates with {count} candidates")
        shape = (config.lambdas, config.trials)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = draw(config, (*shape, count), generator).flatten(0, 1)
        points = x.flatten(), lam.repeat_interleave(config.trials), noise
        grads = evograd(config, count, *(t.to(device) for t in points)).view(shape)
        series[f"mean_{count}"] = grads.mean(dim=1).tolist()
        series[f"sd_{count}"] = grads.std(dim=1, correction=0).tolist()
    return series


def trajectories(config: Config) -> list[dict[str, float]]:
    """x and lambda after every step, for EvoGrad with each K and for the exact hypergradient.

    A step moves x by SGD on L_T, then lambda by the hypergradient at the new x. Each path is
    stepped with its own lambda.
    """
    rows: list[dict[str, float]] = [{"epoch": step} for step in range(config.steps + 1)]
    for count in (*config.candidates, None):
        method = "exact" if count is None else f"evograd_{count}"
        generator = new_generator(config.seed, f"trajectory {method}")
        x, lam = (torch.tensor(start, dtype=torch.float64) for start in STARTS.values())
        for row in rows:
            if row["epoch"] > 0:
                x = x - config.learning_rate * inner_gradient(x, lam)
                if count is None:
                    grad = exact_hypergradient(lam)
                else:
                    grad = evograd(config, count, x, lam, draw(config, (len(x), count), generator))
                lam = lam - config.learning_rate * grad
            for name, values in (("x", x), ("lambda", lam)):
                for start, value in enumerate(values.tolist(), 1):
                    row[f"{method}_{name}_{start}"] = value
    return rows


def summary(series: dict[str, list[float]], config: Config) -> dict[str, float]:
    """For each K: correlation of the mean estimate with the exact hypergradient over lambda, the
    root mean square of its bias, and the mean standard deviation of a single estimate."""
    exact = torch.tensor(series["exact"])
    result = {}
    for count in config.candidates:
        mean, sd = torch.tensor(series[f"mean_{count}"]), torch.tensor(series[f"sd_{count}"])
        result[f"correlation_{count}"] = torch.corrcoef(torch.stack([mean, exact]))[0, 1].item()
        result[f"bias_{count}"] = (mean - exact).square().mean().sqrt().item()
        result[f"sd_{count}"] = sd.mean().item()
    return result


def run(config: Config) -> RunRecord:
    """Computes both figures' numbers and writes the record, or returns the finished one."""
    if (record := finished_record(config)) is not None:
        return record
    device = choose_device(config.device)
    configure(config.threads)
    started, series = utc_now(), estimates(config, device)
    epochs, when = trajectories(config), {"started": started, "finished": utc_now()}
    record = RunRecord(
        experiment=config.experiment,
        method=config.method,
        seed=config.seed,
        preset=config.preset,
        config=config.result_settings(),
        epochs=epochs,
        traces=series,
        final=summary(series, config),
        best={},
        cost={},
        data={},
        provenance={**collect_provenance(), "device": str(device), **when},
    )
    save(record, config.directory() / RECORD)
    return record
