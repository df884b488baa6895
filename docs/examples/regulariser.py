"""The strength of a penalty: single steps see too little, the implicit function theorem enough."""

import torch
from hypergradients import EvoGrad, EvoGradAlongGradient, HyperOptimizer, ImplicitCG
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid, test = order[:200], order[200:600], order[600:]
given = labels.index_add(0, train[:60], torch.randint(1, 10, (60,))) % 10


def train_loss(model, hyper, batch):
    penalty = sum(p.square().sum() for p in model.parameters())
    return F.cross_entropy(model(images[batch]), given[batch]) + hyper["log"].exp() * penalty


def valid_loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


for estimator in (EvoGradAlongGradient(radius=0.1), EvoGrad(), ImplicitCG(10, damping=0.1)):
    torch.manual_seed(0)  # the same network for each
    model, hyper = Sequential(Linear(64, 64), ReLU(), Linear(64, 10)), {"log": torch.tensor(-8.0)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    meta = torch.optim.Adam(hyper.values(), lr=0.1)
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for step in range(1500):
        optimizer.zero_grad()
        train_loss(model, hyper, train).backward()
        optimizer.step()
        if step % 5 == 4:
            hyper_optimizer.step(train, valid)
        if step % 250 == 249:
            log, loss = hyper["log"].item(), valid_loss(model, hyper, test).item()
            print(f"{type(estimator).__name__}: log strength {log:.1f}, test loss {loss:.2f}")
