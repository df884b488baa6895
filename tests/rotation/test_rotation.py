"""LeNet, the rotation layer, the data, the bilevel problem, the base step; a whole run."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.hypergrad import T1T2, FiniteDifference, HigherT1T2
from common.reporting import RunRecord, load
from common.training import new_generator, restore, seed_everything, state_of
from rotation.config import EXPERIMENT, PRESETS, Config
from rotation.data import Batch, rotate_images
from rotation.report import section
from rotation.train import Learner, LeNet, RotationProblem, normalise, rotate, rotation_layer
from tests.common.hypergrad.problems import EVOGRADS

ANGLE, ETA, SIGMA, TAU = 0.2, 0.1, 1e-2, 0.05


def smooth_images(count: int = 3, dtype=torch.float64) -> torch.Tensor:
    """Blobs off the centre, bright inside, black at the border."""
    grid = torch.linspace(-1, 1, 28, dtype=dtype)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    centres = torch.linspace(-0.4, 0.4, count, dtype=dtype)
    blobs = [torch.exp(-((x - c) ** 2 + (y - 0.3) ** 2) / 0.03) for c in centres]
    return torch.stack(blobs).unsqueeze(1)


def test_lenet_has_the_classic_number_of_parameters():
    assert sum(p.numel() for p in LeNet().parameters()) == 61_706


@pytest.mark.parametrize("degrees", [30, -12.5])
def test_images_are_turned_as_pillow_does(degrees):
    """By the layer, bilinear, and the validation images, to the nearest pixel, bit for bit."""
    images = smooth_images()
    turned = rotate(images, torch.tensor(math.radians(degrees), dtype=torch.float64))
    whole = (images[:, 0] * 255).to(torch.uint8)
    for i, nearest in enumerate(rotate_images(whole, degrees)):
        pillow = Image.fromarray(images[i, 0].numpy().astype(np.float32))
        expected = np.asarray(pillow.rotate(degrees, resample=Image.Resampling.BILINEAR))
        assert np.abs(turned[i, 0].numpy() - expected).max() < 0.02
        assert np.array_equal(
            nearest, np.asarray(Image.fromarray(whole[i].numpy()).rotate(degrees))
        )


def test_quarter_turns_are_exact_each_image_by_its_own():
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    turned = rotate(images, torch.tensor([0, 1, -1], dtype=torch.float64) * math.pi / 2)
    for image, result, quarters in zip(images, turned, (0, 1, -1), strict=True):
        torch.testing.assert_close(result, torch.rot90(image, quarters, (1, 2)))


def test_corners_are_black_or_mean_grey():
    black, angle = torch.zeros(1, 1, 28, 28), torch.tensor(math.pi / 4)
    torch.testing.assert_close(rotation_layer(black, angle, "pixels"), normalise(black))
    grey = rotation_layer(black, angle, "normalised")
    assert grey[0, 0, 0, 0] == 0
    torch.testing.assert_close(grey[0, 0, 14, 14], normalise(black)[0, 0, 14, 14])


def after_a_step(problem, params, angle, inner, noise):
    """theta after an SGD step on L_T, the parameters that T1-T2 validates."""
    theta = {n: p.detach().requires_grad_() for n, p in params.items()}
    loss = problem.inner_loss(theta, {"angle": angle}, inner)
    grads = torch.autograd.grad(loss, list(theta.values()))
    return {n: t - ETA * g for (n, t), g in zip(theta.items(), grads, strict=True)}


def merged(problem, params, angle, inner, noise):
    """The candidates, weighted by the softmax of their losses, which EvoGrad validates."""
    candidates = [{n: p.detach() + noise[n][k] for n, p in params.items()} for k in (0, 1)]
    losses = [problem.inner_loss(c, {"angle": angle}, inner) for c in candidates]
    w = torch.softmax(-torch.stack(losses) / TAU, 0)
    return {n: w[0] * candidates[0][n] + w[1] * candidates[1][n] for n in params}


@pytest.mark.parametrize(
    ("estimator", "moved"),
    [
        (T1T2(ETA), after_a_step),
        (HigherT1T2(ETA), after_a_step),
        (FiniteDifference(ETA, radius=1e-4), after_a_step),
        *((kind(2, SIGMA, TAU), merged) for kind in EVOGRADS.values()),
    ],
)
def test_hypergradients_equal_a_difference_over_the_angle(estimator, moved):
    """L_V at the parameters that a method validates, by central differences, the noise held."""
    torch.manual_seed(0)
    # No kinks (ReLU, max-pooling): a difference over the angle would be no ground truth there.
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(64, 10)
    ).double()
    problem, params = RotationProblem(network, "normalised"), dict(network.named_parameters())
    angle, images, labels = torch.tensor(ANGLE).double(), smooth_images(6), torch.arange(6)
    inner, outer = Batch(images, labels), Batch(rotate(images, torch.tensor(0.5).double()), labels)
    noise = {n: SIGMA * torch.randn(2, *p.shape).double().sign() for n, p in params.items()}

    def validation_loss(angle):
        return problem.outer_loss(moved(problem, params, angle, inner, noise), {}, outer).item()

    h = 1e-6
    expected = (validation_loss(angle + h) - validation_loss(angle - h)) / (2 * h)
    given = {"noise": noise} if moved is merged else {}
    found = estimator(problem, params, {"angle": angle}, inner, outer, **given).grads["angle"]
    assert abs(expected) > 1e-7
    assert found.item() == pytest.approx(expected, rel=1e-5)


def learner_of(method: str, **changes) -> Learner:
    seed_everything(1)
    return Learner(Config(method=method, **changes), torch.device("cpu"))


BATCH = Batch(smooth_images(8, torch.float32), torch.arange(8))


@pytest.mark.parametrize("method", ["baseline", "random_rotation", "evograd"])
def test_the_base_step_is_adam_on_the_images_as_the_method_turns_them(method):
    learner, network = learner_of(method), learner_of(method).network
    learner.angle.fill_(0.3)
    drawn = 2 * torch.rand(8, generator=new_generator(1, "random rotations")) - 1
    angles = {"random_rotation": torch.pi / 4 * drawn, "evograd": torch.tensor(0.3)}
    images = normalise(BATCH.pixels)
    images = rotate(images, angles[method]) if method in angles else images
    loss = nn.functional.cross_entropy(network(images), BATCH.labels)
    loss.backward()
    torch.optim.Adam(network.parameters(), 1e-3).step()
    torch.testing.assert_close(learner.base_step(BATCH), loss.detach())
    for found, expected in zip(learner.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_random_rotations_go_on_where_a_checkpoint_was_made():
    """Steps at a rate that leaves the weights alone, so that the loss tells the angles."""
    one, other = (learner_of("random_rotation", learning_rate=1e-30) for _ in range(2))
    first = one.base_step(BATCH)
    restore(other.state, state_of(one.state))
    assert one.base_step(BATCH) == other.base_step(BATCH) != first


def test_a_run_leaves_a_record_that_the_report_shows(tmp_path, not_rendered):
    run, words = tmp_path / "run", "--preset smoke --train-size 640 --meta-size 100 --log-every 1"
    EXPERIMENT.main([*words.split(), "--test-size", "100", "--run-dir", str(run)])
    record = load(run / "record.json", RunRecord)
    assert record.config["train_size"] == 640 and record.data["meta images rotated by 30 degrees"]
    assert {"torch", "python", "git_commit", "wall_seconds"} <= record.provenance.keys()
    assert record.cost["peak_bytes"] > 0 and record.cost["seconds_per_epoch"] > 0
    assert len(record.traces["angle_degrees"]) == 10
    record = record.model_copy(update={"config": PRESETS["smoke"].result_settings()})
    part = section([record], "smoke", tmp_path)
    assert part.runs == 1 and part.planned_runs == 6
    table = (tmp_path / "accuracy.md").read_text()
    assert f"{record.final['rotated']:.2f}" in table and "98.11" in table
    assert "no differences" in table  # smoke is not the paper's size
    assert {"angles.png", "digits.png", "cost.tex"} <= {p.name for p in tmp_path.iterdir()}
