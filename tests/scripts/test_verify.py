"""Verification notices every damage done to a copy of what is published."""

import json
import shutil

import pytest

from common.datasets.fetch import cached
from cross_domain_fewshot import embedded
from scripts import publish, verify


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of results/ of one experiment, which alone is drawn and verified."""
    folder = tmp_path / "results"
    shutil.copytree(publish.ROOT / "results" / "toy_1d", folder / "toy_1d")
    monkeypatch.setattr(publish, "RESULTS", folder)
    monkeypatch.setattr(publish, "EXPERIMENTS", ("toy_1d",))
    monkeypatch.setattr(publish.benchmark, "draw", lambda *_: None)
    monkeypatch.setattr(publish, "documents", list)
    return folder


def verified(part, capsys) -> str:
    """What a verification of one part says; its exit status must agree."""
    with pytest.raises(SystemExit) as ended:
        verify.main([part])
    said = capsys.readouterr().out
    assert said.startswith({0: "right", 1: "WRONG"}[ended.value.code])
    return said


def test_every_damaged_table_and_figure_is_named(results, capsys):
    publish.draw(results)
    assert verified("tables", capsys).startswith("right  tables: ")
    # One of each suffix: a byte changed; a missing one; one that no record gives.
    kept = {path.suffix: path for path in results.glob("*/*/*.*")}
    assert set(kept) == {".md", ".tex", ".csv", ".png", ".pdf"}
    for path in kept.values():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    said = verified("tables", capsys)
    assert all(str(path.relative_to(results)) in said for path in kept.values())
    publish.draw(results)
    kept[".png"].unlink()
    shutil.copy(kept[".md"], kept[".md"].with_name("more.md"))
    said = verified("tables", capsys)
    assert kept[".png"].name in said and "more.md" in said and kept[".csv"].name not in said


def test_a_changed_number_in_a_record_is_noticed(results, capsys):
    publish.draw(results)
    (path,) = results.glob("*/*/records/*.json")
    record = json.loads(path.read_text())
    assert verified("records", capsys) == "right  records: 1 evograd-run-record\n"
    name = next(iter(record["final"]))
    for change in (
        {"final": record["final"] | {name: record["final"][name] + 0.1}},
        {"method": "t1t2"},
        {"config": record["config"] | {"steps": -1}},
        {"kind": "evograd-fidelity-record"},
    ):
        path.write_text(json.dumps(record | change))
        said = [verified(part, capsys) for part in ("records", "tables")]
        assert any(line.startswith("WRONG") for line in said), change
    path.write_bytes(b"\xff")
    assert str(path) in verified("records", capsys)


def test_a_record_of_the_noise_study_is_verified_too(results, capsys):
    kept = publish.ROOT / "results" / "cross_domain_fewshot" / "noise" / "records"
    (path, *_) = sorted(shutil.copytree(kept, results / "noise" / "records").iterdir())
    count = len(list(kept.iterdir()))
    assert f" {count} evograd-fewshot-noise," in verified("records", capsys)
    record = json.loads(path.read_text())
    for change in ({"seed": record["seed"] + 1}, {"rows": record["rows"][1:]}, {"rows": None}):
        path.write_text(json.dumps(record | change))
        assert str(path) in verified("records", capsys)


def test_embedded_files_and_cached_data_are_compared_with_their_checksums(
    tmp_path, monkeypatch, capsys
):
    assert verified("embedded", capsys).startswith("right")
    recipe = tmp_path / "benchmark.json"
    for name in (recipe.name, "SHA256SUMS"):
        shutil.copy(embedded.FOLDER / name, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "FOLDER", tmp_path)
        whole = recipe.read_bytes()
        for content in (b"{", b"[]", b"", whole.replace(b"airplane", b"airplanf")):
            embedded.recipe.cache_clear()
            recipe.write_bytes(content)
            assert "benchmark.json is damaged" in verified("embedded", capsys)
    embedded.recipe.cache_clear()

    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "cache"))
    assert "none (not here: MNIST" in verified("data", capsys)
    mnist, _ = verify.LOADERS["mnist"]
    (tmp_path / "cache" / "mnist").mkdir(parents=True)
    for name in mnist.checksums:
        (tmp_path / "cache" / "mnist" / name).write_bytes(b"x")
    assert "train_images" in verified("data", capsys)
    assert cached(verify.LOADERS["cifar10"][0]) is None
