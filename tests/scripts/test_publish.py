"""Publishing and its check, on a copy of what is published of one experiment; the report."""

import json
import shutil

import pytest

from common.errors import UserError
from scripts import publish, report


def one_experiment(monkeypatch, folder):
    """Publishing and checking in this folder, of toy_1d alone."""
    monkeypatch.setattr(publish, "RESULTS", folder)
    monkeypatch.setattr(publish, "EXPERIMENTS", ("toy_1d",))
    monkeypatch.setattr(publish.benchmark, "draw", lambda *_: None)
    monkeypatch.setattr(publish, "documents", list)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A copy of results/ of one experiment, just published."""
    folder = tmp_path_factory.mktemp("published") / "results"
    shutil.copytree(publish.ROOT / "results" / "toy_1d", folder / "toy_1d")
    (folder / "toy_1d" / "paper" / "from_before.md").touch()
    with pytest.MonkeyPatch.context() as patch:
        one_experiment(patch, folder)
        publish.main([])
    assert not (folder / "toy_1d" / "paper" / "from_before.md").exists()
    return folder


@pytest.fixture
def results(published, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    shutil.copytree(published, folder)
    one_experiment(monkeypatch, folder)
    return folder


def checked(capsys) -> str:
    """What the check says; its exit status must agree."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        publish.main(["--check"])
    said = capsys.readouterr().out
    assert (said == "everything published is right\n") == (ended.value.code == 0)
    return said


def test_every_damaged_table_and_figure_is_named(results, capsys):
    assert "right" in checked(capsys)
    # One of each suffix: a byte changed; a missing one; one that no record gives.
    kept = {path.suffix: path for path in results.glob("*/*/*.*")}
    assert set(kept) == {".md", ".tex", ".csv", ".png", ".pdf"}
    for path in kept.values():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    kept[".png"].unlink()
    shutil.copy(kept[".md"], kept[".md"].with_name("more.md"))
    said = checked(capsys)
    for name in (*(path.name for path in kept.values()), "more.md"):
        assert f"/{name}\n" in said


def test_changed_records_and_damaged_data_in_the_cache_are_named(results, tmp_path, monkeypatch):
    (path,) = results.glob("*/*/records/*.json")
    record = json.loads(path.read_text())
    name = next(iter(record["final"]))
    record["final"][name] += 0.1
    monkeypatch.setenv("EVOGRAD_CACHE", str(tmp_path / "cache"))
    dataset, _ = publish.LOADERS["mnist"]
    dataset.cache.mkdir(parents=True)
    for file in dataset.checksums:
        (dataset.cache / file).write_bytes(b"x")
    for content in (b"\xff", b"[]", json.dumps(record).encode()):
        path.write_bytes(content)
        said = "\n".join(publish.damaged())
        assert str(path.relative_to(results.parent)) in said and str(dataset.cache) in said


def test_collecting_takes_over_the_runs_and_the_report_shows_all_that_can_be_read(
    results, tmp_path, monkeypatch, capsys
):
    (path,) = results.glob("*/*/records/*.json")
    runs = tmp_path / "runs"
    folder = runs / "toy_1d" / "paper" / "elsewhere"
    folder.mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    shutil.move(path, tmp_path / "kept" / "record.json")
    (folder.parent / "a-link").symlink_to(tmp_path / "kept")  # a run on another disk
    publish.main(["--collect", "toy_1d", "--preset", "paper", "--runs", str(runs)])
    assert path.exists()

    broken = runs / "rotation" / "paper" / "run"
    broken.mkdir(parents=True)
    (broken / "record.json").write_text("{")
    output = tmp_path / "report"
    words = ["--preset", "paper", "--records", str(runs), "--output", str(output)]
    with pytest.raises(UserError, match=r"the report lacks rotation: .*record\.json"):
        report.main(words)
    text = (output / "index.html").read_text()
    assert "Your runs" in text and "toy_1d" in text


TEXT = """# Title

<!-- generated: first -->
old
<!-- end generated: first -->

between

<!-- generated: second table -->
<!-- end generated: second table -->
the end, without a newline"""


def filled(text, folder, monkeypatch):
    monkeypatch.setattr(publish, "ROOT", folder)
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "page.md").write_text(text)
    (folder / "first.md").write_text("| a | results/x |\n")
    (folder / "second table.md").write_text(r"\1 \g<0>")
    return publish.filled(folder / "docs" / "page.md", folder)[1]


def test_blocks_are_filled_and_the_rest_is_kept(tmp_path, monkeypatch):
    expected = TEXT.replace("-->\nold\n", "-->\n\n| a | [results/x](../results/x) |\n\n")
    expected = expected.replace("table -->\n<!--", "table -->\n\n\\1 \\g<0>\n\n<!--")
    assert filled(TEXT, tmp_path, monkeypatch) == expected
    assert filled(expected, tmp_path, monkeypatch) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("<!-- end generated: first -->", ""), "needs one marker line before it"),
        (TEXT.replace("second table", "first"), "needs one marker line before it"),
        (TEXT.replace("old", "<!-- generated: third -->"), "needs one marker line before it"),
        (TEXT.replace("first", "third"), "the table third is none that results/ gives"),
    ],
)
def test_markers_that_do_not_match_are_refused(text, message, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=rf"page\.md: .*{message}"):
        filled(text, tmp_path, monkeypatch)
