"""Lists of the photograph domains, written from small copies of the originals."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from common.command import run_command
from cross_domain_fewshot import filelists, folders
from cross_domain_fewshot.data import open_domain
from cross_domain_fewshot.folders import read_lists


@pytest.fixture
def few_images(monkeypatch):
    """Two or three images per class are enough."""
    domains = {
        n: replace(d, images=(2, 3), total=None, taken=d.taken and 2)
        for n, d in folders.PHOTO_DOMAINS.items()
    }
    monkeypatch.setattr(filelists, "PHOTO_DOMAINS", domains)
    read_lists.cache_clear()


def make_classes(folder, names, images=2):
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            (folder / name / f"{i}.jpg").write_bytes(b"")


def run(monkeypatch, name, images, output):
    arguments = ["--domain", name, "--images", str(images), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["filelists", *arguments])
    run_command(filelists.main)


def failure(monkeypatch, capsys, *arguments):
    """The one sentence with which the command ends; nothing may have been written."""
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert not arguments[-1].exists()
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def read(output):
    return {s: json.loads((output / f"{s}.json").read_text()) for s in ("base", "val", "novel")}


def check_split(lists, names):
    """Every second class is base, then alternately val and novel."""
    assert lists["base"]["label_names"] == names[0::2]
    assert lists["val"]["label_names"] == names[1::4]
    assert lists["novel"]["label_names"] == names[3::4]


@pytest.mark.parametrize(
    ("name", "inner", "counts"),
    [
        ("cub", "images", (100, 50, 50)),
        ("places", "train", (183, 91, 91)),
        ("plantae", "Plantae", (100, 50, 50)),
    ],
)
def test_every_second_class_is_base(name, inner, counts, few_images, monkeypatch, tmp_path):
    names = [f"{i:03}.class" for i in range(sum(counts))]
    make_classes(tmp_path / "original" / inner, reversed(names))
    run(monkeypatch, name, tmp_path / "original", tmp_path / "lists")
    lists = read(tmp_path / "lists")
    check_split(lists, names)
    assert tuple(len(lists[s]["label_names"]) for s in lists) == counts
    for content in lists.values():
        for file, label in zip(content["image_names"], content["image_labels"], strict=True):
            assert f"/{content['label_names'][label]}/" in file
        assert len(content["image_names"]) == 2 * len(content["label_names"])


def test_plantae_takes_the_largest_species_the_smallest_first(few_images, monkeypatch, tmp_path):
    """Ten of the thirty with two images are among the 200 largest: the last ones by name, since
    of equal ones the order is that of their names. Of three images two are taken."""
    folder = tmp_path / "train_val2018"
    make_classes(folder / "Plantae", [f"rare{i:03}" for i in range(30)], images=2)
    make_classes(folder / "Plantae", [f"a{i:03}" for i in range(190)], images=3)
    run(monkeypatch, "plantae", folder, tmp_path / "lists")
    lists = read(tmp_path / "lists")
    order = [f"rare{i:03}" for i in range(20, 30)] + [f"a{i:03}" for i in range(190)]
    check_split(lists, order)
    images = [name for content in lists.values() for name in content["image_names"]]
    assert len(set(images)) == len(images) == 2 * 200
    # A shuffle chooses which two: the third image is in the lists of some classes.
    assert 0 < sum(name.endswith("/2.jpg") for name in images) < 190


def test_places_takes_the_first_files_by_name(few_images, monkeypatch, tmp_path):
    make_classes(tmp_path / "original" / "train", [f"{i:03}" for i in range(365)], images=3)
    run(monkeypatch, "places", tmp_path / "original", tmp_path / "lists")
    lists = read(tmp_path / "lists")
    images = [name.split("/")[-1] for content in lists.values() for name in content["image_names"]]
    assert images == ["0.jpg", "1.jpg"] * 365


def test_the_numbers_of_images_are_those_that_the_authors_used():
    taken = {name: domain.taken for name, domain in folders.PHOTO_DOMAINS.items() if domain.taken}
    assert taken == {"places": 200, "plantae": 600}
    assert folders.PHOTO_DOMAINS["cars"].total == 8_144


@pytest.fixture
def cars(tmp_path):
    """The original of Stanford Cars in small; its index is not in alphabetical order."""
    names = [f"Maker {(5 * i + 3) % 196:03} C/V" for i in range(196)]
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 197), 2))
    files = [f"{i:05}.jpg" for i in range(len(classes))]
    (tmp_path / "cars_train").mkdir()
    (tmp_path / "devkit").mkdir()
    for file in files:
        (tmp_path / "cars_train" / file).write_bytes(b"")
    marks = np.empty((1, len(files)), [("class", object), ("fname", object)])
    for i, file in enumerate(files):
        marks[0, i] = (classes[i], file)
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": marks})
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": np.array(names, object)})
    names = [name.replace("/", "-") for name in names]
    return names, {file: names[number - 1] for file, number in zip(files, classes, strict=True)}


def test_cars_are_split_in_the_order_of_the_development_kit(
    cars, few_images, monkeypatch, tmp_path
):
    names, marks = cars
    assert names != sorted(names)
    run(monkeypatch, "cars", tmp_path, tmp_path / "lists")
    lists = read(tmp_path / "lists")
    check_split(lists, names)
    found = {}
    for content in lists.values():
        for file, label in zip(content["image_names"], content["image_labels"], strict=True):
            found[file.split("/")[-1]] = content["label_names"][label]
    assert found == marks


def test_a_wrong_number_of_images_is_said_in_one_sentence(
    cars, few_images, monkeypatch, capsys, tmp_path
):
    domain = replace(filelists.PHOTO_DOMAINS["cars"], total=393)
    monkeypatch.setitem(filelists.PHOTO_DOMAINS, "cars", domain)
    text = failure(monkeypatch, capsys, "cars", tmp_path, tmp_path / "lists")
    assert "Stanford Cars has 392 images where 393 are expected" in text


@pytest.mark.parametrize(
    "layout", ["base val novel", "train val test", "train.csv val.csv test.csv"]
)
def test_mini_imagenet_keeps_its_given_splits(layout, few_images, monkeypatch, tmp_path):
    classes = {"base": range(64), "val": range(64, 80), "novel": range(80, 100)}
    original = tmp_path / "original"
    places = dict(zip(classes, layout.split(), strict=True))
    for split, numbers in classes.items():
        names = [f"n{i:03}" for i in numbers]
        if "csv" not in layout:
            make_classes(original / places[split], names)
            continue
        (original / "images").mkdir(parents=True, exist_ok=True)
        with (original / places[split]).open("w", newline="") as table:
            rows = csv.writer(table)
            rows.writerow(["filename", "label"])
            for name in names:
                for i in range(2):
                    rows.writerow([f"{name}{i}.jpg", name])
                    (original / "images" / f"{name}{i}.jpg").write_bytes(b"")
    run(monkeypatch, "miniImagenet", original, tmp_path / "lists")
    lists = read(tmp_path / "lists")
    for split, numbers in classes.items():
        assert lists[split]["label_names"] == [f"n{i:03}" for i in numbers]
        assert len(lists[split]["image_names"]) == 2 * len(numbers)


def test_what_is_written_can_be_opened(few_images, monkeypatch, tmp_path):
    folder = tmp_path / "cub" / "CUB_200_2011"
    make_classes(folder / "images", [f"{i:03}" for i in range(200)])
    Image.new("RGB", (40, 30), (10, 20, 30)).save(folder / "images/003/0.jpg")
    run(monkeypatch, "cub", folder, tmp_path / "cub")
    assert not any(file.startswith("/") for file in read(tmp_path / "cub")["val"]["image_names"])
    split = open_domain("paper", "cub", "novel", 8, tmp_path, torch.device("cpu"))
    assert len(split.class_names) == 50
    assert split.contact_sheet(1, 1)[0, 0, :, 3, 3].tolist() == pytest.approx([10, 20, 30], abs=2)


def test_what_is_wrong_with_an_original_is_said_in_one_sentence(
    few_images, monkeypatch, capsys, tmp_path
):
    lists = tmp_path / "lists"
    text = failure(monkeypatch, capsys, "cub", tmp_path / "nowhere", lists)
    assert "nowhere is not a folder: get CUB-200-2011 from https://" in text
    names = [f"{i:03}" for i in range(200)]
    make_classes(tmp_path / "a", names[:-1])
    text = failure(monkeypatch, capsys, "cub", tmp_path / "a", lists)
    assert "49 classes for novel where 50 are expected" in text
    make_classes(tmp_path / "a", names[-1:], images=0)
    text = failure(monkeypatch, capsys, "cub", tmp_path / "a", lists)
    assert "class 199 of CUB-200-2011 has 0 images where 2 to 3 are expected" in text
    assert "--domain dogs" in failure(monkeypatch, capsys, "dogs", tmp_path / "a", lists)
    text = failure(monkeypatch, capsys, "miniImagenet", tmp_path / "a", lists)
    assert "lacks base of miniImageNet" in text
    (tmp_path / "devkit").mkdir()
    (tmp_path / "devkit" / "cars_meta.mat").write_bytes(b"damaged")
    text = failure(monkeypatch, capsys, "cars", tmp_path, lists)
    assert "cannot be read as Stanford Cars" in text
