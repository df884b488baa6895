"""``python -m common.datasets``."""

import runpy
import sys

import pytest

from common.datasets import __main__ as command_line


def test_mnist_is_described(mnist, mnist_folder, capsys):
    command_line.main(["mnist", "--data-dir", str(mnist_folder)])
    out = capsys.readouterr().out
    assert f"source: folder {mnist_folder}" in out
    assert "train: 60000, per class 5923 6742 5958 6131 5842 5421 5918 6265 5851 5949" in out
    assert "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757" in out
    assert "(not used)" in out


@pytest.mark.parametrize("arguments", [["nosuch"], ["cifar10n"], ["mnist", "--data-dir", "/no"]])
def test_mistakes_end_with_one_line_and_status_2(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["datasets", *arguments])
    monkeypatch.delitem(sys.modules, "common.datasets.__main__")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("common.datasets", run_name="__main__")
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
