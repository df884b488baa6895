"""A mixture of three losses: the digits of few images, the parity of many, and random labels."""

import torch
from hypergradients import EvoGradAlongGradient, HyperOptimizer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid, test = order[:1000], order[1000:1100], order[1100:]
few, random = train[:50], torch.randint(2, (1797,))
hyper = {"logits": torch.zeros(3)}


def train_loss(model, hyper, batch):
    scores, main = model(images[batch]), F.cross_entropy(model(images[few])[:, :10], labels[few])
    parity = F.cross_entropy(scores[:, 10:12], labels[batch] % 2)
    noise = F.cross_entropy(scores[:, 12:], random[batch])
    return hyper["logits"].softmax(0) @ torch.stack([main, parity, noise])


def valid_loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch])[:, :10], labels[batch])


for meta_lr in (0.0, 1e-2):  # without learning the mixture, and with it
    model = Sequential(Linear(64, 16), ReLU(), Linear(16, 14))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    meta, estimator = torch.optim.Adam(hyper.values(), lr=meta_lr), EvoGradAlongGradient(radius=0.1)
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for batch in torch.randint(1000, (500, 100)):
        hyper_optimizer.step(train[batch], valid)
        optimizer.zero_grad()
        train_loss(model, hyper, train[batch]).backward()
        optimizer.step()
    loss, weights = valid_loss(model, hyper, test), hyper["logits"].softmax(0).tolist()
    print("digits {:.2f}, parity {:.2f}, random {:.2f}; test loss {:.2f}".format(*weights, loss))
