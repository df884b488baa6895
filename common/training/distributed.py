"""Hypergradients on several processes: EvoGrad's candidates spread over them, batches shared."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.hypergrad import BilevelProblem, Estimate, Estimator, EvoGrad, Point, Tensors
from common.hypergrad.base import GivenAnchor
from common.hypergrad.candidates import Candidates, coefficients_of, softmax_weights
from common.hypergrad.evograd import weighted_sum
from common.hypergrad.problem import added, flat, outer_step, split_like, zeros_for_none
from common.training.processes import Copied, Summed, count, rank, sharing, whole_sum


def over_processes(
    estimator: Estimator, problem: BilevelProblem
) -> tuple[Estimator, BilevelProblem]:
    """An estimator and a problem that together give, on several processes, what the given ones give
    on one, up to rounding; the given ones themselves where there is one process.

    EvoGrad (mode streaming): its candidates are spread over the processes. Every other estimator,
    and EvoGrad in its other modes: the losses are taken over shared batches, with derivatives that
    are those of the whole batch to any order, so products of averages (the two gradients that
    T1-T2 multiplies) are products of the whole batch's, and nothing need be refused.
    """
    if count() == 1:
        return estimator, problem
    if isinstance(estimator, EvoGrad) and estimator.mode == "streaming":
        return EvoGradOverProcesses(**vars(estimator)), problem
    return estimator, SharedProblem(problem)


class SharedProblem:
    """The losses of a problem over whole batches, each process computing its part.

    The losses must be means over samples, or weighted means whose weights are normalised by
    ``share_of_sum``. Every derivative by theta exchanges a vector of theta's size.
    """

    def __init__(self, problem: BilevelProblem) -> None:
        self.problem = problem

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        return self._whole(self.problem.inner_loss, params, hyper, batch)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        return self._whole(self.problem.outer_loss, params, hyper, batch)

    @staticmethod
    def _whole(loss: Any, params: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        with sharing(batch) as (part, share):
            return Summed.apply(share * loss(_copied(params), _copied(hyper), part))[0]


def _copied(tensors: Tensors) -> dict[str, Tensor]:
    return dict(zip(tensors, Copied.apply(*tensors.values()), strict=True))


class EvoGradOverProcesses(EvoGrad):
    """EvoGrad with candidate k on process k mod W, and the outer batch shared by all W.

    Every process regenerates all perturbations from their seeds, and theta* with them. Exchanged
    are the K losses; the K slopes <g, eps_k> with L_V; and one vector of lambda's size: no
    parameters, no perturbations, no gradients by theta. With fewer candidates than processes, the
    others have only their part of the outer batch to do.
    """

    def _by_terms(self, at: Point, candidates: Candidates, anchor: GivenAnchor) -> Estimate:
        count_all, like = self.num_candidates, next(iter(candidates.theta.values()))
        own = list(range(rank(), count_all, count()))
        losses = like.new_zeros(count_all, dtype=torch.float64)
        pairs = [candidates.loss_gradient(k, anchor) for k in own]
        for k, (loss, _) in zip(own, pairs, strict=True):
            losses[k] = loss
        losses = whole_sum(losses).to(torch.promote_types(like.dtype, torch.float32))
        weights = softmax_weights(losses, self.temperature)

        def part_of_outer_loss(theta: Tensors, hyper: Tensors) -> Tensor:
            with sharing(at.outer_batch) as (part, share):
                seed = at.seeds.outer
                return share * at.evaluate(at.problem.outer_loss, seed, theta, hyper, part)

        merged = candidates.merged(weights)
        outer_loss, by_name, direct = outer_step(part_of_outer_loss, merged, at.hyper)
        g = flat(by_name)
        slopes = [g @ candidates.epsilon(k) for k in range(count_all)]
        numbers = whole_sum(torch.stack([*slopes, outer_loss.to(g.dtype)]))
        slope, outer_loss = numbers[:-1], numbers[-1].to(outer_loss.dtype)
        coefficients = coefficients_of(weights, slope, self.temperature)
        found: Mapping[str, Tensor | None] = dict.fromkeys(at.hyper_values)
        if own:
            found = weighted_sum(coefficients[own], [grads for _, grads in pairs])
        part = zeros_for_none(found, at.hyper_values)
        if direct is not None:
            part = added(part, direct)
        total = split_like(whole_sum(flat(part)), part)
        diagnostics = {"losses": losses, "weights": weights, "coefficients": coefficients}
        return Estimate(outer_loss, total, None, diagnostics)
