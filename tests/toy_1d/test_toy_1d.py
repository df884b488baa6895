"""The one-dimensional illustration against calculus."""

import pytest
import torch

from common.errors import UserError
from common.hypergrad import T1T2
from common.reporting import RunRecord, load
from tests.common.hypergrad.problems import EVOGRADS
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


@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_the_vectorised_estimates_equal_the_estimator_called_one_by_one(mode):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(20, generator=generator).double(), torch.randn(20, 7).double()
    lam = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    many = evograd(Config(), 7, x, lam, noise)
    for i in range(20):
        one = EVOGRADS[mode](7, 1.0, 0.5, "gaussian")(
            OneDimensional(), {"x": x[i]}, {"lambda": lam[i]}, None, None, noise={"x": noise[i]}
        )
        torch.testing.assert_close(one.grads["lambda"], many[i], rtol=1e-9, atol=1e-12)


def test_with_many_candidates_the_estimate_tends_to_an_integral():
    """K -> infinity: the sums over candidates become Gaussian integrals, done by quadrature."""
    x, lam, tau = 0.4, 0.7, 0.5
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64) + x
    density = torch.exp(-((grid - x) ** 2) / 2)
    w = density * torch.exp(-((grid - 1) ** 2 + lam * grid**2) / tau)
    w = w / w.sum()
    star, square, cube = (w * grid).sum(), (w * grid**2).sum(), (w * grid**3).sum()
    expected = 2 * (star - 0.5) * -(cube - star * square) / tau
    noise = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0)).double()
    tensors = (torch.tensor([v], dtype=torch.float64) for v in (x, lam))
    estimate = evograd(Config(), 20_000, *tensors, noise)[0]
    assert estimate.item() == pytest.approx(expected.item(), rel=0.03)


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
    for start, (x, lam) in enumerate(zip((-1.8, 0.9), (0.2, 0.8), strict=True), start=1):
        index = 1 if start == 1 else 3
        for row in rows[1:]:
            x -= 0.1 * (2 * (x - 1) + 2 * lam * x)
            lam -= 0.1 * (lam - 1) / (lam + 1) ** 3
            assert row[f"exact_x_{index}"] == pytest.approx(x)
            assert row[f"exact_lambda_{index}"] == pytest.approx(lam)
    apart = abs(rows[5]["evograd_100_lambda_1"] - rows[5]["exact_lambda_1"])
    assert 0 < apart < 0.3


def test_t1t2_agrees_with_its_own_formula_here():
    """-eta dL_V/dx(x') 2x, x' one SGD step on; the scale by which EvoGrad is understood."""
    x, lam, eta = torch.tensor(0.3).double(), torch.tensor(0.6).double(), 0.1
    step = x - eta * inner_gradient(x, lam)
    result = T1T2(eta)(OneDimensional(), {"x": x}, {"lambda": lam}, None, None)
    assert result.grads["lambda"].item() == pytest.approx((-eta * 2 * (step - 0.5) * 2 * x).item())


def test_run_leaves_a_record_that_the_report_turns_into_files(tmp_path):
    config = EXPERIMENT.parse(["--preset", "smoke", "--run-dir", str(tmp_path / "run")])
    record = run(config)
    assert load(tmp_path / "run" / "record.json", RunRecord) == record
    assert run(config).provenance["finished"] == record.provenance["finished"]  # not run twice
    part = section([record], "smoke", tmp_path / "report")
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert {"estimates.png", "estimates.pdf", "trajectories.png", "estimates.md"} <= names
    assert len(part.figures) == 2 and part.runs == 1
    again = run(EXPERIMENT.parse(["--run-dir", str(tmp_path / "b"), "--seed", "1"]))
    assert again.traces == record.traces and again.epochs == record.epochs


def test_one_candidate_is_refused():
    with pytest.raises(UserError, match="--candidates 1"):
        EXPERIMENT.parse(["--candidates", "1", "10"])
