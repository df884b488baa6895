"""Domains of photographs: lists written from small copies of the originals and from own folders,
read back, and every image checked."""

import hashlib
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from common.command import run_command
from common.errors import UserError
from cross_domain_fewshot import folders
from cross_domain_fewshot.folders import checked_images, read_lists


@pytest.fixture
def few_images(monkeypatch):
    """Two or three images per class are enough."""
    for name, domain in folders.PHOTO_DOMAINS.items():
        small = domain._replace(least=2, total=None, taken=domain.taken and 2)
        monkeypatch.setitem(folders.PHOTO_DOMAINS, name, small)


def make_classes(folder, names, images=2):
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            (folder / name / f"{i}.jpg").write_bytes(b"")


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a domain's lists by the command line, and returns them."""

    def write(name, images):
        words = ["folders", "--name", name, "--images", str(images), "--data-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        run_command(lambda: folders.tyro.cli(folders.write_lists))
        place = tmp_path / name
        return {s: json.loads((place / f"{s}.json").read_text()) for s in folders.SPLITS}

    return write


@pytest.fixture
def refusal(write, capsys):
    """The one sentence with which writing ends."""

    def refusal(name, images):
        with pytest.raises(SystemExit) as ended:
            write(name, images)
        error = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and "\n" not in error
        return error

    return refusal


def check_split(lists, names):
    """Every second class is base, then alternately val and novel; images have their class."""
    assert lists["base"]["label_names"] == names[0::2]
    assert lists["val"]["label_names"] == names[1::4]
    assert lists["novel"]["label_names"] == names[3::4]


def files_of(lists):
    return [name for content in lists.values() for name in content["image_names"]]


def check_images(lists):
    """Every image is of its class, which has two."""
    for content in lists.values():
        labels, names = content["image_labels"], content["label_names"]
        assert all(
            f"/{names[n]}/" in f for f, n in zip(content["image_names"], labels, strict=True)
        )
        assert sorted(labels) == sorted([*range(len(names))] * 2)


@pytest.mark.parametrize(
    ("name", "inner", "count", "images"),
    [
        ("cub", "original/CUB_200_2011/images", 200, 2),  # the parent folder
        ("places", "original/places365_standard/train", 365, 3),  # the first 2 of each
    ],
)
def test_every_second_class_is_base(name, inner, count, images, few_images, write, tmp_path):
    names = [f"{i:03}.class" for i in range(count)]
    make_classes(tmp_path / inner, reversed(names), images)
    make_classes(tmp_path / inner, ["__MACOSX/007.class", "@eaDir", ".hidden"])
    (tmp_path / inner / names[0] / "._0.jpg").write_bytes(b"")
    lists = write(name, tmp_path / "original")
    check_split(lists, names)
    check_images(lists)
    assert {name[-5:] for name in files_of(lists)} == {"0.jpg", "1.jpg"}


def test_plantae_takes_the_largest_species_the_smallest_first(few_images, write, tmp_path):
    """Ten of the thirty with two images are among the 200 largest: the last ones by name, since
    of equal ones the order is that of their names. Of three images two are taken."""
    folder = tmp_path / "train_val2018"
    make_classes(folder / "Plantae", [f"rare{i:03}" for i in range(30)], images=2)
    make_classes(folder / "Plantae", [f"a{i:03}" for i in range(190)], images=3)
    lists = write("plantae", folder)
    check_split(lists, [f"rare{i:03}" for i in range(20, 30)] + [f"a{i:03}" for i in range(190)])
    check_images(lists)
    # A shuffle chooses which two: the third image is in the lists of some classes.
    assert 0 < sum(name.endswith("/2.jpg") for name in files_of(lists)) < 190


@pytest.mark.parametrize("inner", ["", "cars_train"])
def test_cars_are_split_in_the_order_of_the_development_kit(inner, few_images, write, tmp_path):
    """Its index is not in alphabetical order; mirrors have folders one level deeper."""
    images, devkit = (tmp_path / "original" / place / inner for place in ("cars_train", "devkit"))
    names = [f"Maker {(5 * i + 3) % 196:03} C/V" for i in range(196)]
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 197), 2))
    marks = np.empty((1, len(classes)), [("class", object), ("fname", object)])
    images.mkdir(parents=True)
    devkit.mkdir(parents=True)
    for i, number in enumerate(classes):
        (images / f"{i:05}.jpg").write_bytes(b"")
        marks[0, i] = (number, f"{i:05}.jpg")
    savemat(devkit / "cars_train_annos.mat", {"annotations": marks})
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(names, object)})
    lists = write("cars", tmp_path / "original")
    names = [name.replace("/", "-") for name in names]
    check_split(lists, names)
    for content in lists.values():
        for file, label in zip(content["image_names"], content["image_labels"], strict=True):
            number = classes[int(file.split("/")[-1][:5])]
            assert names[number - 1] == content["label_names"][label]


@pytest.mark.parametrize(
    ("layout", "depth"),
    [("base val novel", ""), ("train val test", "inner"), ("train.csv val.csv test.csv", "inner")],
)
def test_mini_imagenet_keeps_its_given_splits(layout, depth, few_images, write, tmp_path):
    original, counts = tmp_path / "original" / depth, (64, 16, 20)
    for place, count in zip(layout.split(), counts, strict=True):
        names = [f"{place}{i:03}" for i in range(count)]
        make_classes(original / ("images" if "csv" in layout else place), names)
        if "csv" in layout:
            lines = [f"{name}/{i}.jpg,{name}" for name in names for i in range(2)]
            (original / place).write_text("\n".join(["filename,label", *lines]), "utf-8-sig")
    lists = write("miniImagenet", tmp_path / "original")
    for place, count, content in zip(layout.split(), counts, lists.values(), strict=True):
        assert content["label_names"] == [f"{place}{i:03}" for i in range(count)]
    check_images(lists)


def test_a_folder_of_ones_own_is_a_domain_whose_splits_are_kept(write, refusal, tmp_path):
    names, photos = [f"c{i}" for i in range(9)], tmp_path / "mine" / "photos"
    make_classes(photos, names[:8])
    make_classes(tmp_path / "mine_too", ["c8"])
    (photos / "c8").symlink_to(tmp_path / "mine_too" / "c8")
    make_classes(photos, ["empty"], images=0)
    (photos / "logo.png").write_bytes(b"")  # beside the classes, so of none
    lists = write("mine", photos.parent)
    check_split(lists, names)
    outside = [file for file in files_of(lists) if file.startswith("/")]
    assert len(outside) == 2  # the others can be moved together
    assert write("mine", photos.parent) == lists
    make_classes(photos, ["a new one"])
    assert "there with other content" in refusal("mine", photos.parent)
    assert "1 folders of images, fewer than 8" in refusal("other", photos / "c1")
    assert "--name ../x must" in refusal("../x", photos)


def test_what_is_wrong_with_an_original_is_said_in_one_sentence(few_images, refusal, tmp_path):
    def failure(name, images):
        error = refusal(name, images)
        assert not (tmp_path / name).exists() and f"--images {images} cannot be read as " in error
        return error

    assert "needed is CUB_200_2011, or" in failure("cub", tmp_path / "nowhere")
    make_classes(tmp_path / "a", [f"{i:03}" for i in range(199)])
    assert "(100, 50, 49) classes instead of (100, 50, 50)" in failure("cub", tmp_path / "a")
    make_classes(tmp_path / "a", ["199"], images=1)
    assert "class 199 has 1 images, fewer than 2" in failure("cub", tmp_path / "a")
    assert "() classes instead of (64, 16, 20)" in failure("miniImagenet", tmp_path / "a")
    (tmp_path / "cars_meta.mat").write_bytes(b"damaged")
    assert "Stanford Cars" in failure("cars", tmp_path)


def edit_list(data, split, change):
    path = data / "cub" / f"{split}.json"
    content = json.loads(path.read_text())
    content |= change(content)
    path.write_text(json.dumps(content), encoding="utf-8-sig")


def test_lists_of_the_user_are_taken_as_they_are(write_photos):
    """Whatever the numbers of classes and images; names without images are no classes. The lists
    may begin with a byte-order mark, name the classes of all splits, and have labels like 2.0."""
    data = write_photos(classes=(2, 1, 1))
    names = ["base_0", "novel_0", "base_1", "val_0", "nothing"]
    for split, numbers in {"base": [0.0, 2.0], "val": [3], "novel": [1]}.items():
        labels = [number for number in numbers for _ in range(6)]
        edit_list(data, split, lambda _, n=labels: {"image_labels": n, "label_names": names})
    lists = read_lists(data, "cub")
    assert [list(lists[s]) for s in folders.SPLITS] == [
        ["base_0", "base_1"],
        ["val_0"],
        ["novel_0"],
    ]


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("image_labels", lambda found: found[1:]),
        ("image_labels", lambda found: [99, *found[1:]]),
        ("image_labels", lambda found: [0.5, *found[1:]]),
        ("image_names", lambda found: [found[1], *found[1:]]),
        ("label_names", lambda found: [found[1], *found[1:]]),
    ],
)
def test_a_damaged_list_is_named(key, changed, write_photos):
    data = write_photos()
    edit_list(data, "base", lambda content: {key: changed(content[key])})
    with pytest.raises(UserError, match=r"cub/base\.json is not a list"):
        read_lists(data, "cub")


def test_what_is_missing_is_named_with_where_to_get_it(write_photos, monkeypatch):
    data = write_photos("cub")
    with pytest.raises(UserError, match=r"Places365-Standard from http.*--name places"):
        read_lists(data, "places")
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    with pytest.raises(UserError, match="--data-dir"):
        read_lists(None, "cub")
    edit_list(data, "novel", lambda _: {"label_names": ["novel_0", "base_2", "novel_2"]})
    with pytest.raises(UserError, match=r"class base_2 .* in two lists"):
        read_lists(data, "cub")


def test_images_are_identified_by_their_content_and_a_broken_one_is_named(write_photos):
    """The checksum is that of classes and bytes."""
    classes = read_lists(write_photos(plain=False), "cub")["novel"]
    total = hashlib.sha256()
    for name, files in classes.items():
        sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        total.update(repr((name, sums)).encode())
    assert checked_images("cub", classes, threads=2) == total.hexdigest()
    file = classes["novel_1"][3]
    deep, data = io.BytesIO(), file.read_bytes()
    Image.fromarray(np.array([[0, 65_535]], np.uint16)).save(deep, "png")
    for content in (b"no image", data[:300], deep.getvalue(), None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(UserError, match=str(file)) as caught:
            checked_images("cub", classes, threads=2)
        assert "\n" not in str(caught.value)
