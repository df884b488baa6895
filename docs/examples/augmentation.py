"""How far to shift training images, where the images to come are shifted by up to two pixels."""

import torch
from hypergradients import EvoGradAlongGradient, HyperOptimizer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float().view(-1, 1, 8, 8) / 16, torch.randperm(1797)
train, valid, test = order[:1000], order[1000:1200], order[1200:]
hyper = {"pixels": torch.tensor(0.1)}


def train_loss(model, hyper, batch):  # each image moves by its own distance, within +-pixels
    move = (2 * torch.rand(len(batch), 2, 1) - 1) * hyper["pixels"] / 4
    theta = torch.cat([torch.eye(2).expand(len(batch), 2, 2), move], 2)
    grid = F.affine_grid(theta, (len(batch), 1, 8, 8), align_corners=False)
    moved = F.grid_sample(images[batch], grid, align_corners=False)
    return F.cross_entropy(model(moved.flatten(1)), labels[batch])


def valid_loss(model, hyper, batch):
    return train_loss(model, {"pixels": 2.0}, batch)


for meta_lr in (0.0, 2e-2):  # without learning the distance, and with it
    model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    meta, estimator = torch.optim.Adam(hyper.values(), lr=meta_lr), EvoGradAlongGradient(radius=0.1)
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for batch in torch.randint(1000, (500, 100)):
        hyper_optimizer.step(train[batch], valid)
        optimizer.zero_grad()
        train_loss(model, hyper, train[batch]).backward()
        optimizer.step()
    loss = valid_loss(model, hyper, test)
    print(f"shifts within {hyper['pixels']:.2f} pixels, loss on shifted test images {loss:.2f}")
