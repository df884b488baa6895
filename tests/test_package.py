"""The estimators as a package: a wheel that holds them alone, and runs far from this folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from common.settings import ROOT

PACKAGE = ROOT / "common" / "hypergrad"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "common" / "hypergrad", ignore=ignored)
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_estimators_and_needs_torch_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = {name for name in archive.namelist() if ".dist-info/" in name}
        modules = {f"hypergradients/{path.name}" for path in PACKAGE.iterdir() if path.is_file()}
        assert {*archive.namelist()} - about == modules and "hypergradients/py.typed" in modules
        assert any(name.endswith("licenses/LICENSE") for name in about)
        metadata = archive.read(next(n for n in about if n.endswith("METADATA"))).decode()
    needed = re.findall(r"^Requires-Dist: (.*)$", metadata, re.M)
    assert [line for line in needed if "extra ==" not in line] == ["torch>=2.11"]


def test_the_readmes_example_runs_elsewhere_from_the_wheel(wheel, tmp_path):
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    code = f"""
import torch
torch.manual_seed(0)
{example}
import sys, hypergradients
assert not any(name.split('.')[0] == 'common' for name in sys.modules)
print(hypergradients.__file__, hypergradients.__version__)
print(hyper['log_weights'].abs().max().item())
"""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]  # the project out of reach
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    found, version, moved = said.split()[-3:]
    assert found == str(installed / "hypergradients" / "__init__.py")
    assert f'__version__ = "{version}"' in (PACKAGE / "__init__.py").read_text()
    assert float(moved) > 0.01  # ten steps of Adam at 0.01
