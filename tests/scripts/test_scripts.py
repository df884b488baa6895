"""The scripts people run, and the numbers in the documents."""

import re
import subprocess
from pathlib import Path

import pytest

from scripts.experiments import EXPERIMENTS
from scripts.publish import differences, documents

ROOT = Path(__file__).resolve().parents[2]


def test_tables_and_documents_say_what_the_records_say():
    assert differences() == []
    assert ROOT / "README.md" in documents()


def test_every_experiment_has_its_rooms():
    for name in EXPERIMENTS:
        for room in ("config", "problem", "train", "report", "__main__"):
            assert (ROOT / name / f"{room}.py").exists(), f"{name}/{room}.py"
        assert (ROOT / name / "README.md").exists()
        assert (ROOT / "scripts" / f"{name}.sh").exists()


def test_shell_scripts_are_well_formed():
    for script in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True)
        assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("words", [["--preset", "huge"], ["nonsense"], ["--frobnicate"]])
def test_reproduce_refuses_what_it_does_not_know(words):
    result = subprocess.run(
        ["bash", ROOT / "scripts" / "reproduce.sh", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2 and result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_documents_link_to_what_exists():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"
        for script in re.findall(r"bash (scripts/[\w./-]+\.sh)", text):
            assert (ROOT / script).exists(), f"{document}: {script}"
