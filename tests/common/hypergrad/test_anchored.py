"""A base step that hands over its loss at theta, where one of the candidates lies."""

import pytest
import torch

from common.hypergrad import (
    Anchor,
    AnchoredEvoGrad,
    AnchoredEvoGradDifferences,
    EvoGradAlongGradient,
)
from tests.common.hypergrad.problems import Network, seeded

SHARING = {
    "backward": lambda: AnchoredEvoGrad(3),
    "differences": lambda: AnchoredEvoGradDifferences(2),
    "one-sided": lambda: EvoGradAlongGradient(one_sided=True),
}


@pytest.mark.parametrize("where", ["inside", "loss", "direct"])
@pytest.mark.parametrize("name", SHARING)
def test_a_base_step_that_hands_over_its_loss_gives_the_same_number(name, where):
    """With dropout: the base step's masks are those of the candidates. One forward is saved."""
    problem, estimator = Network(where), SHARING[name]()
    inner_loss, calls = problem.inner_loss, []
    problem.inner_loss = lambda *args: calls.append(1) or inner_loss(*args)

    def base_step() -> Anchor:
        hyper = {n: h.detach().requires_grad_() for n, h in problem.hyper.items()}
        params = {n: p.detach().requires_grad_() for n, p in problem.params.items()}
        loss = inner_loss(params, hyper, problem.inner_batch)
        grads = torch.autograd.grad(loss, [*params.values(), *hyper.values()])
        return Anchor(loss.detach(), dict(zip(hyper, grads[len(params) :], strict=True)))

    estimator(*problem.arguments(), generator=seeded(2))  # which also examines the problem
    calls.clear()
    expected = estimator(*problem.arguments(), generator=seeded(2))
    unshared = len(calls)
    found = estimator(*problem.arguments(), generator=seeded(2), anchor=base_step)
    assert len(calls) == 2 * unshared - 1
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.outer_loss, expected.outer_loss)


def test_candidates_on_both_sides_refuse_the_base_steps_loss():
    anchor = Anchor(torch.zeros(()), {})
    with pytest.raises(ValueError, match="one_sided=True"):
        EvoGradAlongGradient()(*Network("loss").arguments(), anchor=anchor)
