"""Opening domains: photographs in their lists, the embedded ones, Omniglot; and what is missing."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.datasets.dataset import CanonicalFile
from common.errors import UserError
from common.training import new_generator
from cross_domain_fewshot import omniglot
from cross_domain_fewshot.data import BASE_DOMAIN, DOMAINS, data_checksums, open_domain
from cross_domain_fewshot.episodes import EpisodeStream
from cross_domain_fewshot.folders import PHOTO_DOMAINS, read_lists

CPU = torch.device("cpu")


def message_of(action, *arguments):
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_two_benchmarks():
    assert {name: len(domains) for name, domains in DOMAINS.items()} == {"embedded": 5, "paper": 5}
    assert all(BASE_DOMAIN[name] in domains for name, domains in DOMAINS.items())
    assert tuple(PHOTO_DOMAINS) == DOMAINS["paper"]


def test_photographs_are_opened_from_their_lists(write_photos, monkeypatch):
    folder = write_photos("cars", classes=(4, 2, 3), images=6)
    split = open_domain("paper", "cars", "novel", 12, folder, CPU)
    assert split.class_names == ("novel_0", "novel_1", "novel_2")
    assert split.class_sizes == (6, 6, 6)
    sheet = split.contact_sheet(3, 5)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 5, 3, 12, 12)
    for c in range(3):
        for i in range(5):
            assert sheet[c, i, :, 4, 7].tolist() == [10 * (6 + c), 10 * i, 50]
    assert "contact sheet" in message_of(split.contact_sheet, 4, 1)
    monkeypatch.setenv("EVOGRAD_DATA", str(folder))
    assert open_domain("paper", "cars", "val", 12, None, CPU).class_names == ("val_0", "val_1")


def test_the_checksums_are_those_of_the_lists(write_photos):
    folder = write_photos("cub")
    found = data_checksums("paper", folder, ["cub"])
    files = {s: (folder / "cub" / f"{s}.json").read_bytes() for s in ("base", "val", "novel")}
    assert found == {f"cub {s}.json": hashlib.sha256(b).hexdigest() for s, b in files.items()}


def test_what_is_missing_is_named_with_where_to_get_it(write_photos, monkeypatch, tmp_path):
    folder = write_photos("cub")
    text = message_of(data_checksums, "paper", folder)
    for name in ("miniImagenet", "cars", "places", "plantae"):
        assert f"{name} from http" in text
    assert "cub from" not in text
    assert "cross_domain_fewshot.filelists" in text
    text = message_of(open_domain, "paper", "places", "base", 8, folder, CPU)
    assert PHOTO_DOMAINS["places"].page in text
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    assert "--data-dir" in message_of(open_domain, "paper", "cub", "base", 8, None, CPU)
    assert "no domain birds" in message_of(open_domain, "paper", "birds", "base", 8, folder, CPU)
    assert "no split test" in message_of(open_domain, "paper", "cub", "test", 8, folder, CPU)


def edit_list(folder, split, change):
    path = folder / "cub" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    read_lists.cache_clear()


def test_lists_of_the_user_are_taken_as_they_are(write_photos):
    """Whatever the numbers of classes and images; names without images are no classes."""
    folder = write_photos(classes=(4, 2, 3))
    edit_list(folder, "val", lambda c: c["label_names"].append("nothing"))
    split = open_domain("paper", "cub", "val", 8, folder, CPU)
    assert split.class_names == ("val_0", "val_1")


def test_a_class_in_two_splits_is_refused(write_photos):
    folder = write_photos()
    edit_list(folder, "novel", lambda c: c["label_names"].__setitem__(1, "base_2"))
    text = message_of(open_domain, "paper", "cub", "base", 8, folder, CPU)
    assert "class base_2" in text
    assert "base and novel" in text


def test_lists_may_name_the_classes_of_all_splits(write_photos):
    folder = write_photos(classes=(2, 1, 1))
    names = ["base_0", "novel_0", "base_1", "val_0"]
    order = {"base": [0, 2], "val": [3], "novel": [1]}
    for split, numbers in order.items():

        def change(content, numbers=numbers):
            content["image_labels"] = [numbers[label] for label in content["image_labels"]]
            content["label_names"] = names

        edit_list(folder, split, change)
    assert open_domain("paper", "cub", "base", 8, folder, CPU).class_names == ("base_0", "base_1")
    assert open_domain("paper", "cub", "val", 8, folder, CPU).class_names == ("val_0",)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("image_names"),
        lambda c: c["image_labels"].pop(),
        lambda c: c["image_labels"].__setitem__(0, 99),
        lambda c: c["image_labels"].__setitem__(0, "x"),
        lambda c: c["image_names"].__setitem__(0, c["image_names"][1]),
        lambda c: c["label_names"].__setitem__(0, c["label_names"][1]),
    ],
)
def test_a_damaged_list_is_named(change, write_photos):
    folder = write_photos()
    edit_list(folder, "base", change)
    text = message_of(open_domain, "paper", "cub", "novel", 8, folder, CPU)
    assert str(folder / "cub" / "base.json") in text


def test_a_list_that_is_no_json_is_named(write_photos):
    folder = write_photos()
    (folder / "cub" / "val.json").write_bytes(b"\xff{")
    read_lists.cache_clear()
    assert "val.json" in message_of(open_domain, "paper", "cub", "base", 8, folder, CPU)


@pytest.mark.parametrize("name", DOMAINS["embedded"])
def test_embedded_images_arrive_as_they_are(name, pixels):
    split = open_domain("embedded", name, "novel", 32, None, CPU)
    stream = EpisodeStream(split, 5, 5, 15, new_generator(1, "x"), augment=False)
    episode = stream.next()
    known = {image.numpy().tobytes() for image in split.images.pixels.expand(-1, 3, -1, -1)}
    for part in (episode.support, episode.query):
        assert part.dtype == torch.float32
        for image in pixels(part.flatten(0, 1)).byte():
            assert image.numpy().tobytes() in known


def test_embedded_images_at_another_size():
    small = open_domain("embedded", "emoji", "val", 16, None, CPU).contact_sheet(2, 3)
    full = open_domain("embedded", "emoji", "val", 32, None, CPU).contact_sheet(2, 3)
    resized = np.asarray(
        Image.fromarray(full[1, 2].permute(1, 2, 0).numpy()).resize(
            (16, 16), Image.Resampling.BILINEAR
        )
    )
    difference = small[1, 2].permute(1, 2, 0).numpy().astype(int) - resized
    assert np.abs(difference).max() <= 1


@pytest.fixture
def characters(tmp_path, monkeypatch):
    """Two archives in Omniglot's layout, which share an alphabet."""
    files = []
    for number, alphabets in ((1, ("Greek", "Korean", "Latin")), (2, ("Greek", "Tagalog"))):
        path, buffer = tmp_path / f"images_background_small{number}.zip", io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for alphabet in alphabets:
                for character in range(1, 5):
                    for i in range(3):
                        picture = Image.new("1", (105, 105), 1)
                        picture.paste(0, (10 * character, 20, 10 * character + 10 + i, 60))
                        png = io.BytesIO()
                        picture.save(png, "PNG")
                        archive.writestr(
                            f"{path.stem}/{alphabet}/character{character:02}/{i}.png",
                            png.getvalue(),
                        )
        path.write_bytes(buffer.getvalue())
        files.append(CanonicalFile(path.name, hashlib.sha256(buffer.getvalue()).hexdigest()))
    monkeypatch.setattr(omniglot, "OMNIGLOT", replace(omniglot.OMNIGLOT, files=tuple(files)))
    return tmp_path


def test_omniglot_is_one_more_domain(characters):
    splits = {
        s: open_domain("embedded", "omniglot", s, 32, characters, CPU)
        for s in ("base", "val", "novel")
    }
    names = {s: split.class_names for s, split in splits.items()}
    ordered = [f"{a}/character0{c}" for a in ("Greek", "Korean", "Tagalog") for c in range(1, 5)]
    assert names == {"base": tuple(ordered[::2]), "val": tuple(ordered[1::4]),
                     "novel": tuple(ordered[3::4])}  # fmt: skip
    assert splits["base"].class_sizes == (3,) * 6
    assert not splits["base"].mirrored
    image = splits["novel"].contact_sheet(1, 1)[0, 0, 0].double()
    # character04's first image: ink 10 x 40 pixels of 105, which keeps its share of the area.
    assert image.mean().item() / 255 == pytest.approx(400 / 105**2, rel=0.03)
    assert data_checksums("embedded", characters, ["omniglot"])["omniglot"]


def test_other_archives_are_not_taken_for_omniglot(tmp_path):
    for name in omniglot._FILES:
        (tmp_path / name).write_bytes(b"something else")
    assert "Omniglot" in message_of(open_domain, "embedded", "omniglot", "base", 32, tmp_path, CPU)
    (tmp_path / "images_background_small2.zip").unlink()
    assert "small2" in message_of(open_domain, "embedded", "omniglot", "base", 32, tmp_path, CPU)
