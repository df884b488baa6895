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
from tests.common.hypergrad.problems import EVOGRADS
from tests.experiments import peak

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

    def after_inner_step(self, hyper) -> dict[str, torch.Tensor]:
        """theta - eta dL_T/dtheta at these hyperparameters."""
        grads = self.gradient(self.seen, True, list(self.params), hyper)[1]
        return {n: p.detach() - ETA * grads[n] for n, p in self.params.items()}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.fixture(autouse=True)
def frozen_noise(monkeypatch):
    """The same noise in every forward pass: a fixed function of the channels."""

    def noise(theta):
        return torch.linspace(-1.5, 1.2, len(theta)).cos().mul(1.3).to(theta)

    monkeypatch.setattr(models, "channel_noise", noise)


def directions(hyper, count=3):
    g = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield {n: torch.randn(h.shape, generator=g).double() for n, h in hyper.items()}


def flat(tensors) -> torch.Tensor:
    return torch.cat(list(tensors.values()))


def slope(grads, direction) -> float:
    return sum((grads[n] * direction[n]).sum() for n in direction).item()


@pytest.mark.parametrize("estimator", [T1T2(ETA), HigherT1T2(ETA)])
def test_t1t2_is_the_slope_of_the_outer_loss_after_the_inner_step(setting, estimator):
    """Against a central difference of L_V(theta - eta dL_T/dtheta(lambda)) in lambda."""
    grads = setting.estimate(estimator).grads
    assert set(grads) == set(setting.hyper)
    step = 1e-7
    for direction in directions(setting.hyper):
        values = []
        for sign in (1, -1):
            hyper = {n: h + sign * step * direction[n] for n, h in setting.hyper.items()}
            theta = setting.after_inner_step(hyper)
            values.append(setting.loss(setting.unseen, False, theta)[0].item())
        expected = (values[0] - values[1]) / (2 * step)
        assert expected != 0
        assert slope(grads, direction) == pytest.approx(expected, rel=1e-4)


def test_finite_difference_is_the_difference_of_two_gradients(setting):
    radius = 1e-3
    theta = setting.after_inner_step({})
    names = list(setting.params)
    _, v = setting.gradient(setting.unseen, False, names, theta)
    length = torch.sqrt(sum((t**2).sum() for t in v.values()))
    sides = []
    for sign in (1, -1):
        at = {n: setting.params[n].detach() + sign * radius * v[n] / length for n in names}
        sides.append(setting.gradient(setting.seen, True, list(setting.hyper), at)[1])
    found = setting.estimate(FiniteDifference(ETA, radius)).grads
    for n in setting.hyper:
        expected = -ETA * length * (sides[0][n] - sides[1][n]) / (2 * radius)
        torch.testing.assert_close(found[n], expected, rtol=1e-6, atol=1e-12)
    # It meets what it approximates once no kink of a ReLU lies between the two points.
    exact = flat(setting.estimate(T1T2(ETA)).grads)
    near = flat(setting.estimate(FiniteDifference(ETA, 1e-7)).grads)
    assert (near - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("mode", EVOGRADS)
@pytest.mark.parametrize("count", [2, 3])
def test_evograd_is_its_definition(setting, mode, count):
    """sum_k <g, theta_k> dw_k/dlambda, candidate by candidate, g at the merged parameters."""
    temperature, g = 0.05, torch.Generator().manual_seed(5)
    noise = {
        n: 1e-3 * torch.randn(count, *p.shape, generator=g).sign().double()
        for n, p in setting.params.items()
    }
    losses, loss_grads, candidates = [], [], []
    for k in range(count):
        candidate = {n: p.detach() + noise[n][k] for n, p in setting.params.items()}
        loss, grads = setting.gradient(setting.seen, True, list(setting.hyper), candidate)
        losses.append(loss)
        loss_grads.append(grads)
        candidates.append(candidate)
    w = torch.softmax(-torch.stack(losses) / temperature, 0)
    names = list(setting.params)
    merged = {n: sum(w[k] * candidates[k][n] for k in range(count)) for n in names}
    outer_loss, g_outer = setting.gradient(setting.unseen, False, names, merged)
    dots = [sum((g_outer[n] * candidates[k][n]).sum() for n in names) for k in range(count)]
    found = setting.estimate(EVOGRADS[mode](count, 1e-3, temperature), noise=noise)
    for n in setting.hyper:
        mean = sum(w[k] * loss_grads[k][n] for k in range(count))
        expected = sum(
            dots[k] * -w[k] / temperature * (loss_grads[k][n] - mean) for k in range(count)
        )
        torch.testing.assert_close(found.grads[n], expected, rtol=1e-6, atol=1e-13)
    assert found.outer_loss.item() == pytest.approx(outer_loss.item())


@pytest.mark.parametrize("estimator", [EvoGrad(), T1T2(ETA), FiniteDifference(ETA)])
def test_the_network_stays_as_it_is(setting, estimator):
    before = copy.deepcopy(setting.network.state_dict())
    setting.network.eval()
    setting.estimate(estimator)
    assert not setting.network.training
    for name, tensor in setting.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in setting.network.parameters())
    setting.network.train()


def test_the_outer_loss_knows_no_transformation(setting):
    other = {n: h + 1 for n, h in setting.hyper.items()}
    losses = [
        setting.problem.outer_loss(setting.params, hyper, setting.unseen)
        for hyper in (setting.hyper, other)
    ]
    assert torch.equal(*losses)
    inner = [
        setting.problem.inner_loss(setting.params, hyper, setting.seen)
        for hyper in (setting.hyper, other)
    ]
    assert not torch.allclose(*inner)


@pytest.fixture
def drawn(monkeypatch):
    """Noise drawn from torch's generator, collected as it is drawn."""
    found = []

    def recorded(theta):
        found.append(torch.randn_like(theta))
        return found[-1]

    monkeypatch.setattr(models, "channel_noise", recorded)
    return found


def test_the_noise_is_replayed_within_a_hypergradient(setting, drawn):
    """Without frozen noise: every forward of one hypergradient draws the same, the next anew."""
    per_forward = len(setting.hyper)
    setting.estimate(EvoGrad(3))  # the first one checks the problem by a further forward
    drawn.clear()
    g = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    for _ in range(2):
        setting.estimate(EvoGrad(3), generator=g)
    assert torch.equal(torch.get_rng_state(), state)
    passes = [drawn[i : i + per_forward] for i in range(0, len(drawn), per_forward)]
    assert len(passes) == 6
    same = [all(map(torch.equal, passes[0], other)) for other in passes]
    assert same == [True] * 3 + [False] * 3
    assert all(map(torch.equal, passes[3], passes[5]))


@pytest.mark.parametrize("common", [False, True])
def test_every_candidate_has_noise_of_its_own_unless_it_is_common(setting, drawn, common):
    estimator = Config(method="lft_evograd").make_estimator(1e-3, common_noise=common)
    assert estimator.common_noise == common
    setting.estimate(replace(estimator, num_candidates=3))
    per_forward = len(setting.hyper)
    first = [drawn[i][0].item() for i in range(0, 3 * per_forward, per_forward)]
    assert len(set(first)) == (1 if common else 3)


def test_evograds_memory_does_not_grow_with_the_candidates():
    """Width and images are reduced alike, so that activations outweigh parameters as they do at
    full size."""
    torch.manual_seed(0)
    network = RelationNet(ResNet("resnet10", 8), 112)
    params, hyper = split_parameters(network)
    problem = FeatureTransformProblem(network)
    seen, unseen = (
        Episode(torch.randn(5, 1, 3, 112, 112), torch.randn(5, 2, 3, 112, 112)) for _ in range(2)
    )

    def plain_step():
        loss = problem.outer_loss(params, hyper, seen)
        grads = torch.autograd.grad(loss, list(params.values()))
        return [p - 1e-3 * g for p, g in zip(params.values(), grads, strict=True)]

    def meta_step(estimator):
        return lambda: estimator(problem, params, hyper, seen, unseen)

    plain = peak(plain_step)
    two, eight = (peak(meta_step(EvoGrad(count))) for count in (2, 8))
    lambda_bytes = 4 * sum(h.numel() for h in hyper.values())
    assert abs(two - eight) <= 8 * lambda_bytes < 0.01 * plain
    assert two <= 1.15 * plain
    assert peak(meta_step(T1T2(1e-3))) > 1.5 * plain
    assert peak(meta_step(EVOGRADS["graph"](8))) > 2 * eight
