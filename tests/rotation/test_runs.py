"""A whole run as a user starts it, its record and report; the planned runs."""

from common.reporting import RunRecord, load
from rotation.config import EXPERIMENT, PRESETS
from rotation.report import section


def test_a_run_leaves_a_record_that_the_report_shows(tmp_path):
    run, words = tmp_path / "run", "--preset smoke --train-size 1280 --meta-size 300 --log-every 1"
    EXPERIMENT.main([*words.split(), "--test-size", "200", "--run-dir", str(run)])
    record = load(run / "record.json", RunRecord)
    assert record.config["train_size"] == 1280 and record.config["estimator"]["sigma"] == 0.001
    assert record.data["meta images rotated by 30 degrees"]
    assert {"torch", "python", "git_commit", "wall_seconds"} <= record.provenance.keys()
    assert record.cost["peak_bytes"] > 0 and record.cost["seconds_per_epoch"] > 0
    assert len(record.traces["angle_degrees"]) == 20
    record = record.model_copy(update={"config": PRESETS["smoke"].result_settings()})
    part = section([record], "smoke", tmp_path)
    assert part.runs == 1 and part.planned_runs == 6
    table = (tmp_path / "accuracy.md").read_text()
    assert f"{record.final['rotated']:.2f}" in table and "98.11" in table
    assert "not judged" in table and "agrees" not in table  # smoke is not the paper's size
    assert {"angles.png", "digits.png", "cost.tex"} <= {p.name for p in tmp_path.iterdir()}


def test_presets_are_the_papers_settings_or_smaller():
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.batch_size, paper.train_size) == (5, 128, 40_000)
    assert (paper.learning_rate, paper.meta_learning_rate) == (1e-3, 1e-2)
    assert (paper.estimator.num_candidates, paper.estimator.sigma) == (2, 1e-3)
    runs = EXPERIMENT.planned("paper")
    assert {r.seed for r in runs} == {1, 23, 345, 4567, 56789}
    assert len([r for r in runs if not r.differences()]) == 30 and len(runs) == 41
