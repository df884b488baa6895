"""A mixture of three losses: of right labels, of partly wrong ones, and of random ones."""

import torch
from hypergradients import EvoGradAlongGradient, HyperOptimizer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid, test = order[:1000], order[1000:1100], order[1100:]
sources = train.split([100, 450, 450])
given, hyper = labels.clone(), {"logits": torch.zeros(3)}
given[sources[1][:150]], given[sources[2]] = torch.randint(10, (600,)).split([150, 450])


def train_loss(model, hyper, batch):  # batch: 50 of each source
    losses = F.cross_entropy(model(images[batch]), given[batch], reduction="none")
    return hyper["logits"].softmax(0) @ losses.view(3, 50).mean(1)


def valid_loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


for meta_lr in (0.0, 1e-2):  # without learning the mixture, and with it
    model = Sequential(Linear(64, 64), ReLU(), Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    meta, estimator = torch.optim.Adam(hyper.values(), lr=meta_lr), EvoGradAlongGradient(radius=0.1)
    hyper_optimizer = HyperOptimizer(model, hyper, train_loss, valid_loss, estimator, meta)
    for _ in range(500):
        batch = torch.cat([part[torch.randint(len(part), (50,))] for part in sources])
        hyper_optimizer.step(batch, valid)
        optimizer.zero_grad()
        train_loss(model, hyper, batch).backward()
        optimizer.step()
    loss, (r, p, n) = valid_loss(model, hyper, test), hyper["logits"].softmax(0)
    print(f"right {r:.2f}, partly wrong {p:.2f}, random {n:.2f}; test loss {loss:.2f}")
