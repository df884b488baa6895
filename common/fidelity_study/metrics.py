"""What theory predicts of how close estimates of a hypergradient get to the exact one.

Notation: e the exact one-step hypergradient of step eta, x an estimate of expected step eta_eff,
rho = eta_eff / eta the ratio of the sizes that is expected; g = dL_V/dtheta, M the (H, P) matrix
d2L_T/(dlambda dtheta), n = K - 1.
"""

import math

import torch

from common.hypergrad.problem import BilevelProblem, Tensors, gradients, leaves


def effective_dimension(
    problem: BilevelProblem,
    params: Tensors,
    hyper: Tensors,
    inner_batch: object,
    outer_batch: object,
    probes: int,
    generator: torch.Generator,
) -> float:
    """D = |M|_F^2 |g|^2 / |M g|^2, which decides the noise of random candidates.

    D lies between 1 and, if M and g are unrelated, about P. |M|_F^2 = E|M' z|^2 over random signs
    z, from ``probes`` of them (exact with one for a single hyperparameter); M g likewise by double
    backward. g at theta.
    """
    theta, lambda_ = leaves(params), leaves(hyper)
    loss = problem.inner_loss(theta, lambda_, inner_batch)
    inner = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    start = leaves(params)
    g = gradients(problem.outer_loss(start, lambda_, outer_batch), start)
    # M' z is the derivative by theta of <z, dL_T/dlambda>; M g that of <g, dL_T/dtheta> by lambda.
    product = gradients(list(inner), lambda_, list(g.values()))
    by_lambda = gradients(
        problem.inner_loss(theta, lambda_, inner_batch), lambda_, create_graph=True
    )
    squares = 0.0
    count = 1 if sum(h.numel() for h in hyper.values()) == 1 else probes
    for probe in range(count):
        products = [
            (h * (torch.randint(2, h.shape, generator=generator).to(h) * 2 - 1)).sum()
            for h in by_lambda.values()
        ]
        weighted = torch.stack(products).sum()
        rows = torch.autograd.grad(
            weighted, list(theta.values()), retain_graph=probe + 1 < count, allow_unused=True
        )
        squares += sum(row.square().sum().item() for row in rows if row is not None) / count
    g_squared = sum(grad.square().sum().item() for grad in g.values())
    return squares * g_squared / sum(p.square().sum().item() for p in product.values())


def predicted(dimension: float, candidates: int, expected_ratio: float) -> dict[str, float]:
    """What the effective dimension D says of EvoGrad's estimate for small sigma.

    cosine: 1 / sqrt(1 + (D + 1) / n): E<x, e> / (|e| sqrt(E|x|^2)), about the mean cosine.

    norm_ratio: root mean square of |x| / |e|, rho sqrt(1 + (D + 1) / n). The estimate is M S g /
    tau with S the (biased) sample covariance of the candidates, sigma^2 / K times a Wishart matrix
    W of n degrees of freedom, for which E[W A W] = n^2 A + n (tr(A) I + A). Exact for Gaussian
    candidates, near for signs; e with g at theta.

    sign_agreement: chance that a single hyperparameter's estimate has the right sign. The estimate
    is a sum of n products a b of normal variables with correlation r = 1 / sqrt(D), positive with
    chance I_{(1 + r) / 2}(n / 2, n / 2), the regularised incomplete beta function; for K = 2 that
    is 1 - arccos(r) / pi, about 1/2 + r / pi.
    """
    from scipy.special import betainc

    spread, half = math.sqrt(1 + (dimension + 1) / (candidates - 1)), (candidates - 1) / 2
    chance = betainc(half, half, (1 + 1 / math.sqrt(max(dimension, 1.0))) / 2)
    return {
        "cosine": 1 / spread,
        "sign_agreement": float(chance),
        "norm_ratio": expected_ratio * spread,
    }
