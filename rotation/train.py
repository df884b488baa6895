"""One run, to be read from top to bottom: network, rotation, problem, base step, meta step,
evaluation."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from common.hypergrad import Tensors
from common.run import Task
from common.training import (
    Cost,
    EndlessBatches,
    EpochBatches,
    MetaStep,
    Part,
    measure,
    new_generator,
)
from rotation.config import Config
from rotation.data import Batch, load_splits

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels."""
LARGEST_TURN = 45.0
"""Method random_rotation: degrees, to either side."""


class LeNet(nn.Module):
    """conv 1-6 (5x5, padding 2), conv 6-16 (5x5), 2x2 max-pools, fully connected 400-120-84-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, 10) of normalised images (N, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] to mean 0 and standard deviation 1 over MNIST."""
    return (pixels - MEAN) / STD


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Images (N, C, H, W) turned counter-clockwise by ``angle`` (radians): () or (N,).

    Bilinear sampling on an affine grid, differentiable in the angle; 0 outside the image.
    """
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    # Row i maps output coordinates to input ones; image rows point down.
    rows = [torch.stack(row, -1) for row in ((cos, -sin, zero), (sin, cos, zero))]
    matrix = torch.stack(rows, -2).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def rotation_layer(pixels: Tensor, angle: Tensor, turned: str) -> Tensor:
    """Pixels in [0, 1] to normalised images turned by ``angle``.

    turned: "normalised", 0 outside is mean grey; "pixels", 0 outside is black.
    """
    if turned == "normalised":
        return rotate(normalise(pixels), angle)
    return normalise(rotate(pixels, angle))


class RotationProblem:
    """theta: LeNet's parameters (it has no buffers); lambda: {"angle": radians, ()}.

        L_T = cross-entropy on upright training images, turned by the angle
        L_V = cross-entropy on rotated validation images as they are; lambda does not occur

    turned: what the rotation layer turns, see ``rotation_layer``.
    """

    def __init__(self, network: nn.Module, turned: str) -> None:
        self.network, self.turned = network, turned

    def inner_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """L_T, a scalar; of an angle for each image too, (N,)."""
        images = rotation_layer(batch.pixels, hyper["angle"], self.turned)
        return self.cross_entropy(params, images, batch.labels)

    def outer_loss(self, params: Tensors, hyper: Tensors, batch: Batch) -> Tensor:
        """L_V, a scalar."""
        return self.cross_entropy(params, normalise(batch.pixels), batch.labels)

    def cross_entropy(self, params: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        """Of normalised images, a scalar."""
        return F.cross_entropy(functional_call(self.network, dict(params), (images,)), labels)


class Learner:
    """What is trained: LeNet, and the angle by the methods with a meta step.

    Others train on upright images (baseline), or on images each turned by an angle of its own,
    uniform up to LARGEST_TURN to either side (random_rotation).
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        # Channels last: on a CPU the first convolution's gradient to its input, which the angle
        # needs, takes half the time.
        self.network = LeNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.problem = RotationProblem(self.network, config.rotate)
        self.angle = torch.zeros((), device=device)
        self.meta = self.random_rotations = None
        self.state: dict[str, Part] = {"network": self.network, "optimizer": self.optimizer}
        if (estimator := config.make_estimator(config.learning_rate)) is not None:
            hyper, noise = {"angle": self.angle}, new_generator(config.seed, "perturbations")
            optimizer = torch.optim.Adam([self.angle], config.meta_learning_rate)
            self.meta = MetaStep(estimator, self.problem, hyper, optimizer, noise, config.every)
            self.state["meta"] = self.meta.state
        elif config.method == "random_rotation":
            self.random_rotations = new_generator(config.seed, "random rotations")
            self.state["random_rotations"] = self.random_rotations

    def step(self, batch: Batch, meta_batch: Batch | None) -> dict[str, Tensor]:
        """A base step at the present angle, then a meta step at the new weights; their metrics."""
        metrics = {"train_loss": self.base_step(batch)}
        if self.meta is None:
            return metrics
        if self.meta.due():
            metrics |= self.meta(dict(self.network.named_parameters()), batch, meta_batch)
        return metrics | {"angle_degrees": torch.rad2deg(self.angle)}

    def base_step(self, batch: Batch) -> Tensor:
        """A step of Adam on the training loss, which is returned."""
        loss_of, angle = self.problem.inner_loss, self.angle
        if self.random_rotations is not None:
            drawn = torch.rand(len(batch.labels), generator=self.random_rotations)
            drawn = torch.deg2rad(LARGEST_TURN * (2 * drawn - 1))
            angle = drawn.to(angle.device, non_blocking=True)
        elif self.meta is None:
            loss_of = self.problem.outer_loss  # of images as they are
        loss = loss_of(dict(self.network.named_parameters()), {"angle": angle}, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class RotationTask(Task):
    """Epochs over upright images that the method turns, validated and tested on truly rotated
    ones."""

    def __init__(self, config: Config, device: torch.device) -> None:
        splits, self.checksums = load_splits(config, device)
        self.train, self.meta, self.test = (splits[name] for name in ("train", "meta", "test"))
        self.config, self.device = config, device
        self.learner = Learner(config, device)
        stream, size = partial(new_generator, config.seed), config.batch_size
        self.train_batches = EpochBatches(
            config.train_size, size, stream("training batches"), device, config.shuffle
        )
        self.meta_batches = EndlessBatches(config.meta_size, size, stream("meta batches"), device)
        self.steps_per_epoch = len(self.train_batches)
        batches = {"train_batches": self.train_batches, "meta_batches": self.meta_batches}
        self.state: Mapping[str, Part] = self.learner.state | batches

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        for index in self.train_batches.epoch():
            meta_batch = None
            if self.learner.meta is not None:
                meta_batch = self.meta.batch(self.meta_batches.next())
            yield self.learner.step(self.train.batch(index), meta_batch)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Accuracies in percent: rotated test images, and the same turned back upright."""
        back = torch.tensor(math.radians(-self.config.degrees), device=self.device)
        turn_back = partial(rotation_layer, angle=back, turned=self.config.rotate)
        metrics = {"rotated": self.accuracy(normalise), "standard": self.accuracy(turn_back)}
        if self.learner.meta is not None:
            metrics["angle_degrees"] = math.degrees(self.learner.angle.item())
            metrics["moved"] = self.learner.meta.moved
        return metrics

    @torch.no_grad()
    def accuracy(self, prepare: Callable[[Tensor], Tensor]) -> float:
        """Percent right on the test pixels after ``prepare``."""
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for index in torch.arange(len(self.test.labels), device=self.device).split(2000):
            batch = self.test.batch(index)
            right += (self.learner.network(prepare(batch.pixels)).argmax(1) == batch.labels).sum()
        return 100 * right.item() / len(self.test.labels)

    def measure_cost(self) -> Cost:
        """Of one step, always on the same batches."""
        first = torch.arange(self.config.batch_size, device=self.device)
        train, meta = (s.batch(first[: len(s.labels)]) for s in (self.train, self.meta))
        return measure(lambda: self.learner.step(train, meta), self.device, repeats=20)
