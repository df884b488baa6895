"""scripts/setup.sh on machines that lack something."""

import os
import shutil
import subprocess
import sys

import pytest

from common.settings import ROOT


@pytest.fixture
def setup(tmp_path):
    """Runs a copy of setup.sh, with nothing to install, by the given Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").touch()

    def run(python):
        return subprocess.run(
            ["bash", tmp_path / "scripts" / "setup.sh"],
            env=os.environ | {"PYTHON": str(python)},
            capture_output=True,
            text=True,
        )

    return run


def test_without_python3_venv_it_says_so_and_leaves_nothing(setup, tmp_path):
    without = tmp_path / "python"
    without.write_text(f"""#!/bin/sh
case "$*" in
  *venv*) mkdir -p {tmp_path}/.venv/bin; echo ensurepip is not available; exit 1 ;;
  *) exec {sys.executable} "$@" ;;
esac
""")
    without.chmod(0o755)
    ended = setup(without)
    assert ended.returncode == 2 and "Install python3-venv" in ended.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_without_pip_or_python_is_made_anew(setup, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    assert setup(sys.executable).returncode == 0
    pip = [tmp_path / ".venv" / "bin" / "python", "-m", "pip", "--version"]
    subprocess.run(pip, check=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    ended = setup(sys.executable)
    assert ended.returncode == 0, ended.stderr
    subprocess.run(pip, check=True)
