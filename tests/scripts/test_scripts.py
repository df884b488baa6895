"""The scripts people run, and the numbers in the documents."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError
from rotation.config import PRESETS, Config
from scripts.experiments import EXPERIMENTS
from scripts.publish import differences, documents
from scripts.sweep import choose_runs, command, sweep

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


def test_a_sweep_names_what_differs_from_the_preset():
    run = choose_runs([PRESETS["quick"]], ["t1t2"], [7])[0]
    assert command(run, PRESETS["quick"])[1:] == [
        "-m", "rotation", "--preset", "quick", "--method", "t1t2", "--seed", "7",
    ]  # fmt: skip


def test_a_sweep_has_each_run_once():
    planned = [Config(method=m, seed=s) for m in ("evograd", "t1t2") for s in (1, 2)]
    assert len(choose_runs(planned, None, None)) == 4
    assert len(choose_runs(planned, ["baseline"], None)) == 2
    assert len(choose_runs(planned, ["baseline"], [5])) == 1


def test_a_sweep_goes_on_past_a_run_that_fails_and_says_so(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "scripts.sweep", "rotation", "--preset", "smoke",
         "--methods", "nonsense"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2 and "nonsense" in result.stderr


@pytest.mark.parametrize(
    ("reasons", "failures"), [("same", 3), ("different", 6), ("but the first", 5)]
)
def test_a_sweep_stops_when_the_first_runs_fail_for_one_reason(
    reasons, failures, monkeypatch, tmp_path
):
    started = []

    class Failing:
        """A run that has ended already."""

        log = tmp_path / "run.log"
        directory = tmp_path

        def __init__(self, config, default, extra):
            self.config = config
            self.process = SimpleNamespace(poll=lambda: 2)
            started.append(config)

        def failure(self):
            if reasons == "but the first" and self.config.seed == 0:
                return None
            return f"error: {self.config.seed}" if reasons == "different" else "error: no data"

    monkeypatch.setattr("scripts.sweep.Running", Failing)
    monkeypatch.setattr("scripts.sweep.POLL_SECONDS", 0)
    configs = [Config(seed=seed, run_dir=tmp_path / str(seed)) for seed in range(6)]
    with pytest.raises(UserError, match=f"{failures} of 6 runs failed"):
        sweep(configs, Config(), 1, [], "test")
    assert len(started) == (3 if reasons == "same" else 6)


def test_documents_link_to_what_exists():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"
        for script in re.findall(r"bash (scripts/[\w./-]+\.sh)", text):
            assert (ROOT / script).exists(), f"{document}: {script}"


def test_code_in_the_readme_runs():
    """The block on EvoGrad in one's own loop, as it stands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "EvoGrad(" in c]
    assert len(code) == 1
    namespace: dict = {}
    exec(code[0], namespace)
    assert namespace["hyper"]["log_weights"].grad.abs().sum() > 0
