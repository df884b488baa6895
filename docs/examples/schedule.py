"""A rate for each of forty steps of Adam, through all of them."""

import torch
from hypergradients import HyperOptimizer, LearnedLR, Unrolled
from sklearn.datasets import load_digits
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid = order[:1000], order[1000:]


def loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


model = torch.nn.Linear(64, 10)
adam = torch.optim.Adam(model.parameters())
hyper = {"log_lr": torch.full((40,), -5.0)}
rates = LearnedLR(lambda hyper: hyper["log_lr"].exp().unbind(), adam)
meta = torch.optim.Adam(hyper.values(), lr=0.2)
hyper_optimizer = HyperOptimizer(
    model, hyper, loss, loss, Unrolled(rates, steps=40, recompute=True), meta
)
for step in range(31):
    batches = train[torch.randint(1000, (40, 20))]
    result = hyper_optimizer.step(list(batches), valid)
    if step % 10 == 0:
        first, last = (part.exp().mean() for part in hyper["log_lr"].split([30, 10]))
        print(f"rates {first:.3f}, at the end {last:.3f}, loss {result.outer_loss:.3f}")
