"""Planned runs, and runs at small size: protocols, order of steps, base step, evaluation."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.training import Cost, new_generator
from cross_domain_fewshot import train
from cross_domain_fewshot.config import EXPERIMENT, PRESETS
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
    monkeypatch.setattr(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1))


def test_the_paper_preset_has_the_runs_of_table_3():
    """4 domains, 2 shots, 4 methods of ResNet-10 and 3 of ResNet-34; none and ft twice, and
    both_domains."""
    runs = EXPERIMENT.planned("paper")
    assert len(runs) == 4 * 2 * (4 + 3 + 2 * (2 + 1))
    assert {r.unseen for r in runs} == {"cub", "cars", "places", "plantae"}


def test_a_protocol_that_would_change_nothing_is_refused():
    with pytest.raises(UserError, match="--protocol fixed"):
        replace(PRESETS["quick"], method="none", protocol="fixed")


def test_the_controlled_loop_is_that_of_the_learners():
    plans = EXPERIMENT.planned("quick")
    assert [(c.method, c.protocol) for c in plans] == [
        ("none", "released"), ("none", "controlled"), ("ft", "released"), ("ft", "controlled"),
        ("lft_evograd", "released"), ("lft_t1t2", "released"),
    ]  # fmt: skip
    loops = [(c.paired, c.auxiliary) for c in plans]
    assert loops[1] == loops[3] == loops[4] == loops[5] == (True, True)
    assert loops[0] == loops[2] == (False, False)
    assert [c.trains_ft for c in plans[:4]] == [False, False, True, False]
    assert [c.meta_first for c in plans[4:]] == [False, True]
    pairs, fixed = (replace(plans[2], protocol=name) for name in ("pairs", "fixed"))
    assert (pairs.paired, pairs.auxiliary, pairs.trains_ft) == (True, False, True)
    assert (fixed.paired, fixed.auxiliary, fixed.trains_ft) == (False, False, False)


@pytest.mark.parametrize(("protocol", "moves"), [("released", True), ("controlled", False)])
def test_ft_trains_its_transformations_only_in_the_released_way(protocol, moves, small, no_cost):
    record = EXPERIMENT.run(small(method="ft", protocol=protocol))
    assert record.best["val_accuracy"]["value"] == max(e["val_accuracy"] for e in record.epochs)
    assert ("aux_loss" in record.traces) != moves
    assert (record.final["moved"] > 0) == moves
    # ResNet-10: four blocks, three shortcuts
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
    epochs = [tuple(task.schedule()) for _ in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == dict.fromkeys([(name, None) for name in task.config.seen], 2)
    assert len(set(epochs)) == 3
    assert any(len(set(epoch[:4])) < 4 for epoch in epochs)


def test_methods_share_the_episodes_of_an_epochs_two_domains(small):
    """The domains differ, change, and are never the unseen one."""
    loops = {"none": "controlled", "ft": "controlled", "both_domains": "released",
             "lft_evograd": "released"}  # fmt: skip
    found = []
    for method, protocol in loops.items():
        task = FewShotTask(small(method=method, protocol=protocol, unseen="icons"), CPU)
        taken, domains = [], []
        schedule = task.schedule
        task.schedule = lambda s=schedule, d=domains: (d.append(pair) or pair for pair in s())
        task.learner.step = lambda episode, other, aux_batch, weight, taken=taken: taken.append(
            (episode.support.sum().item(), aux_batch.images.sum().item())
        )
        for epoch in range(1, 6):
            list(task.steps(epoch))
        found.append((taken, domains))
    assert all(other == found[0] for other in found[1:])
    taken, pairs = found[0]
    assert len(set(taken)) == len(taken) == 5 * task.config.episodes
    assert len(set(pairs)) > 2
    assert all(seen != unseen and "icons" not in (seen, unseen) for seen, unseen in pairs)
    assert task.test.name == "icons" and task.test.split == "novel"


@pytest.mark.parametrize(
    ("method", "asked", "order"),
    [
        ("lft_evograd", "released", ["base", "meta"]),
        ("lft_evograd", "meta_first", ["meta", "base"]),
        ("lft_t1t2", "released", ["meta", "base"]),
        ("lft_t1t2", "base_first", ["base", "meta"]),
    ],
)
def test_the_order_of_the_steps_can_be_chosen(method, asked, order, small, monkeypatch):
    """base_first takes the hypergradient at the updated model, meta_first before the update."""
    learner, calls = Learner(small(order=asked, method=method), CPU), []
    monkeypatch.setattr(learner, "base_step", lambda *_: calls.append("base") or {})
    monkeypatch.setattr(type(learner.meta), "__call__", lambda *_: calls.append("meta") or {})
    learner.step(None, None, None, 1.0)
    assert calls == order


@pytest.mark.parametrize("both", [False, True])
def test_the_base_step_adds_the_weighted_auxiliary_loss_to_the_episodes(both, small):
    """The mean of the episodes' losses; the auxiliary loss in evaluation mode, with the running
    statistics before the episodes'."""
    config, found = small(method="both_domains" if both else "none"), {}
    seen, unseen = (
        Episode(torch.randn(5, 1, 3, 32, 32), torch.randn(5, 2, 3, 32, 32)) for _ in range(2)
    )
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    torch.manual_seed(0)
    learner = Learner(config, CPU, aux_classes=7)
    learner.optimizer.register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in learner.params.items()})
    )
    other = copy.deepcopy(learner.network)
    features = other.eval().backbone(images).mean((2, 3))
    auxiliary = torch.nn.functional.cross_entropy(learner.auxiliary(features), labels)
    # Differentiated before the episode moves the running statistics that it was computed with.
    (0.3 * auxiliary).backward()
    learner.optimizer.zero_grad()
    terms = [episode_loss(other.train(), e) for e in ([seen, unseen] if both else [seen])]
    sum(terms).div(len(terms)).backward()
    batch = LabelledImages(images, labels), 0.3
    losses = learner.step(seen, unseen if both else None, *batch)
    assert losses["train_loss"].item() == pytest.approx(sum(terms).item() / len(terms))
    assert losses["aux_loss"].item() == pytest.approx(auxiliary.item())
    for name, p in other.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-5)


def test_evaluation_in_groups_equals_episode_by_episode(small):
    torch.manual_seed(0)
    network = RelationNet(ResNet("resnet10", 8, "small"), 32)
    split = open_domain("embedded", "emoji", "novel", 32, None, CPU)
    shape = (split, 5, 1, 3)
    episodes, again = (EpisodeStream(*shape, new_generator(1, "x"), False) for _ in range(2))
    found = episode_accuracies(network.train(), episodes, 7, images_at_once=50)
    assert network.training
    network.eval()
    scores = [network(*again.next()).view(5, 3, 5) for _ in range(7)]
    expected = [100 * (s.argmax(2) == torch.arange(5)[:, None]).double().mean() for s in scores]
    assert found.tolist() == pytest.approx([value.item() for value in expected])
    mean, half_width = mean_and_ci95(torch.tensor([10.0, 20.0, 60.0]))
    assert mean == pytest.approx(30)
    assert half_width == pytest.approx(1.96 * 21.6024690 / 3**0.5)  # sd with divisor n


def test_the_best_epochs_weights_are_tested_too(small, no_cost, monkeypatch):
    """Validation falls after the first epoch: its weights give best_accuracy."""
    config = small(method="none", epochs=2)
    tested = []

    def scripted(self, split, episodes, queries, name, cycled=0):
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
