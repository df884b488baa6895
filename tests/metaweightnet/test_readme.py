"""The README's table of settings against preset paper."""

import re
from dataclasses import fields

import pytest

from common.cli import parse_settings
from common.settings import ROOT, EstimatorSettings
from metaweightnet.config import PRESETS, Config

_HEADER = "| setting | paper's text | released code | preset paper here | option"
# EvoGrad's settings in the paper; the other estimators' are ours, as are people's labels.
_EVOGRAD = {"num_candidates", "sigma", "temperature", "perturbation"}


def column(number: int) -> list[str]:
    """The code spans with flags in a column of the table."""
    text = (ROOT / "metaweightnet" / "README.md").read_text(encoding="utf-8")
    table = text[text.index(_HEADER) :].split("\n\n")[0].splitlines()[2:]
    return [span for row in table for span in re.findall(r"`(--[^`]+)`", row.split("|")[number])]


def parsed(words: str) -> Config:
    return parse_settings(PRESETS, "", ["--preset", "paper", *words.split()])


def test_preset_paper_is_what_the_readme_says():
    paper = PRESETS["paper"]
    for words in column(4):
        assert parsed(words) == paper, words


def test_every_setting_that_decides_the_result_is_in_the_table():
    named = {
        flag.removeprefix("no-").replace("-", "_")
        for words in column(4)
        for flag in re.findall(r"--([a-z-]+)", words)
    }
    own = {field.name for field in fields(Config)} - {f.name for f in fields(EstimatorSettings)}
    assert own - Config.carrying_out - {"human_labels"} | _EVOGRAD <= named


@pytest.mark.parametrize("words", column(5))
def test_every_option_gives_another_reading(words):
    assert parsed(words) != PRESETS["paper"]
