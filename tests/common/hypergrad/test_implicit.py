"""The implicit function theorem against dense linear algebra and the optimum itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from common.hypergrad import ImplicitCG, Neumann, Unrolled
from common.hypergrad.implicit import conjugate_gradient
from tests.common.hypergrad.problems import PartOf, Quadratic, central_differences

sizes = st.sampled_from([4, 6, 10])
seeds = st.integers(0, 2**31)


@settings(max_examples=25, deadline=None)
@given(
    size=sizes,
    hypers=st.integers(1, 4),
    damping=st.sampled_from([0.0, 0.3, 10.0]),
    direct=st.booleans(),
    at_optimum=st.booleans(),
    seed=seeds,
)
def test_cg_with_as_many_iterations_as_parameters_is_the_dense_solve(
    size, hypers, damping, direct, at_optimum, seed
):
    problem = Quadratic(size, hypers, seed, direct, convex=True)
    params = problem.optimum() if at_optimum else problem.params
    result = ImplicitCG(size, damping)(problem, params, problem.hyper, None, None)
    expected = problem.implicit_hypergradient(params, damping)
    assert (result.grads["la"] - expected).norm() < 1e-8 * (expected.norm() + 1)
    assert (result.diagnostics["inner_grad_norm"] < 1e-9) == at_optimum
    assert not result.diagnostics["negative_curvature"]


def test_a_warm_start_goes_on_from_the_earlier_solution():
    """Neumann's 3 and 4 terms are its 7; CG's few iterations, call after call, the dense solve."""
    problem = Quadratic(10, convex=True)
    whole, result = problem.run(Neumann(0.1, 7)), None
    for terms in (3, 4):
        result = problem.run(Neumann(0.1, terms), warm=result)
    torch.testing.assert_close(result.grads, whole.grads, rtol=1e-12, atol=1e-12)

    expected = problem.implicit_hypergradient(problem.params, 0.1)
    errors, result = [], None
    for _ in range(15):
        result = problem.run(ImplicitCG(2, damping=0.1), warm=result)
        errors.append((result.grads["la"] - expected).norm().item() / expected.norm().item())
    assert errors[0] > 1e-2 and errors[-1] < 1e-6
    last = result.diagnostics
    assert problem.run(ImplicitCG(9, 0.1, 1e-3), warm=result).diagnostics["iterations"] == 0
    torch.testing.assert_close(last["solution"].shape, torch.Size([10]))
    with pytest.raises(ValueError, match="warm is a result at other parameters"):
        Quadratic(6, convex=True).run(ImplicitCG(2), warm=result)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 12), iterations=st.integers(1, 12), seed=seeds)
def test_each_cg_iterate_is_the_best_in_its_krylov_space(size, iterations, seed):
    """In the norm of the matrix, which defines the method: a wrong beta or alpha misses it."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    matrix = root @ root.T / size + torch.eye(size, dtype=torch.float64)
    target = torch.randn(size, generator=g, dtype=torch.float64)
    found = conjugate_gradient(matrix.mv, target, iterations, tolerance=0.0)

    space = [target / target.norm()]
    while len(space) < min(iterations, size):
        fresh = matrix @ space[-1]
        for _ in range(2):  # orthogonalised twice: once is not enough in rounding
            for base in space:
                fresh = fresh - (base @ fresh) * base
        space.append(fresh / fresh.norm())
    basis = torch.stack(space, dim=1)
    best = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ target)
    assert (found.x - best).norm() < 1e-8 * best.norm()
    residual = (target - matrix @ found.x).norm() / target.norm()
    assert found.residual == pytest.approx(residual.item(), abs=1e-9)


def test_cg_stops_at_the_tolerance():
    matrix = torch.diag(torch.linspace(1, 10, 50, dtype=torch.float64))
    target = torch.ones(50, dtype=torch.float64)
    products = []

    def product(p):
        products.append(p)
        return matrix @ p

    found = conjugate_gradient(product, target, 50, tolerance=1e-3)
    assert found.iterations == len(products) < 25
    assert (target - matrix @ found.x).norm() <= 1e-3 * target.norm()
    before = conjugate_gradient(product, target, found.iterations - 1, tolerance=0.0)
    assert (target - matrix @ before.x).norm() > 1e-3 * target.norm()
    # One eigenvalue needs one iteration.
    assert conjugate_gradient(lambda p: 2 * p, target, 50, tolerance=1e-12).iterations == 1


@settings(max_examples=25, deadline=None)
@given(size=sizes, terms=st.integers(1, 12), eta=st.floats(1e-3, 0.2), seed=seeds)
def test_neumann_is_the_partial_sum(size, terms, eta, seed):
    """eta sum_{j < terms} (I - eta H)^j = H^-1 (I - (I - eta H)^terms)."""
    problem = Quadratic(size, seed=seed, convex=True)
    result = problem.run(Neumann(eta, terms))
    theta = problem.vector(problem.params)
    identity = torch.eye(size, dtype=torch.float64)
    power = torch.linalg.matrix_power(identity - eta * problem.hessian(), terms)
    x = torch.linalg.solve(problem.hessian(), (identity - power) @ (theta - problem.t))
    expected = -x @ problem.mixed(theta) + problem.direct()
    assert (result.grads["la"] - expected).norm() < 1e-9 * (expected.norm() + 1)
    last = eta * torch.linalg.matrix_power(identity - eta * problem.hessian(), terms - 1)
    ratio = (last @ (theta - problem.t)).norm() / x.norm()
    assert result.diagnostics["last_term_norm"] == pytest.approx(ratio.item(), rel=1e-6)


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_neumann_at_the_optimum_is_unrolled(terms):
    """SGD stays where it is there, and each step adds a term."""
    problem = Quadratic(convex=True)
    params = problem.optimum()
    series = Neumann(0.05, terms)(problem, params, problem.hyper, None, None)
    steps = Unrolled(0.05, terms)(problem, params, problem.hyper, [None] * terms, None)
    torch.testing.assert_close(series.grads["la"], steps.grads["la"], rtol=1e-10, atol=1e-12)


def test_at_the_optimum_it_is_the_derivative_of_the_outer_loss_there():
    """A central difference of L_V(theta*(lambda), lambda), theta* from a dense solve."""
    problem = Quadratic(convex=True)
    result = ImplicitCG(6)(problem, problem.optimum(), problem.hyper, None, None)

    def outer_loss_at_the_optimum(hyper):
        moved = Quadratic(convex=True)
        moved.hyper = hyper
        return moved.outer_loss(moved.optimum(), hyper).item()

    expected = central_differences(outer_loss_at_the_optimum, problem.hyper)
    torch.testing.assert_close(result.grads, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("where", ["inside", "direct"])
def test_on_a_network_with_batch_norm(where):
    """H, the mixed derivative and v as dense matrices, column by column."""
    problem = PartOf(where, ["0.weight", "1.weight", "1.bias"])
    values, hypers = list(problem.params.values()), list(problem.hyper.values())
    (name,) = problem.hyper

    def gradient(*tensors):
        params = dict(zip(problem.params, tensors[:-1], strict=True))
        loss = problem.inner_loss(params, {name: tensors[-1]}, problem.inner_batch)
        found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return torch.cat([f.reshape(-1) for f in found])

    *blocks, mixed = jacobian(gradient, (*values, *hypers))
    hessian = torch.cat([b.reshape(len(b), -1) for b in blocks], dim=1)
    mixed = mixed.reshape(len(hessian), -1)
    v, direct = (
        jacobian(
            lambda *tensors: problem.outer_loss(
                dict(zip(problem.params, tensors[:-1], strict=True)),
                {name: tensors[-1]},
                problem.outer_batch,
            ),
            (*values, *hypers),
        )[:-1],
        torch.zeros(hypers[0].numel(), dtype=torch.float64),
    )
    if where == "direct":
        direct = jacobian(
            lambda h: problem.outer_loss(problem.params, {name: h}, problem.outer_batch),
            hypers[0],
        ).reshape(-1)
    v = torch.cat([t.reshape(-1) for t in v])

    damping = 0.1 - torch.linalg.eigvalsh(hessian)[0].clamp_max(0).item()
    matrix = hessian + damping * torch.eye(len(hessian), dtype=torch.float64)
    expected = -torch.linalg.solve(matrix, v) @ mixed + direct
    result = problem.run(ImplicitCG(200, damping, tolerance=1e-12))
    assert (result.grads[name].reshape(-1) - expected).norm() < 1e-8 * expected.norm()
    assert result.diagnostics["iterations"] < 200

    series = sum(
        0.1 * torch.linalg.matrix_power(torch.eye(len(hessian)).double() - 0.1 * hessian, j) @ v
        for j in range(4)
    )
    result = problem.run(Neumann(0.1, 4))
    expected = -series @ mixed + direct
    assert (result.grads[name].reshape(-1) - expected).norm() < 1e-10 * expected.norm()


class Diagonal:
    """L_T = 1/2 th' diag(h) th + la sum(th),  L_V = v . th."""

    def __init__(self, h: list[float], v: list[float]) -> None:
        self.h, self.v = (torch.tensor(x, dtype=torch.float64) for x in (h, v))
        self.params = {"w": torch.zeros(len(h), dtype=torch.float64)}
        self.hyper = {"la": torch.ones((), dtype=torch.float64)}

    def inner_loss(self, params, hyper, batch):
        return 0.5 * params["w"] @ (self.h * params["w"]) + hyper["la"] * params["w"].sum()

    def outer_loss(self, params, hyper, batch):
        return self.v @ params["w"]

    def run(self, estimator):
        return estimator(self, self.params, self.hyper, None, None)


def test_negative_curvature_is_refused_or_reported():
    with pytest.raises(ValueError, match="damping"):
        Diagonal([-1.0, 1.0], [1.0, 0.0]).run(ImplicitCG(5))
    mixed = Diagonal([4.0, -0.1], [1.0, 1.0])
    result = mixed.run(ImplicitCG(5))
    assert result.diagnostics["negative_curvature"]
    assert result.diagnostics["residual_norm"] > 0.1
    # The one step that was taken: x = (v.v / v.Hv) v.
    assert result.grads["la"].item() == pytest.approx(-2 * 2 / 3.9)
    damped = mixed.run(ImplicitCG(5, damping=0.2))
    assert not damped.diagnostics["negative_curvature"]
    assert damped.grads["la"].item() == pytest.approx(-(1 / 4.2 + 1 / 0.1))


def test_a_gradient_that_is_no_number_is_not_taken_for_zero():
    problem = Diagonal([1.0, 2.0], [float("nan"), 1.0])
    with pytest.raises(ValueError, match="not finite"):
        problem.run(ImplicitCG(5))
    assert problem.run(Neumann(0.1, 5, check_finite=False)).grads["la"].isnan()
