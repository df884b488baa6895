"""Hypergradients of every lft method with frozen noise, in float64, against plain computations."""

import copy
from dataclasses import replace

import pytest
import torch

from common.hypergrad import T1T2, EvoGrad, FiniteDifference, HigherT1T2
from cross_domain_fewshot import models
from cross_domain_fewshot.config import Config
from cross_domain_fewshot.episodes import Episode
from cross_domain_fewshot.models import RelationNet, ResNet, split_parameters
from cross_domain_fewshot.train import FeatureTransformProblem

ETA = 0.01
WAYS, SIZE = 3, 16


def episode(seed: int) -> Episode:
    g = torch.Generator().manual_seed(seed)
    shape = (3, SIZE, SIZE)
    support, query = (torch.randn(WAYS, n, *shape, generator=g).double() for n in (1, 2))
    return Episode(support, query)


class Setting:
    """A small RelationNet, its episodes, and its losses written as ordinary modules."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = RelationNet(ResNet("resnet10", 4, "small"), SIZE).double()
        with torch.no_grad():  # running statistics that are not the initial ones
            self.network(*episode(7))
        self.problem = FeatureTransformProblem(self.network)
        self.params, self.hyper = split_parameters(self.network)
        self.seen, self.unseen = episode(1), episode(2)

    def estimate(self, estimator, **keywords):
        return estimator(self.problem, self.params, self.hyper, self.seen, self.unseen, **keywords)

    def loss(self, episode: Episode, training: bool, changed=None) -> tuple:
        """The episode loss of a copy of the network with changed parameters, and the copy."""
        network = copy.deepcopy(self.network).train(training)
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_((changed or {}).get(name, p))
                p.requires_grad_()
        scores = network(episode.support, episode.query)
        labels = [c for c in range(WAYS) for _ in range(episode.query.shape[1])]
        loss = -sum(torch.log_softmax(s, 0)[c] for s, c in zip(scores, labels, strict=True))
        return loss / len(labels), network

    def gradient(self, episode, training, names, changed=None):
        """The loss and its gradient by the named parameters, by an ordinary backward."""
        loss, network = self.loss(episode, training, changed)
        named = dict(network.named_parameters())
        found = torch.autograd.grad(loss, [named[n] for n in names], allow_unused=True)
        return loss.detach(), dict(zip(names, found, strict=True))


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.fixture(autouse=True)
def frozen_noise(monkeypatch):
    """The same noise in every forward pass: a fixed function of the channels."""

    def noise(theta):
        return torch.linspace(-1.5, 1.2, len(theta)).cos().mul(1.3).to(theta)

    monkeypatch.setattr(models, "channel_noise", noise)


def flat(tensors) -> torch.Tensor:
    return torch.cat(list(tensors.values()))


@pytest.mark.parametrize("estimator", [T1T2(ETA), HigherT1T2(ETA)])
def test_t1t2_is_the_slope_of_the_outer_loss_after_the_inner_step(setting, estimator):
    """Against a central difference of L_V(theta - eta dL_T/dtheta(lambda)) in lambda."""
    grads, step, g = setting.estimate(estimator).grads, 1e-7, torch.Generator().manual_seed(3)
    for _ in range(2):
        along = {n: torch.randn(h.shape, generator=g).double() for n, h in setting.hyper.items()}
        values = []
        for sign in (1, -1):
            hyper = {n: h + sign * step * along[n] for n, h in setting.hyper.items()}
            inner = setting.gradient(setting.seen, True, list(setting.params), hyper)[1]
            theta = {n: p.detach() - ETA * inner[n] for n, p in setting.params.items()}
            values.append(setting.loss(setting.unseen, False, theta)[0].item())
        expected = (values[0] - values[1]) / (2 * step)
        assert expected != 0
        assert (flat(grads) @ flat(along)).item() == pytest.approx(expected, rel=1e-4)


def test_finite_difference_meets_t1t2_once_no_kink_lies_between_its_points(setting):
    exact, near = (
        flat(setting.estimate(e).grads) for e in (T1T2(ETA), FiniteDifference(ETA, 1e-7))
    )
    assert (near - exact).norm() < 1e-3 * exact.norm()


def test_evograd_is_its_definition(setting):
    """sum_k <g, theta_k> dw_k/dlambda, candidate by candidate, g at the merged parameters."""
    count, temperature, g = 3, 0.05, torch.Generator().manual_seed(5)
    noise = {
        n: 1e-3 * torch.randn(count, *p.shape, generator=g).sign().double()
        for n, p in setting.params.items()
    }
    candidates = [
        {n: p.detach() + noise[n][k] for n, p in setting.params.items()} for k in range(count)
    ]
    losses, loss_grads = zip(
        *(setting.gradient(setting.seen, True, list(setting.hyper), c) for c in candidates),
        strict=True,
    )
    w = torch.softmax(-torch.stack(losses) / temperature, 0)
    names = list(setting.params)
    merged = {n: sum(w[k] * candidates[k][n] for k in range(count)) for n in names}
    outer_loss, g_outer = setting.gradient(setting.unseen, False, names, merged)
    dots = [sum((g_outer[n] * c[n]).sum() for n in names) for c in candidates]
    found = setting.estimate(EvoGrad(count, 1e-3, temperature), noise=noise)
    for n in setting.hyper:
        mean = sum(w[k] * loss_grads[k][n] for k in range(count))
        expected = sum(
            dots[k] * -w[k] / temperature * (loss_grads[k][n] - mean) for k in range(count)
        )
        torch.testing.assert_close(found.grads[n], expected, rtol=1e-6, atol=1e-13)
    assert found.outer_loss.item() == pytest.approx(outer_loss.item())


@pytest.mark.parametrize("estimator", [EvoGrad(), T1T2(ETA)])
def test_the_network_stays_as_it_is(setting, estimator):
    before = copy.deepcopy(setting.network.eval().state_dict())
    setting.estimate(estimator)
    assert not setting.network.training
    assert all(torch.equal(t, before[n]) for n, t in setting.network.state_dict().items())
    assert all(p.grad is None for p in setting.network.parameters())
    setting.network.train()


def test_the_outer_loss_knows_no_transformation(setting):
    problem, others = setting.problem, {n: h + 1 for n, h in setting.hyper.items()}
    hypers = (setting.hyper, others)
    assert torch.equal(*(problem.outer_loss(setting.params, h, setting.unseen) for h in hypers))
    inner = [problem.inner_loss(setting.params, h, setting.seen) for h in hypers]
    assert not torch.allclose(*inner)


@pytest.fixture
def drawn(monkeypatch):
    """Noise drawn from torch's generator, collected as it is drawn."""
    found = []
    monkeypatch.setattr(
        models, "channel_noise", lambda t: found.append(torch.randn_like(t)) or found[-1]
    )
    return found


@pytest.mark.parametrize("common", [False, True])
def test_every_candidate_has_noise_of_its_own_unless_it_is_common(setting, drawn, common):
    estimator = Config(method="lft_evograd").make_estimator(1e-3, common_noise=common)
    assert estimator.common_noise == common
    setting.estimate(replace(estimator, num_candidates=3))
    per_forward = len(setting.hyper)
    first = [drawn[i][0].item() for i in range(0, 3 * per_forward, per_forward)]
    assert len(set(first)) == (1 if common else 3)
