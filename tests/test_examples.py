"""The examples of docs/examples show what the guide says they show."""

import re
import sys

import pytest
import torch

import common.hypergrad
from common.datasets import load_mnist
from common.settings import ROOT
from tests.experiments import one_thread  # noqa: F401

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(autouse=True)
def hypergradients(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypergradients", common.hypergrad)


@pytest.fixture
def run(capsys):
    """Runs an example; gives its variables and the numbers of each line it printed."""

    def run_example(name, steps="", shorter=""):
        text = (EXAMPLES / f"{name}.py").read_text()
        assert len(text.splitlines()) < 40 and steps in text
        variables, number = {"__name__": name}, r"(?<!\S)-?[\d.]*\d\b"
        exec(text.replace(steps, shorter) if steps else text, variables)
        lines = capsys.readouterr().out.splitlines()
        return variables, [[*map(float, re.findall(number, line))] for line in lines]

    return run_example


def test_sample_weights_recover_accuracy_under_wrong_labels(run):
    _, [(plain, *_), (learned, right, wrong)] = run("sample_weights")
    assert learned > plain + 0.01
    assert wrong < right / 2


def test_the_shift_of_the_images_to_come_is_found(run):
    _, [(_, untouched), (pixels, learned)] = run("augmentation")
    assert 1.6 < pixels < 2.5  # they are shifted by up to 2
    assert learned < untouched / 3


def test_a_mixture_moves_away_from_wrong_labels(run):
    _, [(*_, even), (right, partly, random, learned)] = run("loss_mixing")
    assert right > 0.8 and random < partly < 0.2
    assert learned < even / 2


def test_a_penalty_needs_more_than_a_single_step(run):
    """One step at a time lowers it, then raises it again; the implicit gradient only raises it
    after 250 steps. The first 500 of the guide's 1,500."""
    _, lines = run("regulariser", "range(1500)", "range(500)")
    single, evograd, implicit = (
        [strength for strength, _ in lines[i : i + 2]] for i in range(0, 6, 2)
    )
    assert single[1] - single[0] > 4
    assert max(evograd) < -8  # below where it began
    assert implicit[0] + 1 < implicit[1] < -6


def test_evograds_entries_lie_near_adams_eps(run):
    _, [(evograd, last, _), (along, *_)] = run("adam_eps")
    assert 0.15 < evograd < last and along < 0.01


def test_the_learning_rate_is_found_through_all_steps(run):
    variables, lines = run("learning_rate")
    losses = [loss for *_, loss in lines]
    assert losses[0] > 2 and losses[-1] < 0.25
    assert 0.3 < variables["hyper"]["log_lr"].exp() < 2


def test_a_schedule_for_adam_rises_and_ends_lower(run):
    _, lines = run("schedule")
    first, end, loss = lines[-1]
    assert lines[0][2] > 1.2 and loss < 0.3
    assert first > end > 0.05


def test_initial_parameters_and_rates_adapt_to_letters_seen_once(run):
    _, [(maml, chance), (meta_sgd, _)] = run("maml")
    assert maml > chance + 0.1 and meta_sgd > chance + 0.1


def test_the_readmes_example_learns_mnist_as_well_as_plain_training():
    """Its text as it stands, with digits in place of random tensors and 1,000 steps."""
    mnist = load_mnist()
    images, labels = mnist.train_images.reshape(-1, 784).float() / 255, mnist.train_labels

    def draw(first, count):
        index = first + torch.randint(count, (64,))
        return images[index], labels[index]

    text = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    batches = "train_batch, valid_batch = draw(0, 3000), draw(50000, 1000)"
    text, drawn = re.subn(r"train_batch, valid_batch = .*", batches, text)
    text, longer = re.subn(r"range\(10\)", "range(1000)", text)
    assert drawn == longer == 1
    accuracies = []
    for code in (text, text.replace("    meta.step(train_batch, valid_batch)\n", "")):
        torch.manual_seed(0)
        variables = {"draw": draw}
        exec(code, variables)
        with torch.no_grad():
            found = variables["model"](images[55000:]).argmax(1)
        accuracies.append((found == labels[55000:]).float().mean().item())
    learned, plain = accuracies
    assert plain > 0.85 and learned > plain - 0.01
