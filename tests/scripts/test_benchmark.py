"""The cost study's command, from measuring to results/."""

import pytest
import torch

from common.cost_study import measuring
from common.cost_study.records import EVOGRAD, T1T2, read_measurements
from metaweightnet import studies as label_noise
from scripts import benchmark, publish

FORWARD = "evograd_forward num_candidates=2"


@pytest.fixture
def words(tmp_path):
    """Two methods on LeNet, as few rounds as there can be."""
    return [
        "--experiments", "rotation", "--methods", FORWARD, "t1t2_forward",
        "--seconds-each", "0", "--threads", "1", "--device", "cpu", "--runs", str(tmp_path),
    ]  # fmt: skip


def test_measures_resumes_reports_and_is_taken_over_into_results(
    words, tmp_path, capsys, monkeypatch
):
    benchmark.main([*words, "--output", str(tmp_path / "report")])
    assert "report: " in capsys.readouterr().out
    found = {m.key: m for m in read_measurements(tmp_path / "small")}
    assert set(found) == {"plain", FORWARD, "t1t2_forward"}
    assert found["t1t2_forward"].outcome == "does not apply"
    assert found["plain"].parameters == 61_706
    page = (tmp_path / "report" / "index.html").read_text()
    assert "LeNet, rotation" in page and "EvoGrad forward num_candidates=2" in page

    # Nothing is left to do: not a process is started.
    monkeypatch.setattr(measuring, "ProcessPoolExecutor", None)
    benchmark.main([*words, "--output", str(tmp_path / "report")])

    results = tmp_path / "results"
    monkeypatch.setattr(publish, "RESULTS", results)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "benchmark").symlink_to(tmp_path)
    assert publish.collect("benchmark", "small", runs) == 3
    benchmark.draw(results / "benchmark", results / "benchmark")
    table = (results / "benchmark" / "small" / "lenet-rotation-cpu.md").read_text()
    ratio = found[FORWARD].time_ratio
    assert f"| {ratio:.2f} |" in table
    row = (results / "benchmark" / "estimators" / "small-cpu.md").read_text()
    assert f"| {ratio:.2f} |" in row


def test_the_study_has_the_papers_shapes():
    room = label_noise
    figures: dict[str, list] = {}
    for case in room.cases("paper"):
        figures.setdefault(case.figure, []).append(case)
    assert [len(cases) for cases in figures.values()] == [5, 4, 2]
    parameters = [464_154, 1_849_898]  # the paper's Figure 5, widths 1 and 2
    for case, count in zip(figures[room.WIDTHS][:2], parameters, strict=True):
        built = case.build(torch.device("cpu"))
        assert sum(t.numel() for t in built.params.values()) == count
        assert sum(t.numel() for t in built.hyper.values()) == 301
        assert built.inner_batch[0].shape == (100, 3, 32, 32)
    hidden = figures[room.HIDDEN][-1].build(torch.device("cpu"))
    assert sum(t.numel() for t in hidden.hyper.values()) == 300_001
    classes = figures[room.DATASETS][1].build(torch.device("cpu"))
    assert classes.params["fc.bias"].shape == (100,)


def test_published_costs_belong_to_points_of_the_study():
    for experiment, entries in benchmark.published_costs().items():
        places = {(case.figure, case.x) for case in benchmark.cases("paper")[experiment]}
        assert {(e.figure, e.x) for e in entries} <= places
    widths = benchmark.published_costs()["metaweightnet"]
    cifar10 = next(e for e in widths if e.x == "CIFAR-10")
    assert cifar10.costs == {EVOGRAD: (0.4, 98.7), T1T2: (0.9, 144.9)}
