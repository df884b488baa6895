"""The experiments' rooms for the study: real tasks, on small images in memory."""

from dataclasses import replace

import pytest
import torch

from common.datasets import ImageDataset
from common.hypergrad import T1T2
from common.hypergrad.compare import flat_gradient
from common.training import seed_everything
from metaweightnet import data as label_noise_data
from metaweightnet import studies as label_noise
from metaweightnet.config import PRESETS as LABEL_NOISE_PRESETS
from metaweightnet.train import MetaWeightTask
from rotation import data as rotation_data
from rotation import studies as rotation
from rotation.config import PRESETS as ROTATION_PRESETS

CPU = torch.device("cpu")


def images(name: str, shape: tuple[int, ...], train: int, test: int) -> ImageDataset:
    g = torch.Generator().manual_seed(0)

    def split(count):
        pixels = torch.randint(0, 255, (count, *shape), generator=g, dtype=torch.uint8)
        return pixels, torch.arange(count) % 10

    (train_images, train_labels), (test_images, test_labels) = split(train), split(test)
    return ImageDataset(
        name=name,
        class_names=tuple("abcdefghij"),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        checksums={},
        source="memory",
    )


@pytest.fixture
def small(monkeypatch):
    """Both experiments' smoke presets, smaller still, on random images."""
    cifar, mnist = images("cifar10", (32, 32, 3), 80, 20), images("mnist", (28, 28), 50_200, 20)
    monkeypatch.setattr(label_noise_data, "load_images", lambda config: cifar)
    monkeypatch.setattr(rotation_data, "load_mnist", lambda folder: mnist)
    common = {"batch_size": 20, "test_size": 20, "train_size": 40}
    config = replace(LABEL_NOISE_PRESETS["smoke"], meta_size=20, **common)
    monkeypatch.setitem(label_noise.PRESETS, "smoke", config)
    monkeypatch.setitem(
        rotation.PRESETS, "smoke", replace(ROTATION_PRESETS["smoke"], meta_size=60, **common)
    )
    monkeypatch.setattr(rotation, "TEST_SIZE", 20)


def stages(room, folder):
    return {p.x: p for p in room.snapshots("smoke", CPU, 2, folder) if p.axis == "stage"}


def test_label_noise_is_looked_at_along_one_training(small, tmp_path):
    moments = {x: planned.build() for x, planned in stages(label_noise, tmp_path).items()}
    assert [moments[x].inner_lr for x in ("start", "middle", "end")] == pytest.approx(
        [0.1, 0.1, 0.01]
    )
    config = replace(label_noise.PRESETS["smoke"], method="evograd", seed=1)
    seed_everything(1)
    task = MetaWeightTask(config, CPU)
    for x, epoch in (("start", None), ("middle", 1), ("end", 2)):
        if epoch:
            for _ in task.steps(epoch):
                pass
            task.evaluate(epoch)
        for name, parameter in task.learner.network.named_parameters():
            torch.testing.assert_close(moments[x].params[name], parameter.detach())


def test_both_readings_of_label_noise_have_one_second_order_hypergradient(small, tmp_path):
    moment = stages(label_noise, tmp_path)["start"].build()
    problem = moment.problem(torch.float32)
    found = [
        flat_gradient(T1T2(0.1)(problem, moment.params, moment.hyper, *pairs[0]).grads)
        for pairs in moment.readings.values()
    ]
    assert found[0].norm() > 0
    torch.testing.assert_close(found[0], found[1])


def test_sizes_are_those_asked_for(small, tmp_path):
    planned = {p.name: p for p in label_noise.snapshots("smoke", CPU, 1, tmp_path)}
    wide = planned["metaweightnet-width-2"].build()
    assert wide.params["fc.weight"].shape == (10, 128)
    hidden = planned["metaweightnet-meta_hidden-10"].build()
    assert sum(t.numel() for t in hidden.hyper.values()) == 31


def test_looking_ahead_in_rotation_is_training(small, tmp_path):
    moment = stages(rotation, tmp_path)["start"].build()
    later = list(moment.later((1, 2)))
    changes = [(p["fc3.weight"] - moment.params["fc3.weight"]).norm().item() for p, _ in later]
    assert 0 < changes[0] < changes[1]
    assert moment.hyper["angle"] == 0 and later[0][1]["angle"] != 0
    again = list(moment.later((1, 2)))
    assert torch.equal(again[1][0]["fc3.weight"], later[1][0]["fc3.weight"])
