"""How many entries of a hypergradient, for weights of samples, lie below Adam's eps of 1e-8."""

import torch
from hypergradients import EvoGrad, EvoGradAlongGradient, HyperOptimizer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid = order[:1000], order[1000:1100]
given = labels.index_add(0, train[600:], torch.randint(1, 10, (400,))) % 10


def train_loss(model, hyper, batch):
    weights = torch.sigmoid(hyper["logits"][batch])
    losses = F.cross_entropy(model(images[batch]), given[batch], reduction="none")
    return weights @ losses / weights.sum()


def valid_loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


for estimator in (EvoGrad(), EvoGradAlongGradient(radius=0.1)):
    model, hyper = Sequential(Linear(64, 64), ReLU(), Linear(64, 10)), {"logits": torch.zeros(1797)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    meta, below = torch.optim.Adam(hyper.values(), lr=0.1), []
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for batch in train[torch.randint(1000, (500, 100))]:
        grads = hyper_optimizer.step(batch, valid).grads["logits"]
        below.append((grads[batch].abs() < 1e-8).float().mean())
        optimizer.zero_grad()
        train_loss(model, hyper, batch).backward()
        optimizer.step()
    all_steps, last = torch.stack(below).mean(), torch.stack(below[-100:]).mean()
    print(f"{type(estimator).__name__}: share {all_steps:.2f}, {last:.2f} in the last 100 steps")
