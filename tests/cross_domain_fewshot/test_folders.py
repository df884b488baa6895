"""Domains of photographs: lists written from small copies of the originals and from own folders,
read back, and every image checked."""

import csv
import hashlib
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
        folders.tyro.cli(folders.write_lists)
        place = tmp_path / name
        return {s: json.loads((place / f"{s}.json").read_text()) for s in folders.SPLITS}

    return write


def check_split(lists, names):
    """Every second class is base, then alternately val and novel; images have their class."""
    assert lists["base"]["label_names"] == names[0::2]
    assert lists["val"]["label_names"] == names[1::4]
    assert lists["novel"]["label_names"] == names[3::4]


def files_of(lists):
    return [name for content in lists.values() for name in content["image_names"]]


@pytest.mark.parametrize(
    ("name", "inner", "counts", "images"),
    [
        ("cub", "original/CUB_200_2011/images", (100, 50, 50), 2),  # the parent folder
        ("places", "original/places365_standard/train", (183, 91, 91), 3),  # the first 2 of each
        ("plantae", "original/Plantae/Plantae", (100, 50, 50), 2),
    ],
)
def test_every_second_class_is_base(name, inner, counts, images, few_images, write, tmp_path):
    names = [f"{i:03}.class" for i in range(sum(counts))]
    make_classes(tmp_path / inner, reversed(names), images)
    for clutter in ("__MACOSX/007.class", "@eaDir", ".hidden"):
        make_classes(tmp_path / inner, [clutter])
    (tmp_path / inner / names[0] / "._0.jpg").write_bytes(b"")
    lists = write(name, tmp_path / "original")
    check_split(lists, names)
    for content in lists.values():
        for file, label in zip(content["image_names"], content["image_labels"], strict=True):
            assert f"/{content['label_names'][label]}/" in file
        numbers = sorted(file.split("/")[-1] for file in content["image_names"])
        assert numbers == sorted(["0.jpg", "1.jpg"] * len(content["label_names"]))


def test_plantae_takes_the_largest_species_the_smallest_first(few_images, write, tmp_path):
    """Ten of the thirty with two images are among the 200 largest: the last ones by name, since
    of equal ones the order is that of their names. Of three images two are taken."""
    folder = tmp_path / "train_val2018"
    make_classes(folder / "Plantae", [f"rare{i:03}" for i in range(30)], images=2)
    make_classes(folder / "Plantae", [f"a{i:03}" for i in range(190)], images=3)
    lists = write("plantae", folder)
    check_split(lists, [f"rare{i:03}" for i in range(20, 30)] + [f"a{i:03}" for i in range(190)])
    images = files_of(lists)
    assert len(set(images)) == len(images) == 2 * 200
    # A shuffle chooses which two: the third image is in the lists of some classes.
    assert 0 < sum(name.endswith("/2.jpg") for name in images) < 190


@pytest.mark.parametrize("layout", [("cars_train", "devkit"),
                                    ("cars_train/cars_train", "car_devkit/devkit")])  # fmt: skip
def test_cars_are_split_in_the_order_of_the_development_kit(layout, few_images, write, tmp_path):
    """Its index is not in alphabetical order; mirrors have folders one level deeper."""
    images, devkit = (tmp_path / "original" / place for place in layout)
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
            own = names[classes[int(file.split("/")[-1][:5])] - 1]
            assert own == content["label_names"][label]


@pytest.mark.parametrize(
    ("layout", "depth"),
    [("base val novel", ""), ("train val test", "inner"), ("train.csv val.csv test.csv", "inner")],
)
def test_mini_imagenet_keeps_its_given_splits(layout, depth, few_images, write, tmp_path):
    classes = {"base": range(64), "val": range(64, 80), "novel": range(80, 100)}
    original = tmp_path / "original" / depth
    for place, numbers in zip(layout.split(), classes.values(), strict=True):
        names = [f"n{i:03}" for i in numbers]
        if "csv" not in layout:
            make_classes(original / place, names)
            continue
        (original / "images").mkdir(parents=True, exist_ok=True)
        pairs = [(f"{name}{i}.jpg", name) for name in names for i in range(2)]
        for file, _ in pairs:
            (original / "images" / file).write_bytes(b"")
        with (original / place).open("w", newline="", encoding="utf-8-sig") as table:
            csv.writer(table).writerows([("filename", "label"), *pairs])
    lists = write("miniImagenet", tmp_path / "original")
    for split, numbers in classes.items():
        assert lists[split]["label_names"] == [f"n{i:03}" for i in numbers]
        assert len(lists[split]["image_names"]) == 2 * len(numbers)


def test_a_folder_of_ones_own_is_a_domain_whose_splits_are_kept(write, tmp_path):
    names = [f"c{i}" for i in range(9)]
    make_classes(tmp_path / "mine" / "photos", names)
    (tmp_path / "mine" / "photos" / "empty").mkdir()
    lists = write("mine", tmp_path / "mine")
    check_split(lists, names)
    assert not any(file.startswith("/") for file in files_of(lists))  # they can be moved together
    assert write("mine", tmp_path / "mine") == lists
    make_classes(tmp_path / "mine" / "photos", ["a new one"])
    with pytest.raises(UserError, match="there with other content"):
        write("mine", tmp_path / "mine")
    with pytest.raises(UserError, match="1 folders of images, fewer than 8"):
        write("other", tmp_path / "mine" / "photos" / "c1")
    with pytest.raises(UserError, match=r"--name \.\./x must"):
        write("../x", tmp_path / "mine")


def test_what_is_wrong_with_an_original_is_said_in_one_sentence(
    few_images, monkeypatch, capsys, tmp_path
):
    def failure(name, images):
        words = ["folders", "--name", name, "--images", str(images), "--data-dir"]
        monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "data")])
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: folders.tyro.cli(folders.write_lists))
        assert ended.value.code == 2
        assert not (tmp_path / "data").exists()
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and f"--images {images} cannot be read as " in error
        return error

    assert "needed is CUB_200_2011, or" in failure("cub", tmp_path / "nowhere")
    make_classes(tmp_path / "a", [f"{i:03}" for i in range(199)])
    assert "(100, 50, 49) classes instead of (100, 50, 50)" in failure("cub", tmp_path / "a")
    make_classes(tmp_path / "a", ["199"], images=1)
    assert "class 199 has 1 images, fewer than 2" in failure("cub", tmp_path / "a")
    assert "() classes instead of (64, 16, 20)" in failure("miniImagenet", tmp_path / "a")
    (tmp_path / "devkit").mkdir()
    (tmp_path / "devkit" / "cars_meta.mat").write_bytes(b"damaged")
    assert "Stanford Cars" in failure("cars", tmp_path)


def edit_list(data, split, change):
    path = data / "cub" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8-sig")


def test_lists_of_the_user_are_taken_as_they_are(write_photos):
    """Whatever the numbers of classes and images; names without images are no classes. The lists
    may begin with a byte-order mark, name the classes of all splits, and have labels like 2.0."""
    data = write_photos(classes=(2, 1, 1))
    order = {"base": [0.0, 2.0], "val": [3], "novel": [1]}
    for split, numbers in order.items():

        def change(content, numbers=numbers):
            content["image_labels"] = [numbers[label] for label in content["image_labels"]]
            content["label_names"] = ["base_0", "novel_0", "base_1", "val_0", "nothing"]

        edit_list(data, split, change)
    lists = read_lists(data, "cub")
    assert {s: list(c) for s, c in lists.items()} == {
        "base": ["base_0", "base_1"], "val": ["val_0"], "novel": ["novel_0"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["image_labels"].pop(),
        lambda c: c["image_labels"].__setitem__(0, 99),
        lambda c: c["image_labels"].__setitem__(0, 0.5),
        lambda c: c["image_names"].__setitem__(0, c["image_names"][1]),
        lambda c: c["label_names"].__setitem__(0, c["label_names"][1]),
    ],
)
def test_a_damaged_list_is_named(change, write_photos):
    data = write_photos()
    edit_list(data, "base", change)
    with pytest.raises(UserError, match=r"cub/base\.json is not a list"):
        read_lists(data, "cub")


def test_what_is_missing_is_named_with_where_to_get_it(write_photos, monkeypatch):
    data = write_photos("cub")
    with pytest.raises(UserError, match=r"Places365-Standard from http.*--name places"):
        read_lists(data, "places")
    monkeypatch.delenv("EVOGRAD_DATA", raising=False)
    with pytest.raises(UserError, match="--data-dir"):
        read_lists(None, "cub")
    edit_list(data, "novel", lambda c: c["label_names"].__setitem__(1, "base_2"))
    with pytest.raises(UserError, match=r"class base_2 .* in two lists"):
        read_lists(data, "cub")


def test_images_are_identified_by_their_content(write_photos):
    """The checksum is that of classes and bytes."""
    classes = read_lists(write_photos(plain=False), "cub")["novel"]
    total = hashlib.sha256()
    for name, files in classes.items():
        sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        total.update(repr((name, sums)).encode())
    assert checked_images("cub", classes, threads=2) == total.hexdigest()


@pytest.mark.parametrize("damage", ["gone", "text", "cut", "deep"])
def test_a_broken_image_is_named_in_one_sentence(damage, write_photos):
    classes = read_lists(write_photos(plain=False), "cub")["base"]
    file = classes["base_1"][3]
    content = {"text": b"no image", "cut": file.read_bytes()[:300]}
    file.unlink()
    if damage == "deep":
        Image.fromarray(np.array([[0, 65_535]], np.uint16)).save(file)
    elif damage != "gone":
        file.write_bytes(content[damage])
    with pytest.raises(UserError, match=str(file)) as caught:
        checked_images("cub", classes, threads=2)
    assert "\n" not in str(caught.value)
