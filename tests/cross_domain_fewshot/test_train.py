"""Whole runs at small size: every method, resume, pre-training, order of steps, evaluation."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from common.training import Cost
from cross_domain_fewshot.config import EXPERIMENT
from cross_domain_fewshot.data import open_domain
from cross_domain_fewshot.episodes import Episode, EpisodeStream, LabelledImages
from cross_domain_fewshot.models import RelationNet, ResNet
from cross_domain_fewshot.train import (
    FewShotTask,
    Learner,
    episode_accuracies,
    episode_loss,
    mean_and_ci95,
)
from tests.experiments import small_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pretrained_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture
def small(tmp_path, pretrained_dir):
    """Settings of a run that takes a second, on the embedded images."""
    places = {"pretrained_dir": pretrained_dir, "run_dir": tmp_path / "run"}
    return lambda **changes: small_settings("cross_domain_fewshot", **places | changes)


@pytest.fixture
def no_cost(monkeypatch):
    """Runs end without measuring their cost."""
    monkeypatch.setattr(FewShotTask, "measure_cost", lambda self: Cost(1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("method", "protocol", "moves", "auxiliary"),
    [
        ("none", "released", False, False),
        ("ft", "released", True, False),
        ("ft", "controlled", False, True),
        ("lft_evograd", "released", True, True),
    ],
)
def test_a_record_has_metrics_and_curves(method, protocol, moves, auxiliary, small, no_cost):
    metrics = {"val_accuracy", "val_ci95", "accuracy", "ci95", "best_accuracy", "best_ci95"}
    record = EXPERIMENT.run(small(method=method, protocol=protocol))
    assert set(record.final) == metrics | ({"moved"} if method != "none" else set())
    assert "pretrained_backbone" in record.data
    assert record.best["val_accuracy"]["value"] == max(e["val_accuracy"] for e in record.epochs)
    assert ("aux_loss" in record.traces) == auxiliary
    if method != "none":  # ResNet-10: four blocks, three shortcuts
        assert (record.final["moved"] > 0) == moves
        assert all(len(curve) == 7 for curve in record.curves.values())
        assert (record.curves["gamma_mean"] != [pytest.approx(0.3)] * 7) == moves


def test_the_auxiliary_weight_falls_twenty_times(small):
    task = FewShotTask(small(), CPU)
    task.config = replace(task.config, epochs=400, episodes=1)
    task.learner.step = lambda seen, unseen, aux_batch, weight: weight
    weights = [next(task.steps(epoch)) for epoch in (1, 20, 21, 41, 400)]
    assert weights == pytest.approx([1, 1, 0.9, 0.81, 0.9**19])


def test_a_mixed_stream_has_as_many_episodes_of_every_seen_domain_shuffled(small):
    task = FewShotTask(small(method="none", episodes=8), CPU)
    orders = []
    for _ in range(3):
        epoch = list(task.schedule())
        assert all(unseen is None for _, unseen in epoch)
        counts = Counter(seen for seen, _ in epoch)
        assert counts == dict.fromkeys(task.config.seen, 2)
        orders.append([seen for seen, _ in epoch])
    assert len(set(map(tuple, orders))) == 3
    assert any(order[:4] != order[4:] and len(set(order[:4])) < 4 for order in orders)


def test_methods_share_their_episodes(small):
    loops = {"none": "controlled", "ft": "controlled", "lft_evograd": "released"}
    tasks = [FewShotTask(small(method=m, protocol=p), CPU) for m, p in loops.items()]
    seen = []

    def record(episode, other, aux_batch, weight):
        seen.append((episode.support.sum().item(), aux_batch.images.sum().item()))
        return {}

    for task in tasks:
        task.learner.step = record
        for epoch in (1, 2):
            list(task.steps(epoch))
    third = len(seen) // 3
    assert seen[:third] == seen[third : 2 * third] == seen[2 * third :]
    assert len(set(seen[:third])) == third


def test_the_two_domains_of_an_epoch_differ_and_the_unseen_one_is_never_met(small):
    task = FewShotTask(small(method="lft_evograd", unseen="icons"), CPU)
    met = []
    for (role, name), stream in task.streams.items():
        original = stream.next
        stream.next = lambda role=role, name=name, o=original: met.append((role, name)) or o()
    task.learner.step = lambda *arguments: {}
    pairs = set()
    for epoch in range(1, 9):
        met.clear()
        list(task.steps(epoch))
        ((_, seen), (_, unseen)) = sorted(set(met))
        assert seen != unseen
        pairs.add((seen, unseen))
    assert len(pairs) > 3
    assert all("icons" not in pair for pair in pairs)
    assert task.test.name == "icons" and task.test.split == "novel"


def test_the_order_of_the_steps_can_be_chosen(small):
    """base_first takes the hypergradient at the updated model, meta_first before the update."""
    orders = {
        ("lft_evograd", "released"): "base_first", ("lft_t1t2", "released"): "meta_first",
        ("lft_t1t2", "base_first"): "base_first", ("lft_evograd", "meta_first"): "meta_first",
    }  # fmt: skip
    for (learner, asked), order in orders.items():
        task = FewShotTask(small(order=asked, method=learner), CPU)
        calls = []
        for name in ("base_step", "meta"):
            method = getattr(task.learner, name)

            def spy(*arguments, name=name, method=method, calls=calls):
                calls.append(name)
                return method(*arguments)

            spy.due = lambda: True
            setattr(task.learner, name, spy)
        next(task.steps(1))
        assert calls == sorted(calls, reverse=order == "meta_first")  # base_step before meta
        assert len(calls) == 2


def test_the_base_step_adds_the_weighted_auxiliary_loss(small):
    """The auxiliary loss in evaluation mode, with the running statistics before the episode's."""
    config = small(method="none")
    torch.manual_seed(0)
    learner = Learner(config, CPU, aux_classes=7)
    episode = Episode(torch.randn(5, 1, 3, 32, 32), torch.randn(5, 2, 3, 32, 32))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    found = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in learner.params.values())
    )
    start = [p.detach().clone() for p in learner.params.values()]
    torch.manual_seed(0)
    other = Learner(config, CPU, aux_classes=7)
    features = other.network.eval().backbone(images).mean((2, 3))
    auxiliary = torch.nn.functional.cross_entropy(other.auxiliary(features), labels)
    parameters = list(other.params.values())
    # Differentiated before the episode moves the running statistics that it was computed with.
    first = torch.autograd.grad(0.3 * auxiliary, parameters, allow_unused=True)
    loss = episode_loss(other.network.train(), episode)
    second = torch.autograd.grad(loss, parameters)
    expected = [b if a is None else a + b for a, b in zip(first, second, strict=True)]
    losses = learner.base_step(episode, LabelledImages(images, labels), 0.3)
    assert losses["train_loss"].item() == pytest.approx(loss.item())
    assert losses["aux_loss"].item() == pytest.approx(auxiliary.item())
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
    assert not all(map(torch.equal, start, learner.params.values()))


def test_the_simplest_use_of_both_domains_trains_on_the_mean_of_their_losses(small):
    """In the learners' loop: the same episodes and the auxiliary loss, no transformation."""
    task = FewShotTask(small(method="both_domains"), CPU)
    learner = FewShotTask(small(method="lft_evograd"), CPU)
    met = []
    for each in (task, learner):
        each.learner.step, original = lambda *batch: met.append(batch) or {}, each.learner.step
        next(each.steps(1))
        each.learner.step = original
    for one, other in zip(met[0][:3], met[1][:3], strict=True):
        assert all(map(torch.equal, one, other))
    seen, unseen, aux_batch, weight = met[0]
    assert not task.learner.hyper and not torch.equal(seen.support, unseen.support)

    found = {}
    task.learner.optimizer.register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in task.learner.params.items()})
    )
    expected = FewShotTask(small(method="none"), CPU).network
    auxiliary = copy.deepcopy(task.learner.auxiliary)
    loss = task.learner.step(seen, unseen, aux_batch, weight)["train_loss"]
    scores = auxiliary(expected.eval().backbone(aux_batch.images).mean((2, 3)))
    (weight * torch.nn.functional.cross_entropy(scores, aux_batch.labels)).backward()
    both = [episode_loss(expected.train(), episode) for episode in (seen, unseen)]
    sum(both).div(2).backward()
    assert loss.item() == pytest.approx(sum(both).item() / 2, rel=1e-6)
    for name, p in expected.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5)


def test_evaluation_in_groups_equals_episode_by_episode(small):
    torch.manual_seed(0)
    network = RelationNet(ResNet("resnet10", 8, "small"), 32)
    split = open_domain("embedded", "emoji", "novel", 32, None, CPU)

    def stream():
        return EpisodeStream(split, 5, 1, 3, torch.Generator().manual_seed(1), augment=False)

    found = episode_accuracies(network.train(), stream(), 7, images_at_once=50)
    assert network.training
    episodes, expected = stream(), []
    network.eval()
    for _ in range(7):
        episode = episodes.next()
        scores = network(episode.support, episode.query).view(5, 3, 5)
        right = sum((scores[c, q].argmax() == c).item() for c in range(5) for q in range(3))
        expected.append(100 * right / 15)
    assert found.tolist() == pytest.approx(expected)
    mean, half_width = mean_and_ci95(torch.tensor([10.0, 20.0, 60.0]))
    assert mean == pytest.approx(30)
    assert half_width == pytest.approx(1.96 * 21.6024690 / 3**0.5)  # sd with divisor n


def test_the_best_epochs_weights_are_tested_too(small, no_cost, monkeypatch):
    """Validation falls after the first epoch: its weights give best_accuracy."""
    config = small(method="none", epochs=2)
    tested = []

    def scripted(self, split, name):
        weights = torch.cat([p.flatten() for p in self.network.parameters()]).detach().clone()
        tested.append((name, weights))
        return (30.0 - len(tested) if name == "validation" else 50.0 + len(tested)), 1.0

    monkeypatch.setattr(FewShotTask, "accuracy", scripted)
    record = EXPERIMENT.run(config)
    assert [name for name, _ in tested] == ["validation", "validation", "test", "test"]
    first, last, of_last, of_best = (weights for _, weights in tested)
    assert torch.equal(of_last, last) and torch.equal(of_best, first)
    assert not torch.equal(first, last)
    assert record.final["accuracy"] == 53 and record.final["best_accuracy"] == 54
