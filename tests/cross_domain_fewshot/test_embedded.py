"""The embedded benchmark: what ships is what is pinned, and how its pixels are made."""

import gzip
import hashlib
import json
import lzma
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from common.command import run_command
from common.errors import UserError
from cross_domain_fewshot import embedded
from cross_domain_fewshot.embedded import FOLDER, SPLITS, recipe
from tools.embedded_data.fewshot import attribution, build, pixels
from tools.embedded_data.fewshot.letters import letter_images
from tools.embedded_data.fewshot.sketches import sketch_images

NAMES = ("sketches", "icons", "emoji", "latin", "devanagari")
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_has_the_pinned_checksum_and_size(name):
    levels = np.frombuffer(lzma.decompress((FOLDER / f"{name}.xz").read_bytes()), np.uint8)
    assert levels.max() == 15
    pinned = recipe()["domains"][name]
    assert hashlib.sha256((levels * 17).tobytes()).hexdigest() == pinned["sha256"]
    domain = embedded.load(name)
    assert np.array_equal(domain.images.ravel(), levels * 17)
    assert domain.checksum == pinned["sha256"]
    classes, images, *_ = domain.images.shape
    assert classes >= 60
    assert images >= 20
    assert classes == sum(map(len, domain.classes.values()))


def test_all_files_together_are_small():
    assert sum(file.stat().st_size for file in FOLDER.glob("*.xz")) < 4e6


@pytest.mark.parametrize("name", NAMES)
def test_no_class_is_in_two_splits_and_each_is_large_enough(name):
    classes = embedded.load(name).classes
    everything = [c for split in SPLITS for c in classes[split]]
    assert len(set(everything)) == len(everything)
    assert len(classes["base"]) >= (64 if name == "sketches" else 30)
    assert len(classes["val"]) >= 5
    assert len(classes["novel"]) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_all_images_of_a_class_are_distinct(name):
    domain = embedded.load(name)
    for row in domain.images:
        assert len({image.tobytes() for image in row}) == len(row)
        background = 255 if domain.images.shape[-1] == 3 else 0
        assert all((image != background).any() for image in row)


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_slices_in_order(name):
    domain = embedded.load(name)
    together = np.concatenate([domain.split(split) for split in SPLITS])
    assert np.array_equal(together, domain.images)
    assert len(domain.split("val")) == len(domain.classes["val"])


def test_both_forms_of_a_latin_letter_are_in_one_split():
    split_of = {c: s for s, classes in embedded.load("latin").classes.items() for c in classes}
    assert len(split_of) == 62
    for letter in "abcdefghijklmnopqrstuvwxyz":
        assert split_of[letter] == split_of[letter.upper()]


def test_everything_used_is_attributed_and_permissive():
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = [
        line for line in text.splitlines() if line.startswith("| ") and "| licence |" not in line
    ]
    assert {row.split(" | ")[-2] for row in rows} <= attribution.PERMISSIVE
    used = recipe()
    families = len(used["latin_fonts"]) + len(used["devanagari_fonts"])
    assert len(rows) == families + len(used["icon_sets"]) + len(used["emoji_sets"]) + 2
    licences = {row.split(" | ")[-2] for row in rows} - {"CC-BY-4.0"}
    assert licences == {file.stem for file in (FOLDER / "licences").iterdir()}


def test_share_alike_material_is_refused():
    row = attribution.Origin("some icons", "somebody", "CC-BY-SA-4.0", "")
    with pytest.raises(UserError, match=r"some icons is under CC-BY-SA-4\.0"):
        attribution.attribution({"icons": [row]})


@pytest.mark.parametrize("damage", ["gone", "cut", "another", "short"])
def test_a_damaged_file_is_refused_in_one_sentence(damage, tmp_path):
    data = (FOLDER / "latin.xz").read_bytes()
    levels = lzma.decompress(data)
    content = {
        "cut": lambda: data[:1000],
        "another": lambda: lzma.compress(bytes(len(levels))),
        "short": lambda: lzma.compress(levels[:-1], preset=0),
    }
    if damage != "gone":
        (tmp_path / "latin.xz").write_bytes(content[damage]())
    with pytest.raises(UserError, match=r"latin\.xz") as caught:
        embedded.load("latin", tmp_path)
    assert "\n" not in str(caught.value)


def test_packing_keeps_quantised_pixels():
    images = np.zeros(embedded.shape("latin"), np.uint8)
    images[::9, ::5] = np.random.default_rng(0).integers(0, 16, images[::9, ::5].shape) * 17
    assert np.array_equal(embedded.unpack(embedded.pack(images), "latin"), images)


def test_shrinking_and_quantising_round_to_the_nearest():
    canvas = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    small = pixels.shrink(canvas)
    means = canvas.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.5
    coarse = pixels.quantise(small)
    assert not (coarse % 17).any()
    assert np.abs(coarse.astype(int) - small).max() <= 8


def test_distinct_images_are_taken_in_order():
    a, b = np.zeros((2, 32, 32, 1), np.uint8)
    a[:10], b[:11] = 255, 255  # differ by 1 of 11 rows
    c = np.zeros_like(a)
    c[20:] = 255
    images = [np.zeros_like(a), a, b, a, c]
    assert [id(i) for i in pixels.distinct(images, 9, 0, least=0.1)] == [id(a), id(c)]
    assert [id(i) for i in pixels.distinct(images, 9, 0, least=0.09)] == [id(a), id(b), id(c)]
    assert len(pixels.distinct(images, 1, 0, least=0.09)) == 1


def test_letters_stand_on_one_line_and_missing_ones_are_empty():
    letters = [*"HOoxpg", "\u0915", "\ufdd0"]
    drawn = {letter: next(images) for letter, images in letter_images([FONT], letters).items()}
    assert not drawn["\u0915"].any()
    assert not drawn["\ufdd0"].any()
    rows = {c: np.flatnonzero(drawn[c].any((1, 2))) for c in "HOoxpg"}
    columns = {c: np.flatnonzero(drawn[c].any((0, 2))) for c in "HOoxpg"}
    for c in "Ox":
        assert abs(rows[c][-1] - rows["H"][-1]) <= 1  # the line
        assert abs(columns[c][0] + columns[c][-1] - 31) <= 1  # centred
    assert rows["p"][-1] > rows["x"][-1] + 2
    assert len(rows["o"]) < 0.85 * len(rows["O"])
    assert all(drawn[c].max() == 255 for c in "HOoxpg")


def test_sketches_are_centred(tmp_path):
    values = np.zeros((28, 28))
    values[:6, 4:8] = 1.0
    values[2, 5] = 0.4
    with gzip.open(tmp_path / "axe.ndjson.gz", "wt") as lines:
        lines.write(json.dumps(values.ravel().tolist()) + "\n")
    image = next(sketch_images(tmp_path, ["axe"])["axe"])
    expected = np.zeros((32, 32), np.uint8)
    expected[13:19, 14:18] = 255
    expected[15, 15] = 102
    assert np.array_equal(image[..., 0], expected)


def test_icons_are_drawn_to_scale():
    vectors = pytest.importorskip("tools.embedded_data.fewshot.vectors")
    square = {"body": '<path d="M0 0h20v10H0z" fill="currentColor"/>', "width": 20, "height": 10}
    image = next(vectors.icon_images([{"icons": {"box": square}}], ["box"])["box"])
    expected = np.zeros((32, 32), np.uint8)
    expected[9:23, 2:30] = 255
    assert np.array_equal(image[..., 0], expected)


@pytest.fixture
def two_classes(monkeypatch):
    """A recipe with one domain of two classes, drawn from the list that is returned."""
    images = [np.full((32, 32, 1), 17 * i, np.uint8) for i in range(16)]
    domain = {
        "images_per_class": 3,
        "channels": 1,
        "least_difference": 0.01,
        "sha256": hashlib.sha256(np.stack([images[1:4], images[1:4]]).tobytes()).hexdigest(),
        "classes": {"base": ["a"], "val": [], "novel": ["b"]},
    }
    origin = attribution.Origin("squares", "nobody", "MIT", "https://example.org")
    monkeypatch.setattr(build, "recipe", lambda: {"domains": {"squares": domain}})
    monkeypatch.setattr(build, "check_renderers", lambda: None)
    draw = {"squares": lambda folder, classes: ({c: iter(images) for c in classes}, [origin])}
    monkeypatch.setattr(build, "DRAW", draw)
    return images


def test_the_build_writes_what_is_pinned(two_classes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["build", "--output", str(tmp_path / "out")])
    run_command(build.main)
    levels = np.frombuffer(lzma.decompress((tmp_path / "out/squares.xz").read_bytes()), np.uint8)
    assert levels.reshape(2, 3, -1)[:, :, 0].tolist() == [[1, 2, 3], [1, 2, 3]]
    assert "| squares | nobody | MIT |" in (tmp_path / "out/ATTRIBUTION.md").read_text()


@pytest.mark.parametrize("fault", ["other pixels", "too few"])
def test_the_build_writes_nothing_else(fault, two_classes, monkeypatch, tmp_path, capsys):
    if fault == "other pixels":
        two_classes[2] = np.flip(np.arange(1024) % 16 * 17).astype(np.uint8).reshape(32, 32, 1)
    else:
        del two_classes[3:]
    monkeypatch.setattr(sys, "argv", ["build", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run_command(build.main)
    assert ended.value.code == 2
    assert "squares" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_renderers_are_refused(monkeypatch):
    monkeypatch.setattr(build, "version", lambda name: "0.1")
    with pytest.raises(UserError, match=r"pillow 0\.1 is installed where 1"):
        build.check_renderers()
