"""Runs that are killed, damaged, crowded or short of room: they end with the numbers of an
undisturbed run, or refuse in one sentence. Takes minutes:

    .venv/bin/python -m pytest -m slow tests/reliability
"""

import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.run import CHECKPOINT, RECORD
from scripts import launch, sweep
from tests.reliability.commands import (
    EXPERIMENT,
    Command,
    limit_files,
    numbers,
    run,
    small_disk,
    start,
    words,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    run(folder).check()
    return folder, time.monotonic() - began


@pytest.fixture(scope="module")
def cut(whole, tmp_path_factory):
    """A run killed after its first epoch."""
    folder = tmp_path_factory.mktemp("cut")
    command = start(folder)
    while not (folder / CHECKPOINT).exists():
        time.sleep(0.005)
    command.kill(signal.SIGKILL)
    command.wait()
    assert not (folder / RECORD).exists()
    return folder


@pytest.fixture
def copied(tmp_path):
    """Makes copies of a run's folder."""

    def copy_of(source: Path) -> Path:
        folder = tmp_path / f"copy {len(list(tmp_path.iterdir()))}"
        return Path(shutil.copytree(source, folder))

    return copy_of


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_twice_at_random_moments(number, seed, whole, tmp_path):
    moments = random.Random(seed)
    for _ in range(2):
        command = start(tmp_path)
        command.kill(number, after=moments.uniform(0, whole[1]))
        assert "Traceback" not in command.wait().text
    run(tmp_path).check()
    assert numbers(tmp_path) == numbers(whole[0])


@pytest.mark.parametrize("pattern", [CHECKPOINT, "pretrained/*/*.pt", RECORD])
def test_a_flipped_bit_is_refused_unless_nothing_depends_on_it(pattern, whole, cut, copied):
    position = random.Random(pattern)
    for _ in range(10):
        folder = copied(whole[0] if pattern == RECORD else cut)
        (path,) = folder.glob(pattern)
        content = bytearray(path.read_bytes())
        content[position.randrange(len(content))] ^= 1 << position.randrange(8)
        path.write_bytes(content)
        ended = run(folder)
        if ended.status == 0:
            assert numbers(folder) == numbers(whole[0])
        else:
            ended.check(refused=True)
        shutil.rmtree(folder)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_full_disk(part, whole, tmp_path):
    sizes = [path.stat().st_size for path in whole[0].rglob("*") if path.is_file()]
    disk, largest = tmp_path / "disk", int(part * max(sizes))
    with small_disk(disk, int(part * sum(sizes))) as mounted:
        ended = run(disk / "run", None if mounted else lambda: limit_files(largest))
        if ended.status != 0:
            ended.check(refused=True)
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        run(disk / "run").check()
        assert numbers(disk / "run") == numbers(whole[0])


def test_the_same_run_started_twice_at_once(whole, tmp_path):
    for n in range(3):
        commands = [start(tmp_path / str(n)) for _ in range(2)]
        for command in commands:
            command.wait().check()
        assert numbers(tmp_path / str(n)) == numbers(whole[0])


def test_two_sweeps_at_once_one_of_them_killed_and_begun_again(whole, tmp_path):
    config = EXPERIMENT.parse(words(tmp_path))
    configs = [replace(config, run_dir=tmp_path / str(n)) for n in range(2)]

    def swept() -> Command:
        return Command(lambda: sweep.sweep(configs, launch.LocalLauncher(1), "sweep"))

    first, second = swept(), swept()
    while not any((c.directory() / launch.LOG).exists() for c in configs):
        time.sleep(0.1)
    time.sleep(whole[1] / 2)
    first.kill(signal.SIGKILL)
    first.wait()
    for command in (swept(), second):
        command.wait().check()
    assert [numbers(c.directory()) for c in configs] == [numbers(whole[0])] * 2
