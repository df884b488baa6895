"""HyperOptimizer against the functional interface, bit for bit, and what a training loop needs."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from common.estimators import ESTIMATORS
from common.hypergrad import T1T2, EvoGrad, EvoGradAlongGradient, HyperOptimizer, Unrolled
from tests.common.hypergrad.problems import inner_batch_for, relative, seeded, small


def network(dropout=0.3, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, 5),
    ).to(dtype)


def batch(size, dtype=torch.float64):
    return torch.randn(size, 2, 6, 6, dtype=dtype), torch.randint(5, (size,))


class Weights(nn.Module):
    """Weights of samples by their losses."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
        self.to(dtype)

    def forward(self, losses):
        return self.net(losses.detach()[:, None])[:, 0]


def weighted_loss(model, weights, batch):
    losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (weights(losses) * losses).mean()


def valid_loss(model, _, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def decay_loss(model, hyper, batch):
    penalty = sum(
        h.exp() * p.square().sum() for h, p in zip(hyper["h"], model.parameters(), strict=True)
    )
    return F.cross_entropy(model(batch[0]), batch[1]) + penalty


def scaled_input_loss(model, hyper, batch):
    images = batch[0] * hyper["scale"].view(1, 2, 1, 1) + hyper["shift"]
    return F.cross_entropy(model(images), batch[1])


def functional(model, loss, hyper_module=None):
    """The loss as the functional interface has it, written with functional_call by hand."""

    def evaluate(params, hyper, batch):
        def call(x):
            buffers = {n: b.clone() for n, b in model.named_buffers()}
            return functional_call(model, (dict(params), buffers), (x,))

        call.parameters = params.values
        if hyper_module is not None:
            given = hyper
            return loss(call, lambda x: functional_call(hyper_module, dict(given), (x,)), batch)
        return loss(call, hyper, batch)

    return evaluate


class Problem:
    def __init__(self, inner, outer):
        self.inner_loss, self.outer_loss = inner, outer


def tensors(**shapes):
    return {n: 0.1 * torch.randn(shape, dtype=torch.float64) for n, shape in shapes.items()}


CASES = {
    "module": (Weights, weighted_loss),
    "mapping": (lambda: tensors(h=(6,)), decay_loss),
    "iterable": (lambda: tensors(scale=(2,), shift=()).items(), scaled_input_loss),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_functional_interface_bit_for_bit(name, case):
    if name == "t1t2_forward" and case == "iterable":
        pytest.skip("refused where lambda stands before batch norm")
    model = network()
    make, train_loss = CASES[case]
    hyper = make()
    module = hyper if isinstance(hyper, nn.Module) else None
    named = dict(hyper.named_parameters()) if module else dict(hyper)
    estimator = small(ESTIMATORS[name])
    train, valid = inner_batch_for(estimator, batch(8)), batch(9)
    problem = Problem(functional(model, train_loss, module), functional(model, valid_loss))
    params = dict(model.named_parameters())
    expected = estimator(problem, params, named, train, valid, seeded(1))
    optimizer = torch.optim.SGD(named.values(), lr=0.5)
    before = {n: h.detach().clone() for n, h in named.items()}
    given = (module or named.items(), train_loss, valid_loss, estimator, optimizer, seeded(1))
    result = HyperOptimizer(model, *given).step(train, valid)
    assert torch.equal(result.outer_loss, expected.outer_loss)
    assert any(h.grad.any() for h in named.values())
    for n, h in named.items():
        assert torch.equal(h.grad, expected.grads[n])
        assert torch.equal(h.detach(), before[n] - 0.5 * h.grad)


@pytest.mark.parametrize(
    "follow",
    [T1T2, lambda optimizer: EvoGradAlongGradient(1e-3, inner_lr=optimizer)],
    ids=["T1T2", "EvoGradAlongGradient"],
)
def test_an_estimator_follows_the_models_own_optimizer(follow):
    """Its moments and its rate are read at every call; another model's optimiser is refused."""
    model, hyper = network(dropout=0.0), {"h": torch.full((6,), -3.0, dtype=torch.float64)}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.1)
    meta = torch.optim.SGD(hyper.values(), lr=0.0)
    follower = HyperOptimizer(model, hyper, decay_loss, valid_loss, follow(optimizer), meta)
    train, valid, found = batch(8), batch(9), []
    for rate in (1e-3, 2e-3):
        optimizer.param_groups[0]["lr"] = rate
        found.append(follower.backward(train, valid).grads["h"])
    assert relative(found[1], 2 * found[0]) < 0.05
    decay_loss(model, hyper, train).backward()
    optimizer.step()
    model.load_state_dict(network(dropout=0.0).state_dict())  # only the moments are new
    assert relative(follower.backward(train, valid).grads["h"], found[1]) > 0.05
    others = torch.optim.Adam(network().parameters())
    with pytest.raises(ValueError, match="holds none of the parameters"):
        HyperOptimizer(model, hyper, decay_loss, valid_loss, follow(others), meta).step(
            train, valid
        )


class Shifted(nn.Module):
    """Linear regression in closed form: y = a (b x + s), parts of it frozen or hyperparameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.s = (
            nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.7, 1.3, 0.2)
        )

    def forward(self, x):
        return self.a * (self.b * x + self.s)


def square_loss(model, _, batch):
    return 0.5 * (model(batch) - 1).square()


@pytest.mark.parametrize("kind", ["mapping", "module"])
def test_frozen_parameters_stay_and_parts_of_the_model_may_be_hyperparameters(kind):
    """theta = a, lambda = s, b frozen: both sides by hand."""
    model, eta = Shifted(), 0.1
    model.b.requires_grad_(False)
    train, valid = torch.tensor([0.5, -0.4], dtype=torch.float64)
    a, b, s = 0.7, 1.3, 0.2
    inner = b * 0.5 + s
    step = a - eta * (a * inner - 1) * inner
    error = step * (b * -0.4 + s) - 1
    d_step = -eta * (a * inner + a * inner - 1)
    expected = error * ((b * -0.4 + s) * d_step + step)
    hyper = {"shift": model.s}
    if kind == "module":
        hyper = nn.Module()
        hyper.shift = model.s
    optimizer = torch.optim.SGD([model.s], lr=1.0)
    hyper_optimizer = HyperOptimizer(model, hyper, square_loss, square_loss, T1T2(eta), optimizer)
    assert list(hyper_optimizer.problem.params()) == ["a"]
    hyper_optimizer.step(train, valid)
    assert model.s.grad.item() == pytest.approx(expected, rel=1e-12)
    assert model.s.item() == pytest.approx(s - expected, rel=1e-12)
    assert (model.a.item(), model.b.item()) == (a, b)


def test_tied_weights_are_one_parameter():
    """Against the same function with the weight used twice by hand."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    model, la = Tied(), torch.tensor([0.3], dtype=torch.float64)
    x, y = torch.randn(4, 3).double(), torch.randn(5, 3).double()

    def train(model, hyper, batch):
        return hyper["la"].exp() @ model(batch).square().mean(0)[:1]

    def valid(model, _, batch):
        return (model(batch) - 1).square().mean()

    def output(p, x):
        hidden = torch.tanh(F.linear(x, p["first.weight"], p["first.bias"]))
        return F.linear(hidden, p["first.weight"], p["second.bias"])

    problem = Problem(
        lambda p, h, b: h["la"].exp() @ output(p, b).square().mean(0)[:1],
        lambda p, h, b: (output(p, b) - 1).square().mean(),
    )
    expected = T1T2(0.1)(problem, dict(model.named_parameters()), {"la": la}, x, y).grads["la"]
    optimizer = torch.optim.SGD([la], lr=0.1)
    HyperOptimizer(model, {"la": la}, train, valid, T1T2(0.1), optimizer).backward(x, y)
    torch.testing.assert_close(la.grad, expected, rtol=1e-12, atol=0)


def decayed(estimator=None, lr=0.1, every=1, **options):
    model = network(**options)
    hyper = {"h": torch.full((6,), -3.0, dtype=torch.float64)}
    optimizer = torch.optim.Adam(hyper.values(), lr=lr)
    generator = seeded(2)
    return HyperOptimizer(
        model, hyper, decay_loss, valid_loss, estimator or T1T2(0.1), optimizer, generator, every
    )


def single_hypergradients(hyper_optimizer, pairs):
    problem, hyper = hyper_optimizer.problem, hyper_optimizer.hyper
    return [
        hyper_optimizer.estimator(problem, problem.params(), hyper, *pair).grads["h"]
        for pair in pairs
    ]


def test_backward_adds_to_grad_and_step_begins_anew():
    """``.grad`` is all that adds up, so it may be clipped, and emptied by whoever likes to."""
    hyper_optimizer = decayed(dropout=0.0, lr=0.0)
    pairs = [(batch(8), batch(8)) for _ in range(3)]
    single = single_hypergradients(hyper_optimizer, pairs)
    h = hyper_optimizer.hyper["h"]
    h.grad = torch.ones_like(h)  # as a base step's backward leaves
    hyper_optimizer.zero_grad()
    for pair in pairs:
        hyper_optimizer.backward(*pair, weight=1 / 3)
    torch.testing.assert_close(h.grad, sum(single) / 3, rtol=1e-12, atol=1e-18)
    hyper_optimizer.step(*pairs[0])
    torch.testing.assert_close(h.grad, single[0], rtol=1e-12, atol=1e-18)
    for _ in range(3):  # torch's usual order, with clipping, at a fixed state
        hyper_optimizer.optimizer.zero_grad()
        result = hyper_optimizer.backward(*pairs[1])
        nn.utils.clip_grad_norm_([h], 1e9)
        hyper_optimizer.optimizer.step()
        torch.testing.assert_close(h.grad, result.grads["h"], rtol=1e-12, atol=0)


def test_a_step_at_every_third_call():
    hyper_optimizer = decayed(every=3)
    pair = batch(8), batch(8)
    taken = [hyper_optimizer.step(*pair) is not None for _ in range(5)]
    assert taken == [True, False, False, True, False]
    resumed = decayed(every=3)
    resumed.load_state_dict(hyper_optimizer.state_dict())
    assert [resumed.step(*pair) is not None for _ in range(2)] == [False, True]


def test_a_loaded_state_goes_on_with_the_same_numbers():
    whole, broken = decayed(EvoGrad(), dropout=0.3), decayed(EvoGrad(), dropout=0.3)
    pairs = [(batch(8), batch(8)) for _ in range(4)]
    for pair in pairs:
        whole.step(*pair)
    for pair in pairs[:2]:
        broken.step(*pair)
    resumed = decayed(EvoGrad(), dropout=0.3)
    resumed.load_state_dict(copy.deepcopy(broken.state_dict()))
    for pair in pairs[2:]:
        resumed.step(*pair)
    assert torch.equal(resumed.hyper["h"], whole.hyper["h"])
    assert not torch.equal(resumed.hyper["h"], broken.hyper["h"])


def test_states_of_others_are_refused(tmp_path):
    hyper_optimizer = decayed()
    path = tmp_path / "state.pt"
    torch.save(hyper_optimizer.state_dict(), path)
    state = torch.load(path, weights_only=True)
    hyper_optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="other hyperparameters"):
        hyper_optimizer.load_state_dict(state | {"hyper": {"h": torch.zeros(5)}})
    with pytest.raises(ValueError, match="generator"):
        hyper_optimizer.load_state_dict(state | {"generator": None})


@pytest.mark.parametrize(
    ("hyper", "held", "said"),
    [
        ({}, [torch.zeros(1)], "holds no tensor"),
        ({"h": torch.zeros(6, dtype=torch.int64)}, None, "'h'.*floating-point"),
        ({"h": 0.1}, [torch.zeros(1)], "'h'.*floating-point"),
        ({"h": torch.zeros(6)}, [torch.zeros(6)], "no hyperparameters"),
        ({"h": torch.zeros(6), "i": torch.zeros(1)}, "h", "does not hold .* i"),
    ],
)
def test_hyperparameters_and_optimizer_must_fit_together(hyper, held, said):
    if held is None or held == "h":
        held = [hyper["h"]]
    optimizer = torch.optim.SGD(held, lr=0.1)
    with pytest.raises(ValueError, match=said):
        HyperOptimizer(network(), hyper, decay_loss, valid_loss, T1T2(0.1), optimizer)


def in_float32(estimator, train=weighted_loss, valid=valid_loss):
    torch.manual_seed(4)
    model, weights = network(dropout=0.0, dtype=torch.float32), Weights(torch.float32)
    optimizer = torch.optim.SGD(weights.parameters(), lr=10.0)
    return HyperOptimizer(model, weights, train, valid, estimator, optimizer, seeded(3))


def under_autocast(loss):
    def evaluate(*arguments):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(*arguments)

    return evaluate


def flat(grads):
    return torch.cat([grad.flatten() for grad in grads.values()])


@pytest.mark.parametrize(
    "estimator", [T1T2(0.1), EvoGradAlongGradient(1.0), EvoGrad(sigma=0.1)], ids=str
)
def test_autocast_inside_the_losses_or_around_the_call_gives_the_same_numbers(estimator):
    pair = batch(32, torch.float32), batch(32, torch.float32)
    inside = in_float32(estimator, under_autocast(weighted_loss), under_autocast(valid_loss))
    result = inside.backward(*pair)
    with torch.autocast("cpu", torch.bfloat16):
        around = in_float32(estimator).backward(*pair)
    assert all(torch.equal(around.grads[n], grad) for n, grad in result.grads.items())
    full = in_float32(estimator).backward(*pair)
    assert not torch.equal(flat(full.grads), flat(result.grads))
    assert F.cosine_similarity(flat(full.grads), flat(result.grads), dim=0) > 0.99


def test_a_loss_may_change_the_mode_which_is_put_back():
    """valid_loss in evaluation mode, train_loss as the model is: dropout in one, none in the other,
    however often they are evaluated."""

    def in_eval(model, hyper, batch):
        model.eval()
        return valid_loss(model, hyper, batch)

    def in_train(model, hyper, batch):
        model.train()
        return decay_loss(model, hyper, batch)

    hyper_optimizer = decayed()
    pair = batch(8), batch(8)
    hyper_optimizer.problem.losses = {"train_loss": decay_loss, "valid_loss": in_eval}
    first = hyper_optimizer.backward(*pair).grads["h"]
    assert all(module.training for module in hyper_optimizer.problem.model.modules())
    explicit = decayed()
    explicit.problem.losses = {"train_loss": in_train, "valid_loss": in_eval}
    assert torch.equal(explicit.backward(*pair).grads["h"], first)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"estimator": T1T2}, "must be an instance.*T1T2"),
        ({"hyper": Weights().parameters()}, "has no names"),
    ],
)
def test_a_class_and_nameless_parameters_are_refused(changed, said):
    hyper = {"h": torch.zeros(6)}
    given = {"hyper": hyper, "estimator": T1T2(0.1)} | changed
    optimizer = torch.optim.SGD(hyper.values(), lr=0.1)
    with pytest.raises(TypeError, match=said):
        HyperOptimizer(
            network(), train_loss=decay_loss, valid_loss=valid_loss, optimizer=optimizer, **given
        )


def averaged(rank, folder):
    """Each of two ranks has batches of its own; writes what it got, and what it had alone."""
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    made = decayed(dropout=0.0)
    torch.manual_seed(rank)
    pair = batch(8), batch(8)
    alone = single_hypergradients(made, [pair])[0]
    parallel = nn.parallel.DistributedDataParallel(made.problem.model)
    h = made.hyper["h"]
    optimizer = torch.optim.SGD([h], lr=0.1)
    HyperOptimizer(parallel, made.hyper, decay_loss, valid_loss, T1T2(0.1), optimizer).step(*pair)
    torch.save((alone, h.grad, h), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_of_a_distributed_model_take_the_mean(tmp_path):
    torch.multiprocessing.spawn(averaged, (str(tmp_path),), nprocs=2)
    (a, mean, h), (b, other, other_h) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.allclose(a, b)
    torch.testing.assert_close(mean, (a + b) / 2)
    assert torch.equal(mean, other) and torch.equal(h, other_h)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_models_own_parameters_may_be_where_the_steps_start(recompute):
    """MAML, with weight decay towards the start: both are one tensor, and both parts count."""

    def train_loss(model, hyper, batch):
        near = sum((p - hyper[n]).square().sum() for n, p in model.named_parameters())
        return base_loss(model, hyper, batch) + 0.3 * near

    def base_loss(model, hyper, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    start = dict(model.named_parameters())
    support, query = ((torch.randn(5, 3).double(), torch.randn(5, 1).double()) for _ in range(2))
    optimizer = torch.optim.SGD(start.values(), 0.0)
    estimator = Unrolled(0.1, steps=2, recompute=recompute, start=lambda hyper: hyper)
    maml = HyperOptimizer(model, start, train_loss, base_loss, estimator, optimizer)
    found = maml.step([support, support], query).grads

    leaves = {n: p.detach().clone().requires_grad_() for n, p in start.items()}
    theta = dict(leaves)
    for _ in range(2):
        copies = {n: t.view_as(t) for n, t in theta.items()}
        fit = (torch.func.functional_call(model, copies, support[0]) - support[1]).square().mean()
        loss = fit + 0.3 * sum((t - leaves[n]).square().sum() for n, t in copies.items())
        grads = torch.autograd.grad(loss, list(copies.values()), create_graph=True)
        theta = {n: t - 0.1 * g for (n, t), g in zip(copies.items(), grads, strict=True)}
    outer = (torch.func.functional_call(model, theta, query[0]) - query[1]).square().mean()
    expected = dict(zip(start, torch.autograd.grad(outer, list(leaves.values())), strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)

    for wrong, said in (({}, "none of the parameters"), ({"0.bias": torch.ones(2)}, "the shape")):
        estimator = Unrolled(0.1, steps=1, start=lambda hyper, wrong=wrong: wrong)
        maml = HyperOptimizer(model, start, base_loss, base_loss, estimator, optimizer)
        with pytest.raises(ValueError, match=said):
            maml.step([support], query)
