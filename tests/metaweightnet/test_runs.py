"""Whole runs at small size: the controls, the steps, the record."""

import copy

import pytest
import torch
from torch.nn import functional as F

from common.training import Cost, new_generator
from metaweightnet import train
from metaweightnet.config import EXPERIMENT
from metaweightnet.monitor import HISTOGRAM_BINS, Monitor
from metaweightnet.train import MetaWeightTask

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", ["plain", "frozen_vnet", "evograd"])
def test_a_record_tells_what_the_weights_did(method, small, monkeypatch):
    monkeypatch.setattr(train, "measure", lambda *_, **__: Cost(1, 1, 1, 1, 1, 1))
    monkeypatch.setattr(train, "FINE_TUNING_STEPS", 2)
    config = small(method=method, noise_level=0.5)
    record = EXPERIMENT.run(config)
    assert config.run_name().startswith(f"cifar10-flip-noise_level=0.5-meta_size=40-{method}-seed1")
    accuracies = {"accuracy", "meta_accuracy", "fine_tuned_accuracy"}
    expected = accuracies | {"train_loss", "weight_right", "weight_wrong"}
    learned = {"meta_loss", "hypergradient_norm", "moved"} if method == "evograd" else set()
    assert set(record.final) == expected | learned
    curves = record.curves
    if method != "plain":
        assert (curves["weight_start"] == curves["weight_end"]) == (method == "frozen_vnet")
    assert sum(curves["histogram_right"] + curves["histogram_wrong"]) == config.train_size
    # The last batch of the epoch is full, so relative weights average to one.
    wrong = sum(curves["histogram_wrong"]) / config.train_size
    mean = (1 - wrong) * record.final["weight_right"] + wrong * record.final["weight_wrong"]
    assert mean == pytest.approx(1, abs=1e-5)


def hypergradient(config) -> list[torch.Tensor]:
    """What the first meta step gives the optimiser, from the same start for every method."""
    torch.manual_seed(5)
    task = MetaWeightTask(config, CPU)
    index, found = torch.arange(20), []
    optimizer = task.learner.meta.optimizer
    optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad for p in task.learner.vnet.parameters())
    )
    task.learner.meta_step(task.train.batch(index), task.meta.batch(index))
    return found


def test_controls_scale_evograds_hypergradient(small):
    methods = ("evograd", "sign_flipped", "evograd_matched")
    plain, negated, matched = (hypergradient(small(method=method)) for method in methods)
    # eta tau / (sigma^2 (1 - 1/K)) at the defaults
    factor = 0.1 * 0.05 / (1e-3**2 * 0.5)
    for p, n, m in zip(plain, negated, matched, strict=True):
        assert torch.equal(n, -p)
        torch.testing.assert_close(m, factor * p)


def test_the_learning_rate_falls_after_the_milestones(small):
    learner, rates = MetaWeightTask(small(milestones=(2, 3)), CPU).learner, []
    for epoch in (1, 2, 3, 4):
        learner.begin_epoch(epoch)
        rates.append(learner.learning_rate())
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_base_step_weights_the_losses_and_passes_no_gradient_to_the_weight_net(small):
    torch.manual_seed(0)
    task = MetaWeightTask(small(method="frozen_vnet"), CPU)
    batch = task.train.batch(torch.arange(20))
    losses = F.cross_entropy(task.learner.network(batch[0]), batch[1], reduction="none")
    weights = task.learner.vnet(losses).detach()
    loss, relative = task.learner.base_step(batch)
    torch.testing.assert_close(loss, (weights * losses).sum().detach() / weights.sum())
    torch.testing.assert_close(relative, 20 * weights / weights.sum())
    assert all(p.grad is None for p in task.learner.vnet.parameters())


def test_clean_only_takes_as_many_steps_on_the_meta_images_alone(small):
    task = MetaWeightTask(small(method="clean_only", augment=False), CPU)
    seen = []
    task.learner.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert len(list(task.steps(1))) == task.steps_per_epoch == len(seen)
    clean = task.meta.batch(torch.arange(40)).images.flatten(1)
    for images in seen:
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(images.flatten(1), clean, compute_mode=exact)
        assert distance.min(1).values.max() < 1e-3
    assert "weight_wrong" not in task.monitor.means()


def test_fine_tuning_is_sgd_on_the_meta_images_and_leaves_the_network_alone(small, monkeypatch):
    assert train.FINE_TUNING_STEPS == 50
    monkeypatch.setattr(train, "FINE_TUNING_STEPS", 3)
    config = small(method="plain", meta_size=10, batch_size=20)
    task = MetaWeightTask(config, CPU)
    network = copy.deepcopy(task.learner.network).train()
    found = task.fine_tuned(task.learner.network)
    torch.testing.assert_close(task.learner.network.state_dict(), network.state_dict())
    generator = new_generator(config.seed, "fine-tuning batches")
    settings = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(network.parameters(), **settings)
    for _ in range(3):
        batch = task.meta.batch(torch.randperm(10, generator=generator))
        optimizer.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()
        optimizer.step()
    torch.testing.assert_close(found.state_dict(), network.state_dict())


def test_the_monitors_means_and_histograms():
    monitor = Monitor()
    wrong = torch.tensor([False, True, False, True])
    for scale in (1.0, 2.0):
        metrics = {"train_loss": torch.tensor(scale), "meta_loss": torch.tensor(3 * scale)}
        monitor.add(metrics, scale * torch.tensor([0.5, 0.1, 1.5, 0.2]), wrong)
    means = monitor.means()
    assert (means["train_loss"], means["meta_loss"]) == (1.5, 4.5)
    assert "hypergradient_norm" not in means
    monitor.add({"train_loss": torch.tensor(6.0)}, torch.zeros(4), wrong)  # without a meta step
    assert (monitor.means()["train_loss"], monitor.means()["meta_loss"]) == (3.0, 4.5)
    assert means["weight_right"] == pytest.approx((0.5 + 1.5 + 1 + 3) / 4)
    assert means["weight_wrong"] == pytest.approx((0.1 + 0.2 + 0.2 + 0.4) / 4)
    expected = [0.0] * HISTOGRAM_BINS
    for weight in (0.5, 1.5, 1.0):
        expected[int(weight * 20)] += 1
    expected[-1] += 1  # 3.0 and above
    expected[0] += 2  # of the step without weights
    assert monitor.histograms()["histogram_right"] == expected
    monitor.clear()
    assert sum(monitor.histograms()["histogram_wrong"]) == 0


def test_study_plans_human_labels_last_and_judges_with_seeds_that_did_not_choose():
    runs = EXPERIMENT.planned("study")
    human = [run for run in runs if run.noise == "human"]
    assert runs[-len(human) :] == human  # not every user has these labels
    primary = [r for r in runs if (r.dataset, r.meta_size) == ("mnist", 100)]
    assert {r.seed for r in primary} == {*range(3, 13)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["plain", "evograd", "t1t2_forward"])
def test_a_step_on_a_gpu_never_waits_for_it(method, small):
    task = MetaWeightTask(small(method=method), torch.device("cuda"))
    steps = task.steps(1)
    next(steps)  # what comes from the host is moved before the first step
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
