"""The study of the candidates' noise, on a problem whose answers are known."""

import pytest
import torch

from common.hypergrad import EvoGrad
from common.reporting.records import load_folder
from cross_domain_fewshot import noise_study
from cross_domain_fewshot.noise_study import EXACT_DRAWS, NoiseRecord, noise_table, pair_rows


class NoisyBilinear:
    """L_T = theta . lambda + a n sum(lambda), n ~ N(0, 1); L_V = b . theta.

    Losses of candidates: variance sigma^2 |lambda|^2 by the perturbation (signs) and
    a^2 sum(lambda)^2 by noise of their own. Exact hypergradient: -eta b, whatever the noise.
    """

    def __init__(self, amplitude: float) -> None:
        self.amplitude = amplitude

    def inner_loss(self, params, hyper, batch):
        noise = self.amplitude * torch.randn((), dtype=torch.float64)
        return (params["theta"] * hyper["lambda"]).sum() + noise * hyper["lambda"].sum()

    def outer_loss(self, params, hyper, batch):
        return (params["theta"] * batch).sum()


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(noise_study, "CANDIDATES", {2: 8, 32: 40})
    g = torch.Generator().manual_seed(0)
    theta, hyper, b = (torch.randn(50, generator=g).double() for _ in range(3))

    def measure(amplitude):
        tensors = ({"theta": theta}, {"lambda": hyper}, None, b)
        found = list(pair_rows(NoisyBilinear(amplitude), tensors, EvoGrad(), 0.1))
        return {(row["noise"], row.get("K")): row for row in found}, hyper

    return measure


def mean(values):
    return sum(values) / len(values)


def test_the_variance_of_the_losses_is_that_of_perturbation_and_noise(rows):
    found, hyper = rows(0.005)
    by_perturbation = 1e-6 * hyper.square().sum().item()
    by_noise = 2.5e-5 * hyper.sum().item() ** 2
    # 40 variances of 32 values each have a relative standard error of sqrt(2 / 31 / 40) = 4 %.
    shared, separate = (mean(found[n, 32]["loss_variance"]) for n in ("shared", "separate"))
    assert shared == pytest.approx(by_perturbation, rel=0.2)
    assert separate == pytest.approx(by_perturbation + by_noise, rel=0.2)


def test_shared_noise_that_enters_linearly_changes_no_estimate(rows):
    """All losses of a hypergradient are shifted alike; separate noise takes the direction away."""
    still, _ = rows(0.0)
    found, _ = rows(10.0)
    assert found["exact", None]["to_mean"] == pytest.approx([1.0] * EXACT_DRAWS)
    for count in (2, 32):
        assert found["shared", count]["to_same"] == pytest.approx(found["shared", count]["to_mean"])
        assert still["separate", count]["loss_variance"] == pytest.approx(
            still["shared", count]["loss_variance"]
        )
    # About sqrt(31 / (31 + 50)) = 0.62 in 50 dimensions.
    assert mean(found["shared", 32]["to_mean"]) > 0.5
    assert mean(found["separate", 2]["largest_weight"]) > 0.9


def test_the_table_has_shares_and_intervals():
    def row(noise, variance, cosines, **more):
        return {"moment": "start", "noise": noise, "to_mean": cosines, "to_same": cosines,
                "loss_variance": [variance], "largest_weight": [0.75], **more}  # fmt: skip

    records = []
    for seed, value in ((1, 0.1), (2, 0.2), (3, 0.6)):
        rows = [row("exact", 0.0, [value], pair=0)]
        for count in noise_study.CANDIDATES:
            rows += [row("shared", 0.01, [value], K=count, pair=0),
                     row("separate", 0.04, [value, -value], K=count, pair=0)]  # fmt: skip
        rows += [r | {"moment": "end"} for r in rows]
        records.append(NoiseRecord(seed=seed, config={}, rows=rows, provenance={}))
    texts = [[str(cell) for cell in row] for row in noise_table(records).rows]
    made = {tuple(row[:3]): row[3:] for row in texts}
    # t for 2 degrees of freedom is 4.303, the standard error of 0.1, 0.2, 0.6 is 0.2646 / sqrt(3).
    assert made["start", "EvoGrad, shared", "8"] == [
        "0.100", "–", "0.75", "0.300 ± 0.657", "0.300 ± 0.657",
    ]  # fmt: skip
    assert made["end", "EvoGrad, separate", "2"] == ["0.200", "75.0", "0.75", "–", "0.000 ± 0.000"]


def test_a_finished_seed_is_not_measured_again(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(noise_study, "measure_seed", lambda c: calls.append(c.seed) or [])
    noise_study.main((4, 5), output=tmp_path)
    noise_study.main((4, 5), output=tmp_path)
    assert calls == [4, 5]
    assert [record.seed for record in load_folder(tmp_path, NoiseRecord)] == [4, 5]
