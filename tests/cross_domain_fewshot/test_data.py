"""The domains: what ships is what is pinned, and arrives as it is, as photographs do."""

import hashlib
import lzma

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.training import new_generator
from cross_domain_fewshot import embedded
from cross_domain_fewshot.data import DOMAINS, open_domain
from cross_domain_fewshot.embedded import FOLDER, SPLITS, recipe
from cross_domain_fewshot.episodes import EpisodeStream

PERMISSIVE = {"MIT", "ISC", "Apache-2.0", "OFL-1.1", "CC-BY-4.0", "CC0-1.0"}
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", DOMAINS["embedded"])
def test_what_ships_has_the_pinned_checksum_and_disjoint_splits(name):
    levels = np.frombuffer(lzma.decompress((FOLDER / f"{name}.xz").read_bytes()), np.uint8)
    assert levels.max() == 15
    domain, pinned = embedded.load(name), recipe()["domains"][name]
    assert hashlib.sha256((levels * 17).tobytes()).hexdigest() == pinned["sha256"]
    assert np.array_equal(domain.images.ravel(), levels * 17)
    classes, images, *_ = domain.images.shape
    assert classes >= 60 and images >= 20
    assert len({c for split in SPLITS for c in domain.classes[split]}) == classes
    parts = [domain.split(split) for split in SPLITS]
    assert [*map(len, parts)] == [len(domain.classes[split]) for split in SPLITS]
    assert np.array_equal(np.concatenate(parts), domain.images)


def test_both_forms_of_a_latin_letter_are_in_one_split():
    split_of = {c: s for s, classes in embedded.load("latin").classes.items() for c in classes}
    assert len(split_of) == 62
    for letter in "abcdefghijklmnopqrstuvwxyz":
        assert split_of[letter] == split_of[letter.upper()]


def test_everything_used_is_attributed_and_permissive():
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    rows = [r for r in text.splitlines() if r.startswith("| ") and "| licence |" not in r]
    licences, used = {row.split(" | ")[-2] for row in rows}, recipe()
    assert licences <= PERMISSIVE
    sets = ("latin_fonts", "devanagari_fonts", "icon_sets", "emoji_sets")
    assert len(rows) == sum(len(used[name]) for name in sets) + 2
    kept = {file.stem for file in (FOLDER / "licences").iterdir()}
    assert licences - {"CC-BY-4.0"} == kept


@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_a_damaged_file_is_refused_in_one_sentence(damage, tmp_path):
    data = (FOLDER / "latin.xz").read_bytes()
    content = {"cut": data[:1000], "another": lzma.compress(bytes(62 * 20 * 32 * 32))}
    if damage != "gone":
        (tmp_path / "latin.xz").write_bytes(content[damage])
    with pytest.raises(UserError, match=r"latin\.xz"):
        embedded.load("latin", tmp_path)


def test_photographs_are_opened_from_their_lists(write_photos, monkeypatch):
    folder = write_photos("cars", classes=(4, 2, 3), images=6)
    split = open_domain("paper", "cars", "novel", 12, folder, CPU)
    assert (split.class_names, split.class_sizes) == (("novel_0", "novel_1", "novel_2"), (6, 6, 6))
    colours = split.contact_sheet(3, 5)[..., 4, 7]
    assert colours.tolist() == [[[60 + 10 * c, 10 * i, 50] for i in range(5)] for c in range(3)]
    monkeypatch.setenv("EVOGRAD_DATA", str(folder))
    assert open_domain("paper", "cars", "val", 12, None, CPU).class_names == ("val_0", "val_1")


@pytest.mark.parametrize("name", ["icons", "latin"])
def test_embedded_images_arrive_as_they_are(name, pixels):
    split = open_domain("embedded", name, "novel", 32, None, CPU)
    stream = EpisodeStream(split, 5, 5, 15, new_generator(1, "x"), augment=False)
    episode = stream.next()
    known = {image.numpy().tobytes() for image in split.images.pixels.expand(-1, 3, -1, -1)}
    for part in (episode.support, episode.query):
        assert part.dtype == torch.float32
        for image in pixels(part.flatten(0, 1)).byte():
            assert image.numpy().tobytes() in known
    assert split.mirrored == (name not in ("latin", "devanagari"))  # letters never are
