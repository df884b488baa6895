"""The domains: what ships is what is pinned, and arrives as it is, as photographs do."""

import hashlib
import lzma

import numpy as np
import pytest

from common.errors import UserError
from cross_domain_fewshot import embedded
from cross_domain_fewshot.embedded import FOLDER, SPLITS, recipe

PERMISSIVE = {"MIT", "ISC", "Apache-2.0", "OFL-1.1", "CC-BY-4.0", "CC0-1.0"}
NAMES = ("sketches", "icons", "emoji", "latin", "devanagari")


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_has_the_pinned_checksum_and_disjoint_splits(name):
    levels = np.frombuffer(lzma.decompress((FOLDER / f"{name}.xz").read_bytes()), np.uint8)
    assert levels.max() == 15
    domain, pinned = embedded.load(name), recipe()["domains"][name]
    assert hashlib.sha256((levels * 17).tobytes()).hexdigest() == pinned["sha256"]
    assert np.array_equal(domain.images.ravel(), levels * 17)
    classes, images, *_ = domain.images.shape
    assert classes >= 60 and images >= 20
    everything = [c for split in SPLITS for c in domain.classes[split]]
    assert len(set(everything)) == len(everything) == classes
    parts = [domain.split(split) for split in SPLITS]
    assert [len(part) for part in parts] == [len(domain.classes[split]) for split in SPLITS]
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
