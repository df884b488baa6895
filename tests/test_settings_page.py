"""docs/settings.md against preset paper: what it is, and what else can be chosen."""

import ast
import contextlib
import importlib
import re
from dataclasses import fields

import pytest

from common.errors import UserError
from common.settings import ROOT, RunSettings
from tests.experiments import DECLARED

COLUMNS = [
    "setting", "paper's text", "released code", "preset paper here",
    "option for the other reading",
]  # fmt: skip
EXPERIMENTS = ("cross_domain_fewshot", "metaweightnet", "metaxl")
# EvoGrad's settings are the paper's; the other estimators' are this project's own.
EVOGRAD = {"estimator.num_candidates", "estimator.sigma", "estimator.temperature"}
# Of this project's own data and networks.
OWN = {"cross_domain_fewshot": {"benchmark", "width", "stem"}, "metaweightnet": {"human_labels"}}
# Methods that choose otherwise by themselves, so that an option may change one of them only.
METHODS = {"cross_domain_fewshot": ("none", "ft", "lft_evograd", "lft_t1t2")}


def table(name: str) -> list[list[str]]:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").split(f"## {name}\n")[1]
    lines = text[text.index(f"| {COLUMNS[0]} | {COLUMNS[1]}") :].split("\n\n")[0].splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert found[0] == COLUMNS
    return found[2:]


def options(name: str, column: int) -> list[str]:
    """The code spans with options in a column. Settings of metaxl's small encoder are the
    preset's, though they stand beside the other reading."""
    spans = [span for row in table(name) for span in re.findall(r"`(--[^`]+)`", row[column])]
    small = [span for span in spans if span.startswith("--small")]
    return [span for span in spans if span not in small] if column == 4 else spans


def stated(name: str) -> list[str]:
    """What the table says that preset paper is."""
    small = [s for row in table(name) for s in re.findall(r"`(--small[^`]+)`", row[4])]
    return options(name, 3) + small


def parsed(name: str, words: str):
    return DECLARED[name].parse(["--preset", "paper", *words.split()])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_preset_paper_is_as_the_table_says_and_has_no_other_setting(name):
    rows = table(name)
    assert all(len(row) == len(COLUMNS) and all(row) for row in rows)
    for words in stated(name):
        assert parsed(name, words) == DECLARED[name].presets["paper"], words
    flags = re.findall(r"--(?:no-)?([a-z0-9.-]+)", " ".join(stated(name)))
    config = type(DECLARED[name].presets["paper"])
    own = {field.name for field in fields(config)} - {f.name for f in fields(RunSettings)}
    own -= config.runtime_fields | OWN.get(name, set())
    assert own | EVOGRAD <= {flag.replace("-", "_") for flag in flags}


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name in EXPERIMENTS for words in options(name, 4)]
)
def test_every_option_gives_another_reading(name, words):
    for choice in [f"--method {method} " for method in METHODS.get(name, ())] or [""]:
        with contextlib.suppress(UserError):  # not for this method
            if parsed(name, choice + words) != parsed(name, choice):
                return
    raise AssertionError(f"{words} changes nothing")


def test_the_constants_of_few_shot_are_as_the_table_says():
    cells = [row[3] for row in table("cross_domain_fewshot")]
    told = [found for cell in cells for found in re.findall(r"`(\w+)\.([\w.]+) = ([^`]+)`", cell)]
    assert len(told) > 10
    for module, path, value in told:
        found = importlib.import_module(f"cross_domain_fewshot.{module}")
        for name in path.split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        assert found == ast.literal_eval(value), path
