"""The scripts people run, and the numbers in the documents."""

import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from common.command import run_command
from common.settings import ROOT
from scripts import benchmark, fidelity
from scripts.publish import differences, documents


def test_tables_and_documents_say_what_the_records_say(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # publish --check compares them
    assert differences() == []
    assert ROOT / "README.md" in documents()


def test_shell_scripts_are_well_formed():
    for script in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True)
        assert "set -euo pipefail" in script.read_text()


COMMANDS = ("benchmark", "fidelity", "publish", "report", "sweep")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"scripts.{name}").main(["--help"])
    assert ended.value.code == 0
    assert f"usage: python -m scripts.{name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (benchmark, "--figures lenet nonsense", "--figures nonsense is in none of the names"),
        (benchmark, "--seconds-each nan", "--seconds-each nan must be at least 0"),
        (benchmark, "--output FILE", "FILE"),
        (fidelity, "--threads 1000000", "--threads 1000000 must lie between 0 and 1024"),
        (fidelity, "--preset huge", "--preset huge is unknown"),
        (fidelity, "--output FILE", "FILE"),
    ],
)
def test_studies_refuse_in_a_sentence_before_anything_is_measured(
    script, words, message, tmp_path, monkeypatch, capsys
):
    for module, name in ((benchmark, "measure_all"), (fidelity, "measure_snapshot")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it has begun"))
    (tmp_path / "file").touch()
    folder = "--runs" if script is benchmark else "--output"
    full = [folder, str(tmp_path / "runs"), *words.split()]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: script.main([w.replace("FILE", f"{tmp_path}/file") for w in full]))
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and "\n" not in error
    assert error.startswith("error: ") and message.replace("FILE", f"{tmp_path}/file") in error


def test_documents_link_to_what_exists():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"
        assert not re.search(r"\| results/\S+ \|", text), f"{document}: a folder without a link"
        scripts = re.findall(r"bash (scripts/[\w./-]+\.sh)", text)
        assert all((ROOT / script).exists() for script in scripts), f"{document}: {scripts}"


def test_without_python3_venv_setup_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").touch()
    without = tmp_path / "python"
    without.write_text(f"""#!/bin/sh
case "$*" in
  *venv*) mkdir -p {tmp_path}/.venv/bin; echo ensurepip is not available; exit 1 ;;
  *) exec {sys.executable} "$@" ;;
esac
""")
    without.chmod(0o755)
    environment = os.environ | {"PYTHON": str(without)}
    ended = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and "Install python3-venv" in ended.stderr
    assert not (tmp_path / ".venv").exists()
