"""The README's table of preset paper against the preset itself."""

import ast
import importlib
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import cross_domain_fewshot
from common.settings import EstimatorSettings
from cross_domain_fewshot.config import PRESETS, Config

COLUMNS = [
    "setting", "paper's text", "released code", "preset paper here",
    "option for the other reading",
]  # fmt: skip


def table() -> list[list[str]]:
    text = (Path(cross_domain_fewshot.__file__).parent / "README.md").read_text(encoding="utf-8")
    lines = text.split("## Settings of preset paper")[1].split("## Deviations")[0].splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    assert rows[0] == COLUMNS
    return rows[2:]


def settings(cell: str) -> dict[str, str]:
    """The `--flag value` in a cell by field; `--flag` and `--no-flag` are True and False."""
    found = {}
    for flag, value in re.findall(r"`--([a-z0-9-]+)(?: ([^`]+))?`", cell):
        name = flag.replace("-", "_")
        found[name.removeprefix("no_")] = value or str(not name.startswith("no_"))
    return found


def parsed(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def test_every_row_has_all_columns_and_a_name_of_its_own():
    rows = table()
    assert all(len(row) == len(COLUMNS) and all(row) for row in rows)
    assert len({row[0] for row in rows}) == len(rows)


def test_preset_paper_is_as_the_table_says():
    told = {}
    for row in table():
        for name, value in settings(row[3]).items():
            assert getattr(PRESETS["paper"], name) == parsed(value), row[0]
            told[name] = value
    own = {f.name for f in fields(Config)} - {f.name for f in fields(EstimatorSettings)}
    assert own - Config.carrying_out - {"benchmark", "width", "stem"} <= set(told)
    assert {"num_candidates", "sigma", "perturbation", "temperature", "seed"} <= set(told)


def test_the_constants_are_as_the_table_says():
    told = [t for row in table() for t in re.findall(r"`(\w+)\.([\w.]+) = ([^`]+)`", row[3])]
    assert len(told) > 10
    for module, path, value in told:
        found = importlib.import_module(f"cross_domain_fewshot.{module}")
        for name in path.split("."):
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        assert found == ast.literal_eval(value), path


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_the_other_readings_can_be_chosen(row):
    """Each is a valid setting of some method, and not the preset's."""
    for name, value in settings(row[4]).items():
        different = replace(PRESETS["paper"], **{name: parsed(value)})
        methods = ("none", "ft", "lft_evograd", "lft_t1t2")
        valid = [replace(different, method=m)._normalised() for m in methods]
        assert any(
            getattr(c, name) == parsed(value) != getattr(PRESETS["paper"], name) for c in valid
        )
        assert different.validate()
