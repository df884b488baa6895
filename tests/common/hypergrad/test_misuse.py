"""Every mistake of misuse.py with every estimator, beside docs/misuse.md."""

import re
from dataclasses import dataclass

import pytest
import torch

from common.estimators import ESTIMATORS
from common.hypergrad import T1T2, Neumann
from common.hypergrad.checks import NotFiniteError, check_finite, examination_of
from tests.common.hypergrad.misuse import ERROR, MISUSES, PAGE, Tiny, page

DOCUMENTED = {
    cells[1]: cells[2:-1]
    for cells in (re.split(r" ?\| ?", line) for line in PAGE.read_text().splitlines())
    if len(cells) == len(ESTIMATORS) + 3
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@every_estimator
@pytest.mark.parametrize("misuse", MISUSES, ids=lambda misuse: misuse.words.replace(" ", "-"))
def test_has_the_documented_outcome(misuse, name):
    expected = DOCUMENTED[misuse.words][list(ESTIMATORS).index(name)]
    assert misuse.outcome(name) == expected


def test_the_page_has_these_mistakes_and_estimators():
    outcomes = {m.words: DOCUMENTED[m.words] for m in MISUSES}
    assert PAGE.read_text() == page(outcomes)
    assert sum(cell == ERROR for cells in outcomes.values() for cell in cells) > 300


@every_estimator
def test_check_finite_off_lets_a_loss_pass_that_is_no_number(name):
    problem = Tiny()
    loss = problem.outer_loss
    problem.outer_loss = lambda *arguments: loss(*arguments) * torch.nan
    with pytest.raises(NotFiniteError, match=r"outer_loss .* check_finite=False"):
        problem.run(name)
    if name != "implicit_cg":  # whose solver stops there
        assert problem.run(name, check_finite=False).isnan().all()


@every_estimator
def test_only_the_first_call_with_a_problem_evaluates_more(name):
    problem, calls = Tiny(), []
    for which in ("inner_loss", "outer_loss"):
        loss = getattr(problem, which)
        setattr(problem, which, lambda *a, loss=loss, which=which: calls.append(which) or loss(*a))
    first = problem.run(name)
    counted = len(calls)
    assert torch.equal(problem.run(name), first)
    assert len(calls) - counted == counted - 4
    assert examination_of(problem).passed and not examination_of(Tiny()).passed


def test_a_sum_that_overflows_is_not_an_infinite_entry():
    check_finite("a", torch.full((70_000,), 2.0, dtype=torch.float16))
    with pytest.raises(NotFiniteError):
        check_finite("a", torch.tensor([1.0, torch.inf], dtype=torch.float16))


@pytest.mark.parametrize("slots", [False, True])
def test_a_batch_in_a_dataclass_that_is_changed_in_place_is_refused(slots):
    @dataclass(slots=slots)
    class Batch:
        inputs: torch.Tensor
        targets: torch.Tensor

    problem = Tiny()
    before, batch = problem.batch[0].clone(), Batch(*problem.batch)
    inner, outer = problem.inner_loss, problem.outer_loss
    problem.inner_loss = lambda p, h, b: inner(p, h, (b.inputs.sub_(1), b.targets))
    problem.outer_loss = lambda p, h, b: outer(p, h, (b.inputs, b.targets))
    with pytest.raises(ValueError, match="batch in place"):
        T1T2(0.1)(problem, problem.params, problem.hyper, batch, batch)
    assert torch.equal(batch.inputs, before)


def test_a_neumann_series_that_diverges_is_refused():
    problem = Tiny()
    with pytest.raises(ValueError, match=r"terms .* grow: inner_lr = 100"):
        Neumann(100.0, 20)(problem, problem.params, problem.hyper, problem.batch, problem.batch)
