"""Losses, shared passes and hypergradients in float64, against explicit computations."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.hypergrad import T1T2, EvoGrad, FiniteDifference, HigherT1T2
from common.hypergrad.problem import BatchedCandidates
from metaxl.config import PRESETS
from metaxl.models import Tagger, is_head
from metaxl.problem import MetaXLProblem, SharedEncoderProblem, token_loss
from metaxl.steps import Learner
from metaxl.transformation import Transformation

ETA = 0.1
LAYERS = [(2,), (1,), (0, 2)]


class Setting:
    """A small tagger with a transformation network, and batches."""

    def __init__(self, encoder, sentences, layers=(2,), dropout=True) -> None:
        torch.manual_seed(0)
        self.tagger = Tagger(encoder, 3).double().train(dropout)
        self.transformation = Transformation(8, layers, 4, detach=False).double()
        with torch.no_grad():
            self.tagger.head.weight.normal_()
            for parameter in self.transformation.parameters():
                parameter.normal_(std=0.5)
        self.params = dict(self.tagger.named_parameters())
        self.hyper = dict(self.transformation.named_parameters())
        self.source, self.train, self.meta = sentences(4), sentences(3), sentences(3)
        self.problem = SharedEncoderProblem(self.tagger, self.transformation)

    @property
    def inner_batch(self):
        return self.source, self.train

    def loss(self, tagger, batch, transformation=None):
        """Mean cross-entropy over labelled subwords, by a loop over sentences and subwords."""
        scores = tagger(batch.input_ids, batch.attention_mask, transformation)
        terms = [
            torch.logsumexp(scores[i, j], 0) - scores[i, j, label]
            for i, row in enumerate(batch.labels.tolist())
            for j, label in enumerate(row)
            if label != -100
        ]
        return sum(terms) / len(terms)

    def training_loss(self, tagger, transformation):
        return self.loss(tagger, self.source, transformation) + self.loss(tagger, self.train)

    def tagger_at(self, params):
        tagger = copy.deepcopy(self.tagger)
        with torch.no_grad():
            for name, parameter in tagger.named_parameters():
                parameter.copy_(params[name])
        return tagger

    def estimate(self, estimator, **keywords):
        return estimator(
            self.problem, self.params, self.hyper, self.inner_batch, self.meta, **keywords
        ).grads


@pytest.fixture
def setting(small_encoder, sentences):
    return lambda **options: Setting(small_encoder(), sentences, **options)


def assert_equal(found, expected, rtol=1e-9):
    scale = max(t.abs().max() for t in expected.values()).item()
    assert scale > 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("layers", LAYERS)
def test_losses_are_means_over_labelled_subwords(setting, layers):
    made = setting(layers=layers, dropout=False)
    inner = made.problem.inner_loss(made.params, made.hyper, made.inner_batch)
    torch.testing.assert_close(inner, made.training_loss(made.tagger, made.transformation))
    outer = made.problem.outer_loss(made.params, made.hyper, made.meta)
    torch.testing.assert_close(outer, made.loss(made.tagger, made.meta))


@pytest.mark.parametrize("layers", LAYERS)
def test_hidden_states_given_with_a_batch_change_nothing(setting, layers):
    made = setting(layers=layers, dropout=False)

    def given(batch, depth):
        hidden = made.tagger.encoder(batch.input_ids, batch.attention_mask, stop=depth)
        return replace(batch, hidden=hidden, depth=depth)

    expected = made.problem.inner_loss(made.params, made.hyper, made.inner_batch)
    batch = given(made.source, min(layers)), given(made.train, 2)
    found = made.problem.inner_loss(made.params, made.hyper, batch)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("count", [2, 5])
def test_the_hook_equals_a_loop_over_candidates_with_dropout(setting, layers, count):
    made = setting(layers=layers)
    stacked = {n: p.detach().expand(count, *p.shape) for n, p in made.params.items()}
    for name in ("head.weight", "head.bias"):
        stacked[name] = stacked[name] + torch.randn(stacked[name].shape, dtype=torch.float64)
    assert made.tagger.training and made.tagger.dropout.p == 0.1

    torch.manual_seed(9)
    together = made.problem.inner_losses(stacked, made.hyper, made.inner_batch)
    alone = []
    for k in range(count):
        torch.manual_seed(9)
        candidate = {n: t[k] for n, t in stacked.items()}
        alone.append(made.problem.inner_loss(candidate, made.hyper, made.inner_batch))
    alone = torch.stack(alone)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    assert together.std() > 1e-3

    vector = torch.randn(count, dtype=torch.float64)
    inputs = list(made.hyper.values())
    found = torch.autograd.grad(together, inputs, vector)
    expected = torch.autograd.grad(alone, inputs, vector)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    torch.manual_seed(10)  # other dropout masks, other losses
    other = made.problem.inner_losses(stacked, made.hyper, made.inner_batch)
    assert (other - together).abs().min() > 1e-6


def test_candidates_with_encoders_of_their_own_are_refused(setting):
    made = setting()
    with pytest.raises(ValueError, match="perturb the head only"):
        made.estimate(EvoGrad())
    plain = MetaXLProblem(made.tagger, made.transformation)
    assert isinstance(made.problem, BatchedCandidates)
    assert not isinstance(plain, BatchedCandidates)
    result = EvoGrad()(plain, made.params, made.hyper, made.inner_batch, made.meta)
    assert any(grad.any() for grad in result.grads.values())


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("mode", ["streaming", "graph", "forward"])
def test_evograd_is_the_chain_rule_on_copied_taggers(setting, layers, mode):
    made = setting(layers=layers, dropout=False)
    g = torch.Generator().manual_seed(4)
    noise = {
        n: 1e-2 * torch.randn(2, *p.shape, generator=g, dtype=p.dtype).sign()
        for n, p in made.params.items()
        if is_head(n)
    }
    found = made.estimate(EvoGrad(temperature=0.05, mode=mode, perturb=is_head), noise=noise)

    transformation, losses, candidates = copy.deepcopy(made.transformation), [], []
    for k in range(2):
        candidate = {n: p.detach() + (noise[n][k] if n in noise else 0)
                     for n, p in made.params.items()}  # fmt: skip
        losses.append(made.training_loss(made.tagger_at(candidate), transformation))
        candidates.append(candidate)
    w = torch.softmax(-torch.stack(losses) / 0.05, 0)
    merged = {n: sum(w[k].detach() * candidates[k][n] for k in range(2)) for n in made.params}
    validated = made.tagger_at(merged)
    g = torch.autograd.grad(made.loss(validated, made.meta), list(validated.parameters()))
    products = [
        sum((a * candidate[n]).sum() for a, n in zip(g, made.params, strict=True))
        for candidate in candidates
    ]
    inputs = dict(transformation.named_parameters())
    expected = torch.autograd.grad(w[0] * products[0] + w[1] * products[1], list(inputs.values()))
    assert_equal(found, dict(zip(inputs, expected, strict=True)), rtol=1e-7)


@pytest.mark.parametrize("layers", [(2,), (0, 2)])
def test_t1t2_is_the_derivative_of_the_loss_after_a_step(setting, layers):
    """Against a central difference of L_V(theta - eta dL_T/dtheta) along a direction of lambda."""
    made = setting(layers=layers, dropout=False)
    g = torch.Generator().manual_seed(2)
    direction = {n: torch.randn(h.shape, generator=g, dtype=h.dtype)
                 for n, h in made.hyper.items()}  # fmt: skip

    def loss_after_a_step(amount: float) -> float:
        transformation = copy.deepcopy(made.transformation)
        with torch.no_grad():
            for name, parameter in transformation.named_parameters():
                parameter.add_(direction[name], alpha=amount)
        tagger = copy.deepcopy(made.tagger)
        made.training_loss(tagger, transformation).backward()
        with torch.no_grad():
            for parameter in tagger.parameters():
                parameter.sub_(ETA * parameter.grad)
            return made.loss(tagger, made.meta).item()

    step = 1e-4
    expected = (loss_after_a_step(step) - loss_after_a_step(-step)) / (2 * step)
    assert abs(expected) > 1e-4
    exact = made.estimate(T1T2(ETA))
    slope = sum((exact[n] * direction[n]).sum() for n in exact).item()
    assert slope == pytest.approx(expected, rel=1e-5)
    assert_equal(made.estimate(HigherT1T2(ETA)), exact)
    # The kinks of the ReLU are farther away than the radius.
    assert_equal(made.estimate(FiniteDifference(ETA, radius=1e-6)), exact, rtol=1e-4)


def learner(small_encoder, method, **changes) -> Learner:
    """In float64, without dropout."""
    torch.manual_seed(1)
    settings = {"method": method, "layers": (2,), "bottleneck": 4, "sigma": 1e-2} | changes
    encoder = small_encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = replace(PRESETS["quick"], **settings)
    made = Learner(config, encoder, 3, torch.device("cpu"))
    made.tagger.double().train()
    made.transformation.double()
    return made


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def after_a_step(made: Learner, step) -> tuple[dict, dict, dict]:
    metrics = step()
    grads = {n: p.grad.clone() for n, p in made.transformation.named_parameters()}
    return grads, {n: p.detach() for n, p in made.tagger.named_parameters()}, metrics


@pytest.mark.parametrize("layers", [(2,), (1,), (0,)])
@pytest.mark.parametrize("detach", [True, False])
def test_one_pass_for_all_equals_passes_for_each(small_encoder, sentences, layers, detach):
    """Without dropout: the shared step, the authors' way, and the estimator on the problem without
    hook and given states, followed by a base step, move everything alike."""
    options = {"layers": layers, "detach_hidden": detach}
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    train, meta = target.halves()
    assert (len(train), len(meta)) == (3, 3)

    shared = learner(small_encoder, "evograd", **options)
    expected = after_a_step(shared, lambda: shared.step(source, target, generator()))

    repeated = learner(small_encoder, "evograd", faithful=True, **options)
    found = after_a_step(repeated, lambda: repeated.step(source, target, generator()))
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)

    plain = learner(small_encoder, "evograd", **options)

    def separate():
        metrics = plain.meta_step("evograd", (source, train), meta, generator())
        return metrics | plain.base_step((source, train))

    for one, other in zip(after_a_step(plain, separate), expected, strict=True):
        assert_equal(one, other)
    assert expected[2]["hypergradient_norm"] > 0


def test_the_base_step_takes_the_gradient_of_the_training_loss_with_the_new_network(
    small_encoder, sentences
):
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    made = learner(small_encoder, "evograd", clip=1e9, detach_hidden=False)
    start = copy.deepcopy(made.tagger)
    made.step(source, target, generator())

    def loss(batch, transformation=None):
        scores = start(batch.input_ids, batch.attention_mask, transformation)
        return F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), ignore_index=-100)

    (loss(source, made.transformation) + loss(target.halves()[0])).backward()
    found = {n: p.grad for n, p in made.tagger.named_parameters()}
    assert_equal(found, {n: p.grad for n, p in start.named_parameters()})


def test_joint_training_takes_whole_batches_and_no_network(small_encoder, sentences):
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    for method, batches in (("joint_training", (source, target)), ("target_only", (target,))):
        made = learner(small_encoder, method, clip=1e9)
        start = copy.deepcopy(made.tagger)
        made.step(source, target)
        loss = sum(
            F.cross_entropy(
                start(b.input_ids, b.attention_mask).flatten(0, 1),
                b.labels.flatten(),
                ignore_index=-100,
            )
            for b in batches
        )
        loss.backward()
        found = {n: p.grad for n, p in made.tagger.named_parameters()}
        assert_equal(found, {n: p.grad for n, p in start.named_parameters()})
        assert all(p.grad is None for p in made.transformation.parameters())


def test_the_token_loss_of_known_scores():
    scores = torch.tensor([[[0.0, np.log(3)], [5.0, 5.0]], [[1.0, 9.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, -100], [-100, 0]])
    expected = (np.log(4 / 3) + np.log(2)) / 2
    assert token_loss(scores, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [2, 5, 12])
def test_halves_share_out_the_sentences(sentences, size):
    batch = sentences(size)
    train, meta = batch.halves()
    assert 0 <= len(train) - len(meta) <= 1
    assert torch.equal(torch.cat([train.input_ids, meta.input_ids]), batch.input_ids)
    assert torch.equal(torch.cat([train.labels, meta.labels]), batch.labels)
