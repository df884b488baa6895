"""Initial parameters for letters seen once (MAML), and a rate for every entry too (Meta-SGD)."""

import torch
from hypergradients import HyperOptimizer, LearnedLR, Unrolled

from cross_domain_fewshot.embedded import load

torch.manual_seed(0)
letters = {n: torch.tensor(load("latin").split(n)[..., ::2, ::2, 0]) for n in ("base", "novel")}
rates = LearnedLR(lambda hyper: {n: hyper[f"log {n}"].exp() for n in start})


def episode(split):  # five letters: one image of each to learn from, five to be asked about
    images = letters[split][torch.randperm(len(letters[split]))[:5]].flatten(2) / 255
    parts = images[:, torch.randperm(images.shape[1])[:6]].split([1, 5], dim=1)
    return [(x.flatten(0, 1), torch.arange(5).repeat_interleave(x.shape[1])) for x in parts]


def loss(model, hyper, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


for name in ("MAML", "Meta-SGD"):
    model = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    start = dict(model.named_parameters())
    logs = {f"log {n}": torch.full_like(p, -2.3) for n, p in start.items()}
    hyper, rate = (start, 0.1) if name == "MAML" else (start | logs, rates)
    right, adam = [], torch.optim.Adam(hyper.values(), 2e-3)
    maml = HyperOptimizer(model, hyper, loss, loss, Unrolled(rate, 3, start=lambda h: h), adam)
    for step in range(600):
        support, (images, asked) = episode("base" if step < 500 else "novel")
        maml.zero_grad()
        result = maml.backward([support] * 3, (images, asked))
        if step < 500:
            adam.step()
            continue
        found = torch.func.functional_call(model, result.params, images)
        right += (found.argmax(1) == asked).tolist()
    print(f"{name}: accuracy on unseen letters {sum(right) / len(right):.3f}, by chance 0.2")
