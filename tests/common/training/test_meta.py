"""The meta step and what a checkpoint holds of it."""

import copy

import pytest
import torch

from common.hypergrad import T1T2
from common.training import Best, MetaStep, new_generator, restore, state_of


class Quadratic:
    """L_T = |theta - lambda|^2 / 2, L_V = |theta|^2 / 2: one step of size eta gives
    theta' = theta - eta (theta - lambda), so dL_V/dlambda = eta theta'."""

    def inner_loss(self, params, hyper, batch):
        return (params["theta"] - hyper["lambda"]).square().sum() / 2

    def outer_loss(self, params, hyper, batch):
        return params["theta"].square().sum() / 2


def meta_step(lr: float = 0.5) -> MetaStep:
    hyper = {"lambda": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    optimizer = torch.optim.SGD(list(hyper.values()), lr, momentum=0.9)
    return MetaStep(T1T2(0.1), Quadratic(), hyper, optimizer, new_generator(1, "perturbations"))


def test_a_meta_step_follows_the_closed_form():
    meta, theta = meta_step(), torch.tensor([3.0, 4.0], dtype=torch.float64)
    lam = meta.hyper["lambda"].clone()
    theta_next = theta - 0.1 * (theta - lam)
    metrics = meta({"theta": theta}, None, None, factor=-2.0)
    grad = -2.0 * 0.1 * theta_next
    torch.testing.assert_close(meta.hyper["lambda"], lam - 0.5 * grad)
    torch.testing.assert_close(metrics["hypergradient_norm"], grad.norm())
    torch.testing.assert_close(metrics["meta_loss"], theta_next.square().sum() / 2)
    assert meta.moved == pytest.approx(0.5 * grad.norm().item())
    assert meta.hyper["lambda"].grad is None


def test_a_restored_meta_step_goes_on_with_the_same_numbers():
    first, second = meta_step(), meta_step()
    theta = {"theta": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    first(theta, None, None)
    restore(second.state, copy.deepcopy(state_of(first.state)))
    for meta in (first, second):
        meta(theta, None, None)
    assert torch.equal(first.hyper["lambda"], second.hyper["lambda"])
    assert first.moved == second.moved
    assert torch.equal(first.generator.get_state(), second.generator.get_state())


@pytest.mark.parametrize(
    "saved", [{"a": torch.zeros(3)}, {"b": torch.zeros(2)}, {}, {"a": torch.zeros(1)}]
)
def test_the_state_of_something_else_is_refused(saved):
    with pytest.raises(ValueError, match="not"):
        restore({"a": torch.zeros(2)}, saved)


def test_the_first_of_equal_values_is_the_best():
    best, kept = Best(), {"x": 1}
    assert best.offer(0.0, kept) == {"x": 1}
    kept["x"] = 2  # it holds a copy
    assert best.offer(0.0, {"x": 3}) == {"x": 1}
    assert best.offer(0.5, {"x": 4}) == {"x": 4}
    again = Best()
    again.load_state_dict(best.state_dict())
    assert again.offer(0.4, None) == {"x": 4}
