"""The learning rate of fifty steps of SGD with momentum, through all of them."""

import torch
from hypergradients import ForwardMode, HyperOptimizer, LearnedLR
from sklearn.datasets import load_digits
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images, order = images.float() / 16, torch.randperm(1797)
train, valid, test = order[:1000], order[1000:1400], order[1400:]


def loss(model, hyper, batch):
    return F.cross_entropy(model(images[batch]), labels[batch])


model = torch.nn.Linear(64, 10)
hyper = {"log_lr": torch.tensor(-7.0)}
meta = torch.optim.Adam(hyper.values(), lr=0.3)
estimator = ForwardMode(LearnedLR(lambda hyper: hyper["log_lr"].exp()), steps=50, momentum=0.9)
hyper_optimizer = HyperOptimizer(model, hyper, loss, loss, estimator, meta)
for step in range(25):
    batches = train[torch.randint(1000, (50, 100))]
    result = hyper_optimizer.step(list(batches), valid)
    if step % 5 == 0 or step == 24:
        rate = hyper["log_lr"].exp()
        print(f"step {step}: rate {rate:.4f}, validation loss {result.outer_loss:.3f}")
