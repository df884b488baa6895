"""A weight for every training sample, where 40 % of the labels are wrong."""

import torch
from hypergradients import EvoGradAlongGradient, HyperOptimizer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid, test = order[:1000], order[1000:1100], order[1100:]
given = labels.index_add(0, train[600:], torch.randint(1, 10, (400,))) % 10
hyper = {"logits": torch.zeros(1797)}


def train_loss(model, hyper, batch):
    weights = torch.sigmoid(hyper["logits"][batch])
    losses = F.cross_entropy(model(images[batch]), given[batch], reduction="none")
    return weights @ losses / weights.sum()


def valid_loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


for meta_lr in (0.0, 0.1):  # without learning the weights, and with it
    model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    meta, estimator = torch.optim.Adam(hyper.values(), lr=meta_lr), EvoGradAlongGradient(radius=0.1)
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for batch in torch.randint(1000, (500, 100)):
        hyper_optimizer.step(train[batch], valid)
        optimizer.zero_grad()
        train_loss(model, hyper, train[batch]).backward()
        optimizer.step()
    accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
    r, w = (torch.sigmoid(hyper["logits"][part]).mean() for part in train.split([600, 400]))
    print(f"test accuracy {accuracy:.3f}, weight of right labels {r:.2f}, of wrong {w:.2f}")
