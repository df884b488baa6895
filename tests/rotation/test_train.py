"""LeNet, the rotation layer, the data, the bilevel problem and the base step."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.hypergrad import T1T2, FiniteDifference, HigherT1T2
from common.training import new_generator, restore, seed_everything, state_of
from rotation.config import Config
from rotation.data import Batch, rotate_images
from rotation.train import Learner, LeNet, RotationProblem, normalise, rotate, rotation_layer
from tests.common.hypergrad.problems import EVOGRADS


def smooth_images(count: int = 3, dtype=torch.float64) -> torch.Tensor:
    """Blobs off the centre, bright inside, black at the border."""
    grid = torch.linspace(-1, 1, 28, dtype=dtype)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    centres = torch.linspace(-0.4, 0.4, count, dtype=dtype)
    blobs = [torch.exp(-((x - c) ** 2 + (y - 0.3) ** 2) / 0.03) for c in centres]
    return torch.stack(blobs).unsqueeze(1)


def test_lenet_has_the_classic_number_of_parameters():
    assert sum(p.numel() for p in LeNet().parameters()) == 61_706
    assert LeNet()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("degrees", [30, -30, 90, 12.5])
def test_the_layer_turns_as_pillow_does(degrees):
    images = smooth_images()
    turned = rotate(images, torch.tensor(math.radians(degrees), dtype=torch.float64))
    for image, result in zip(images[:, 0], turned[:, 0], strict=True):
        pillow = Image.fromarray(image.numpy().astype(np.float32))
        expected = np.asarray(pillow.rotate(degrees, resample=Image.Resampling.BILINEAR))
        assert np.abs(result.numpy() - expected).max() < 0.02


def test_quarter_turns_are_exact_each_image_by_its_own():
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    turned = rotate(images, torch.tensor([0, 1, -1], dtype=torch.float64) * math.pi / 2)
    for image, result, quarters in zip(images, turned, (0, 1, -1), strict=True):
        torch.testing.assert_close(result, torch.rot90(image, quarters, (1, 2)))


def test_the_layer_is_differentiable_in_the_angle():
    images = smooth_images()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()

    def value(angle):
        return (rotate(images, angle) * weights).sum()

    angle = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, angle, eps=1e-6)


def test_corners_are_black_or_mean_grey():
    black = torch.zeros(1, 1, 28, 28)
    angle = torch.tensor(math.pi / 4)
    pixels = rotation_layer(black, angle, "pixels")
    torch.testing.assert_close(pixels, normalise(black))
    grey = rotation_layer(black, angle, "normalised")
    assert grey[0, 0, 0, 0] == 0
    torch.testing.assert_close(grey[0, 0, 14, 14], normalise(black)[0, 0, 14, 14])


def test_validation_images_are_turned_by_nearest_neighbours():
    images = (smooth_images()[:, 0] * 255).to(torch.uint8)
    turned = rotate_images(images, 30.0)
    assert turned.dtype == torch.uint8 and turned.shape == images.shape
    for image, result in zip(images, turned, strict=True):
        expected = np.asarray(Image.fromarray(image.numpy()).rotate(30.0))
        assert np.array_equal(result.numpy(), expected)


ANGLE = 0.2


def derivative(function) -> float:
    """By a central difference at ANGLE."""
    h, angle = 1e-6, torch.tensor(ANGLE, dtype=torch.float64)
    return (function(angle + h) - function(angle - h)) / (2 * h)


@pytest.fixture
def arguments():
    torch.manual_seed(0)
    # No kinks (ReLU, max-pooling): a difference over the angle would be no ground truth there.
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(64, 10)
    ).double()
    hyper = {"angle": torch.tensor(ANGLE, dtype=torch.float64)}
    images = smooth_images(6)
    labels = torch.arange(6)
    turned = rotate(images, torch.tensor(math.radians(30), dtype=torch.float64))
    problem = RotationProblem(network, "normalised")
    inner, outer = Batch(images, labels), Batch(turned, labels)
    return problem, dict(network.named_parameters()), hyper, inner, outer


@pytest.mark.parametrize("method", [T1T2, HigherT1T2, FiniteDifference])
def test_hypergradients_equal_a_difference_over_the_angle(arguments, method):
    """L_V after one SGD step, as a function of the angle, by central differences."""
    problem, params, _, inner, outer = arguments
    eta = 0.1

    def validation_loss(angle):
        theta = {n: p.detach().requires_grad_() for n, p in params.items()}
        grads = torch.autograd.grad(
            problem.inner_loss(theta, {"angle": angle}, inner), list(theta.values())
        )
        moved = {n: t - eta * g for (n, t), g in zip(theta.items(), grads, strict=True)}
        return problem.outer_loss(moved, {}, outer).item()

    expected = derivative(validation_loss)
    options = {"radius": 1e-4} if method is FiniteDifference else {}
    grad = method(eta, **options)(*arguments).grads["angle"].item()
    assert abs(expected) > 1e-7
    assert grad == pytest.approx(expected, rel=1e-5)


def test_evograd_equals_a_difference_over_the_angle(arguments):
    """L_V at the merged candidates, the noise held fixed, by central differences."""
    problem, params, _, inner, outer = arguments
    g = torch.Generator().manual_seed(1)
    sigma, tau = 1e-2, 0.05
    noise = {
        n: sigma * torch.randn(2, *p.shape, generator=g, dtype=torch.float64).sign()
        for n, p in params.items()
    }

    def validation_loss(angle):
        candidates = [{n: p.detach() + noise[n][k] for n, p in params.items()} for k in (0, 1)]
        losses = [problem.inner_loss(c, {"angle": angle}, inner) for c in candidates]
        w = torch.softmax(-torch.stack(losses) / tau, 0)
        merged = {n: w[0] * candidates[0][n] + w[1] * candidates[1][n] for n in params}
        return problem.outer_loss(merged, {}, outer).item()

    expected = derivative(validation_loss)
    for kind in EVOGRADS.values():
        grad = kind(2, sigma, tau)(*arguments, noise=noise).grads["angle"].item()
        assert grad == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-6


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
    if method in angles:
        images = rotate(images, angles[method])
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
