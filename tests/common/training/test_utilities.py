"""Device, seeds, batches and cost measurement."""

import hashlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.training import (
    EndlessBatches,
    EpochBatches,
    TensorMemory,
    choose_device,
    measure,
    new_generator,
    seed_everything,
)
from common.training.state import random_states, restore_random_states

CPU = torch.device("cpu")


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002


def test_random_states_come_back(tmp_path):
    seed_everything(1)
    draws()
    torch.save(random_states(), tmp_path / "states.pt")
    expected = draws()
    seed_everything(2)
    restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == expected


def test_streams_are_seeded_by_sha256():
    digest = hashlib.sha256(b"5/noise").digest()
    assert new_generator(5, "noise").initial_seed() == int.from_bytes(digest[:8], "big") // 4
    assert len({new_generator(s, n).initial_seed() for s in range(50) for n in "abc"}) == 150


def test_every_epoch_is_a_new_order_of_all_samples():
    batches = EpochBatches(10, 4, new_generator(1, "x"), CPU)
    first, second = (torch.cat(list(batches.epoch())).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [len(b) for b in batches.epoch()] == [4, 4, 2]
    assert len(batches) == 3
    ordered = EpochBatches(5, 2, new_generator(1, "x"), CPU, shuffle=False)
    assert [[b.tolist() for b in ordered.epoch()] for _ in range(2)] == [[[0, 1], [2, 3], [4]]] * 2


def test_endless_batches_use_every_sample_before_any_comes_again():
    batches = EndlessBatches(10, 4, new_generator(1, "x"), CPU)
    passes = [torch.cat([batches.next() for _ in range(3)]).tolist() for _ in range(3)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert passes[0] != passes[1]


def test_endless_batches_go_on_from_a_saved_state_within_a_pass():
    batches = EndlessBatches(10, 4, new_generator(1, "x"), CPU)
    batches.next()
    state = batches.state_dict()
    expected = [batches.next().tolist() for _ in range(7)]
    other = EndlessBatches(10, 4, new_generator(2, "y"), CPU)
    other.load_state_dict(state)
    assert [other.next().tolist() for _ in range(7)] == expected


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cpu:1", "cuda:99"])
def test_devices_out_of_scope_are_refused(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        choose_device(name)


def test_memory_counts_storages_once_and_as_long_as_they_live():
    with TensorMemory() as memory:
        a = torch.zeros(1000)  # 4000 bytes
        view = a.view(10, 100)
        assert (memory.current, memory.peak) == (4000, 4000)
        b = a + 1
        a.add_(1)
        assert (memory.current, memory.peak) == (8000, 8000)
        del a
        assert memory.current == 8000  # the view keeps it
        del view, b
        assert (memory.current, memory.peak) == (0, 8000)


def test_memory_leaves_out_what_was_there_before():
    a = torch.zeros(1000)
    with TensorMemory() as memory:
        a.add_(1)
        view = a.view(10, 100)
        view.mul_(2)
    assert (memory.current, memory.peak) == (0, 0)


def test_memory_sees_what_autograd_saves_and_frees():
    x = torch.randn(1000, requires_grad=True)
    with TensorMemory() as memory:
        y = x.exp().sin()  # sin keeps exp's result: 4000 bytes, y itself as many
        assert memory.current == 8000
        y.sum().backward()  # x.grad stays, what was saved goes
        assert memory.current == 8000
        del y
        assert memory.current == 4000


def test_measure_reports_quartiles_and_bytes():
    net, x = nn.Linear(100, 100), torch.randn(50, 100)
    cost = measure(lambda: net(x).sum().backward(), CPU, repeats=5)
    assert 0 < cost.seconds_low <= cost.seconds <= cost.seconds_high
    assert cost.repeats == 5
    assert cost.peak_bytes >= 4 * 50 * 100  # the output
    assert cost.resident_bytes >= 4 * (2 * 100 * 100 + 50 * 100)  # weights, gradients, x
