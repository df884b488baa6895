"""The one-dimensional illustration against calculus."""

import pytest
import torch

from common.errors import UserError
from common.hypergrad import EvoGrad
from common.reporting import RunRecord, load
from toy_1d.config import EXPERIMENT, Config
from toy_1d.report import section
from toy_1d.train import (
    OneDimensional,
    estimates,
    evograd,
    exact_hypergradient,
    inner_gradient,
    run,
    trajectories,
)


def test_exact_hypergradient_is_the_derivative_through_the_inner_optimum():
    lam = torch.linspace(0.1, 2, 20, dtype=torch.float64, requires_grad=True)
    optimum = 1 / (1 + lam)
    torch.testing.assert_close(inner_gradient(optimum, lam).detach(), torch.zeros(20).double())
    (grad,) = torch.autograd.grad(((optimum - 0.5) ** 2).sum(), lam)
    torch.testing.assert_close(exact_hypergradient(lam.detach()), grad)


def test_the_vectorised_estimates_equal_the_estimator_called_one_by_one():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(9, generator=generator).double(), torch.randn(9, 7).double()
    lam, one = torch.linspace(0.1, 2, 9).double(), EvoGrad(7, 1.0, 0.5, "gaussian")
    for i, found in enumerate(evograd(Config(), 7, x, lam, noise)):
        at = OneDimensional(), {"x": x[i]}, {"lambda": lam[i]}, None, None
        torch.testing.assert_close(one(*at, noise={"x": noise[i]}).grads["lambda"], found)


def test_with_many_candidates_the_estimate_tends_to_an_integral():
    """K -> infinity: the sums over candidates become Gaussian integrals, done by quadrature; the
    candidates stand at the quantiles of the normal distribution."""
    x, lam, tau = 0.4, 0.7, 0.5
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64) + x
    density = torch.exp(-((grid - x) ** 2) / 2)
    w = density * torch.exp(-((grid - 1) ** 2 + lam * grid**2) / tau)
    w = w / w.sum()
    star, square, cube = (w * grid).sum(), (w * grid**2).sum(), (w * grid**3).sum()
    expected = 2 * (star - 0.5) * -(cube - star * square) / tau
    noise = torch.special.ndtri((torch.arange(1_000).double() + 0.5) / 1_000).view(1, -1)
    tensors = (torch.tensor([v], dtype=torch.float64) for v in (x, lam))
    estimate = evograd(Config(), 1_000, *tensors, noise)[0]
    assert estimate.item() == pytest.approx(expected.item(), rel=0.01)


def test_the_papers_claims_hold_at_the_papers_size():
    series = estimates(Config(), torch.device("cpu"))
    exact = torch.tensor(series["exact"])
    means = {k: torch.tensor(series[f"mean_{k}"]) for k in (2, 10, 100)}
    sds = {k: torch.tensor(series[f"sd_{k}"]).mean() for k in (2, 10, 100)}
    assert sds[2] > 2 * sds[10] > 2 * sds[100]  # noise falls
    for k in (2, 10, 100):  # the trend: negative on the left, about zero from 1 on
        assert means[k][:30].mean() < -0.05
        assert means[k][60:].mean().abs() < 0.06
    assert torch.corrcoef(torch.stack([means[100], exact]))[0, 1] > 0.95
    assert (means[100] - exact)[:20].mean() > 0.05  # the bias towards zero remains


def test_each_trajectory_steps_with_its_own_lambda():
    rows = trajectories(Config())
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for index, x, lam in ((1, -1.8, 0.2), (3, 0.9, 0.8)):
        for row in rows[1:]:
            x -= 0.1 * (2 * (x - 1) + 2 * lam * x)
            lam -= 0.1 * (lam - 1) / (lam + 1) ** 3
            assert row[f"exact_x_{index}"] == pytest.approx(x)
            assert row[f"exact_lambda_{index}"] == pytest.approx(lam)
    assert 0 < abs(rows[5]["evograd_100_lambda_1"] - rows[5]["exact_lambda_1"]) < 0.3


def test_run_leaves_a_record_that_the_report_turns_into_files(tmp_path):
    words = ["--preset", "smoke", "--lambdas", "10", "--run-dir"]
    config = EXPERIMENT.parse([*words, str(tmp_path / "run")])
    record = run(config)
    assert load(tmp_path / "run" / "record.json", RunRecord) == record
    assert run(config).provenance["finished"] == record.provenance["finished"]  # not run twice
    part = section([record], "smoke", tmp_path / "report")
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert {"estimates.png", "estimates.pdf", "trajectories.png", "estimates.md"} <= names
    assert len(part.figures) == 2 and part.runs == 1
    again = run(EXPERIMENT.parse([*words, str(tmp_path / "again")]))
    assert again.traces == record.traces and again.epochs == record.epochs


def test_one_candidate_is_refused():
    with pytest.raises(UserError, match="--candidates 1"):
        EXPERIMENT.parse(["--candidates", "1", "10"])
