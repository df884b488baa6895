"""Hypergradients on a small ResNet with batch norm, in float64, against explicit computations."""

import copy

import pytest
import torch
from torch.nn import functional as F

from common.hypergrad import T1T2, EvoGrad, FiniteDifference, HigherT1T2, T1T2Forward
from metaweightnet.data import Batch
from metaweightnet.models import ResNet, VNet
from metaweightnet.train import MetaWeightProblem, normalised
from tests.common.hypergrad.problems import EVOGRADS
from tests.experiments import assert_equal

ETA = 0.1


class Setting:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network, self.vnet = ResNet(8).double(), VNet(20).double()
        self.problem = MetaWeightProblem(self.network, self.vnet)
        self.params = dict(self.network.named_parameters())
        self.hyper = dict(self.vnet.named_parameters())
        self.train = Batch(torch.randn(7, 3, 16, 16).double(), torch.randint(10, (7,)))
        self.meta = Batch(torch.randn(6, 3, 16, 16).double(), torch.randint(10, (6,)))

    def estimate(self, estimator, **keywords):
        return estimator(self.problem, self.params, self.hyper, self.train, self.meta, **keywords)

    def network_at(self, params) -> ResNet:
        """An ordinary module with these parameters, in training mode."""
        network = copy.deepcopy(self.network).train()
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(params[name])
        return network

    def weights(self, losses, vnet):
        weights = vnet(losses.detach())
        return weights / weights.sum()

    def outer_gradient(self, params) -> torch.Tensor:
        """dL_V/dtheta as one vector, by an ordinary backward."""
        network = self.network_at(params)
        F.cross_entropy(network(self.meta[0]), self.meta[1]).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    def t1t2(self) -> dict[str, torch.Tensor]:
        """-eta sum_i dw_i/dlambda <v, dl_i/dtheta>, with the gradient of every sample's loss
        taken on its own."""
        network = self.network_at(self.params)
        losses = F.cross_entropy(network(self.train[0]), self.train[1], reduction="none")
        rows = []
        for loss in losses:
            grads = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in grads]))
        jacobian = torch.stack(rows)
        inner_gradient = self.weights(losses, self.vnet).detach() @ jacobian
        moved, position = {}, 0
        for name, p in self.params.items():
            step = inner_gradient[position : position + p.numel()].view_as(p)
            moved[name] = p.detach() - ETA * step
            position += p.numel()
        products = jacobian @ self.outer_gradient(moved)
        vnet = copy.deepcopy(self.vnet)
        (-ETA * (self.weights(losses, vnet) @ products.detach())).backward()
        return {name: p.grad for name, p in vnet.named_parameters()}

    def evograd(self, noise, temperature) -> dict[str, torch.Tensor]:
        """d/dlambda sum_k w_k <g, theta_k>, g = dL_V/dtheta at the merged parameters."""
        vnet, losses, candidates = copy.deepcopy(self.vnet), [], []
        for k in range(2):
            candidate = {n: p.detach() + noise[n][k] for n, p in self.params.items()}
            network = self.network_at(candidate)
            loss = F.cross_entropy(network(self.train[0]), self.train[1], reduction="none")
            losses.append((self.weights(loss, vnet) * loss.detach()).sum())
            candidates.append(candidate)
        w = torch.softmax(-torch.stack(losses) / temperature, 0)
        merged = {n: sum(w[k].detach() * candidates[k][n] for k in range(2)) for n in self.params}
        g = self.outer_gradient(merged)
        vectors = [torch.cat([t.flatten() for t in c.values()]) for c in candidates]
        sum(w[k] * (g @ vectors[k]) for k in range(2)).backward()
        return {name: p.grad for name, p in vnet.named_parameters()}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.mark.parametrize("estimator", [T1T2(ETA), HigherT1T2(ETA), T1T2Forward(lambda: ETA)])
def test_exact_methods_equal_the_sum_over_samples(setting, estimator):
    """Also with the losses that the weight net sees held at those of the parameters."""
    held = setting.problem.held(setting.params, setting.train)
    for batch in (setting.train, held):
        found = estimator(setting.problem, setting.params, setting.hyper, batch, setting.meta)
        assert_equal(found.grads, setting.t1t2(), rtol=1e-7)


def test_finite_difference_approaches_it_while_the_weight_net_sees_the_same_losses(setting):
    held = setting.problem.held(setting.params, setting.train)

    def error(batch):
        finite = FiniteDifference(ETA, radius=1e-6)
        found = finite(setting.problem, setting.params, setting.hyper, batch, setting.meta).grads
        difference = sum(((found[n] - exact[n]) ** 2).sum() for n in exact)
        return (difference / sum((t**2).sum() for t in exact.values())).sqrt()

    exact = setting.t1t2()
    assert error(held) < 1e-4
    assert error(setting.train) > 0.1  # else it differentiates what T1-T2 holds constant


@pytest.mark.parametrize("mode", EVOGRADS)
def test_evograd_equals_the_chain_rule_on_copied_networks(setting, mode):
    g = torch.Generator().manual_seed(4)
    noise = {
        n: 1e-3 * torch.randn(2, *p.shape, generator=g, dtype=p.dtype).sign()
        for n, p in setting.params.items()
    }
    found = setting.estimate(EVOGRADS[mode](temperature=0.05), noise=noise).grads
    assert_equal(found, setting.evograd(noise, 0.05), rtol=1e-7)


@pytest.mark.parametrize(
    "estimator",
    [EvoGrad(), EVOGRADS["forward"](), T1T2(ETA), T1T2Forward(ETA), FiniteDifference(ETA)],
)
def test_running_statistics_and_parameters_stay_as_they_are(setting, estimator):
    before = copy.deepcopy(setting.network.state_dict())
    first = setting.estimate(estimator, generator=torch.Generator().manual_seed(1))
    for name, value in setting.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in setting.network.parameters())
    # Nor does anything else stay behind that a second call would see.
    again = setting.estimate(estimator, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(first.grads[n], again.grads[n]) for n in first.grads)


def test_weights_sum_to_one_and_a_sum_of_zero_leaves_them_as_they_are(setting):
    weights = torch.rand(100)
    torch.testing.assert_close(normalised(weights), weights / weights.sum())
    zero = torch.zeros(5, requires_grad=True)
    normalised(zero).sum().backward()
    assert torch.equal(normalised(zero), torch.zeros(5))
    assert torch.isfinite(zero.grad).all()
    # A weight net at the end of its sigmoid: exp(-1000) is 0.
    hyper = {n: p.detach().clone() for n, p in setting.hyper.items()}
    hyper["fc2.bias"].fill_(-1000)
    assert setting.problem.inner_loss(setting.params, hyper, setting.train) == 0
    for estimator in (EvoGrad(), T1T2(ETA), T1T2Forward(ETA)):
        result = estimator(setting.problem, setting.params, hyper, setting.train, setting.meta)
        assert all(torch.isfinite(g).all() for g in result.grads.values())
