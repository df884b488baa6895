"""Losses, shared passes and hypergradients in float64, against explicit computations."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from common.hypergrad import T1T2, EvoGrad, HigherT1T2
from common.settings import EstimatorSettings
from metaxl.config import PRESETS
from metaxl.models import Tagger, Transformation, is_head
from metaxl.train import InnerBatch, Learner, MetaXLProblem, SharedEncoderProblem, head_loss
from tests.common.hypergrad.problems import EVOGRADS
from tests.experiments import assert_equal

ETA = 0.1
LAYERS = [(2,), (1,), (0, 2)]


def explicit_states(tagger, batch, transformation=None, layer=None):
    """Last hidden states by the library's own forward, transformed by a hook on one layer."""
    model = tagger.encoder.model

    def transformed(module, inputs, output):
        return output + transformation.networks[str(layer)](output.detach())

    if layer is None:
        return model(batch.input_ids, batch.attention_mask).last_hidden_state
    module = model.encoder.layer[layer - 1] if layer else model.embeddings
    with module.register_forward_hook(transformed):
        return model(batch.input_ids, batch.attention_mask).last_hidden_state


def explicit_loss(tagger, batch, transformation=None, layer=None):
    """Mean cross-entropy over labelled subwords, by a loop over sentences and subwords."""
    scores = tagger(explicit_states(tagger, batch, transformation, layer))
    labelled = (batch.labels != -100).nonzero().tolist()
    terms = [torch.logsumexp(scores[i, j], 0) - scores[i, j, batch.labels[i, j]]
             for i, j in labelled]  # fmt: skip
    return sum(terms) / len(terms)


class Setting:
    """A small tagger with a transformation network, and batches."""

    def __init__(self, encoder, sentences, layers=(2,), dropout=True) -> None:
        torch.manual_seed(0)
        self.tagger = Tagger(encoder, 3).double().train(dropout)
        self.transformation = Transformation(8, layers, 4).double()
        with torch.no_grad():
            self.tagger.head.weight.normal_()
            for parameter in self.transformation.parameters():
                parameter.normal_(std=0.5)
        self.params = dict(self.tagger.named_parameters())
        self.hyper = dict(self.transformation.named_parameters())
        self.source, self.train, self.meta = sentences(4), sentences(3), sentences(3)
        self.inner_batch = InnerBatch(self.source, self.train)
        self.problem = SharedEncoderProblem(self.tagger, self.transformation)

    def training_loss(self, tagger, transformation):
        weights = torch.softmax(transformation.mixing, 0)
        total = explicit_loss(tagger, self.train)
        for weight, layer in zip(weights, transformation.layers, strict=True):
            total = total + weight * explicit_loss(tagger, self.source, transformation, layer)
        return total

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


@pytest.mark.parametrize("layers", LAYERS)
def test_the_hook_equals_a_loop_over_candidates_with_dropout(setting, layers, count=3):
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
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.manual_seed(10)  # other dropout masks, other losses
    other = made.problem.inner_losses(stacked, made.hyper, made.inner_batch)
    assert (other - together).abs().min() > 1e-6


def test_candidates_with_encoders_of_their_own_are_refused(setting):
    made = setting()
    with pytest.raises(ValueError, match="perturb the head only"):
        made.estimate(EvoGrad())
    made.problem = MetaXLProblem(made.tagger, made.transformation)
    assert any(grad.any() for grad in made.estimate(EvoGrad()).values())


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("mode", EVOGRADS)
def test_evograd_is_the_chain_rule_on_copied_taggers(setting, layers, mode):
    made = setting(layers=layers, dropout=False)
    g = torch.Generator().manual_seed(4)
    noise = {
        n: 1e-2 * torch.randn(2, *p.shape, generator=g, dtype=p.dtype).sign()
        for n, p in made.params.items()
        if is_head(n)
    }
    found = made.estimate(EVOGRADS[mode](temperature=0.05, perturb=is_head), noise=noise)

    transformation, losses, candidates = copy.deepcopy(made.transformation), [], []
    for k in range(2):
        candidate = {n: p.detach() + (noise[n][k] if n in noise else 0)
                     for n, p in made.params.items()}  # fmt: skip
        losses.append(made.training_loss(made.tagger_at(candidate), transformation))
        candidates.append(candidate)
    w = torch.softmax(-torch.stack(losses) / 0.05, 0)
    merged = {n: sum(w[k].detach() * candidates[k][n] for k in range(2)) for n in made.params}
    validated = made.tagger_at(merged)
    explicit_loss(validated, made.meta).backward()
    products = [sum((p.grad * candidate[n]).sum() for n, p in validated.named_parameters())
                for candidate in candidates]  # fmt: skip
    (w[0] * products[0] + w[1] * products[1]).backward()
    expected = {name: p.grad for name, p in transformation.named_parameters()}
    assert_equal(found, expected, rtol=1e-7)


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
            return explicit_loss(tagger, made.meta).item()

    step = 1e-5
    expected = (loss_after_a_step(step) - loss_after_a_step(-step)) / (2 * step)
    assert abs(expected) > 1e-4
    exact = made.estimate(T1T2(ETA))
    slope = sum((exact[n] * direction[n]).sum() for n in exact).item()
    assert slope == pytest.approx(expected, rel=1e-5)
    assert_equal(made.estimate(HigherT1T2(ETA)), exact)


def test_the_source_loss_reaches_the_encoder_through_the_skip_path_only(setting, layer=1):
    """Its gradient is, bit for bit, that of the loss with the network's output as a constant."""
    made = setting(layers=(layer,), dropout=False)
    encoder = dict(made.tagger.encoder.named_parameters())
    network = made.transformation.networks[str(layer)]

    def gradients(states):
        loss = head_loss(made.params, states, made.source)
        return torch.autograd.grad(loss, list(encoder.values()), materialize_grads=True)

    def by(transform):
        mask = made.source.attention_mask
        hidden = made.tagger.encoder(made.source.input_ids, mask, stop=layer)
        hidden = made.tagger.encoder(made.source.input_ids, mask, transform(hidden), layer)
        return gradients(made.tagger.dropout(hidden))

    skip_only = by(lambda hidden: hidden + network(hidden).detach())
    both = by(lambda hidden: hidden + network(hidden))
    found = gradients(made.problem.encoded(made.params, made.hyper, made.inner_batch)[0])
    assert all(torch.equal(f, s) for f, s in zip(found, skip_only, strict=True))
    # Else this would show nothing: the way through the network has a gradient of its own.
    assert any((s - b).abs().max() > 1e-3 for s, b in zip(skip_only, both, strict=True))


def learner(small_encoder, method, dropout=0.0, **changes) -> Learner:
    """In float64."""
    torch.manual_seed(1)
    settings = {"method": method, "layers": (2,), "bottleneck": 4} | changes
    settings["estimator"] = EstimatorSettings(sigma=1e-2)
    encoder = small_encoder(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    config = replace(PRESETS["quick"], **settings)
    made = Learner(config, encoder, 3, torch.device("cpu"))
    made.tagger.double().train()
    made.transformation.double()
    if made.meta is not None:
        made.meta.generator.manual_seed(5)
    return made


def after_a_step(made: Learner, step) -> tuple[dict, dict, dict]:
    metrics = step()
    # Adam's first moment after one step: the hypergradient, there being no decay, times 1 - beta.
    state = made.meta.optimizer.state
    grads = {n: 10 * state[p]["exp_avg"] for n, p in made.meta.hyper.items()}
    return grads, {n: p.detach() for n, p in made.tagger.named_parameters()}, metrics


@pytest.mark.parametrize("layers", LAYERS)
def test_one_pass_for_all_equals_passes_for_each(small_encoder, sentences, layers):
    """Without dropout: the shared step, the authors' way, and the estimator on the problem without
    hook and given states, followed by a base step, move everything alike."""
    options = {"layers": layers, "meta_weight_decay": 0.0}
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    train, meta = target.halves()
    batch = InnerBatch(source, train)
    shared = learner(small_encoder, "evograd", **options)
    repeated = learner(small_encoder, "evograd", faithful=True, **options)
    plain = learner(small_encoder, "evograd", **options)
    plain.meta.problem = MetaXLProblem(plain.tagger, plain.transformation)
    expected = after_a_step(shared, lambda: shared.step(source, target))
    assert expected[2]["hypergradient_norm"] > 0
    for found in (
        after_a_step(repeated, lambda: repeated.step(source, target)),
        after_a_step(plain, lambda: plain.meta_step(batch, meta) | plain.base_step(batch)),
    ):
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize(
    "method", ["joint_training", "target_only", "joint_half", "decay_only", "evograd"]
)
def test_the_base_step_of_every_kind(small_encoder, sentences, method):
    """joint_training: the mean of two losses on whole batches, no clipping. joint_half: their sum
    on half of the target's sentences, clipped, as the methods with a network do, which for them
    has been updated before."""
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    for clip in (1e9, 1e-2):
        made = learner(small_encoder, method, clip=clip, meta_learning_rate=0.1)
        start = copy.deepcopy(made.tagger)
        made.step(source, target)
        loss = partial(explicit_loss, start)
        if method in ("joint_training", "target_only"):
            batches = (source, target) if method == "joint_training" else (target,)
            torch.stack([loss(batch) for batch in batches]).mean().backward()
        else:
            network = () if method == "joint_half" else (made.transformation, 2)
            (loss(source, *network) + loss(target.halves()[0])).backward()
            torch.nn.utils.clip_grad_norm_(start.parameters(), clip)
        found, expected = (
            {name: p.grad for name, p in tagger.named_parameters()}
            for tagger in (made.tagger, start)
        )
        assert_equal(found, expected)
        assert made.meta or all(p.grad is None for p in made.transformation.parameters())


def test_decay_alone_moves_the_network_towards_zero(small_encoder, sentences):
    """Adam's first step is the rate times g / (|g| + eps), with g the decay times the weight."""
    torch.manual_seed(0)
    rate, decay = 1e-3, 5e-4
    for form in ("coupled", "decoupled"):
        made = learner(small_encoder, "decay_only", meta_learning_rate=rate,
                       meta_weight_decay=decay, meta_decay=form)  # fmt: skip
        start = {n: p.detach().clone() for n, p in made.transformation.named_parameters()}
        metrics = made.step(sentences(4), sentences(6))
        for name, parameter in made.transformation.named_parameters():
            g = decay * start[name]
            change = rate * (g / (g.abs() + 1e-8) if form == "coupled" else g)
            torch.testing.assert_close(parameter.detach(), start[name] - change)
        norm = torch.cat([p.flatten() for p in start.values()]).norm()
        torch.testing.assert_close(metrics["decay_norm"], decay * norm)


def test_the_faithful_way_draws_dropout_anew_for_every_candidate_and_the_base_step(
    small_encoder, sentences
):
    torch.manual_seed(0)
    source, target = sentences(4), sentences(6)
    passes = {}
    for faithful in (True, False):
        made = learner(small_encoder, "evograd", dropout=0.3, faithful=faithful)
        made.step(source, target)  # an estimator's first call examines the problem besides
        seen: dict[int, list[float]] = {}
        made.tagger.encoder.model.embeddings.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.setdefault(output.shape[0], []).append(
                float(output.detach().square().sum())
            )
        )
        made.step(source, target)
        passes[faithful] = seen
    # Two candidates and the base step pass 4 source sentences; with them 3 of the target, and the
    # meta loss 3 more. Every pass has masks of its own.
    assert [len(passes[True][n]) for n in (4, 3)] == [3, 4]
    assert all(len(set(values)) == len(values) for values in passes[True].values())
    assert [len(passes[False][n]) for n in (4, 3)] == [1, 2]
