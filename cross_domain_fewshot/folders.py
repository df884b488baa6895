"""Domains of photographs: folders of images with lists of their classes.

    python -m cross_domain_fewshot.folders --name cub --images CUB_200_2011 --data-dir DATA
    python -m cross_domain_fewshot.folders --name mydomain --images FOLDER_OF_CLASS_FOLDERS

writes DATA/NAME/base.json, val.json and novel.json, each {"label_names": [...], "image_names":
[...], "image_labels": [...]}, the format of Chen et al. (2019) and Tseng et al. (2020). Existing
lists are used whatever classes and images they name. Image names are absolute or relative to the
list's folder; label_names may include classes without images.

Folders base (or train), val and novel (or test), each with one folder per class, are the splits;
else class number i from 0 is base if i % 2 = 0, val if i % 4 = 1, novel if i % 4 = 3 (the rule of
Chen et al. for CUB, of Tseng et al. for all but miniImageNet). The number of a class:

    cars          in the order of the development kit's index; only images of cars_train
    plantae       the 200 classes with the most images, smallest first, ties by name; at most 600
                  images of a class, chosen by a shuffle with seed 0
    all others    in alphabetical order; places: only the first 200 files of a class
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import tyro
from PIL import Image
from tqdm import tqdm

from common.command import run_command
from common.errors import UserError
from common.files import file_digest, write_atomic

SPLITS = ("base", "val", "novel")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
CLUTTER = {"__MACOSX", "@eaDir"}
"""Folders that systems add to others, beside hidden ones."""
LEAST_CLASSES = 8
"""Of a domain that is divided by the rule above: two novel ones."""
Classes = dict[str, list[Path]]
"""Image files by class."""


class PhotoDomain(NamedTuple):
    """A domain of the paper.

    page: where it is from. layout: the unpacked original. inner: its folder of class folders.
    classes: their number in base, val and novel. images: the smallest and the largest number of
    images of a class in the original. total: images of all these classes, None if unknown. taken:
    the number used of each class, None for all.
    """

    title: str
    page: str
    layout: str
    inner: str
    classes: tuple[int, int, int]
    images: tuple[int, int]
    total: int | None = None
    taken: int | None = None


PHOTO_DOMAINS = {
    "miniImagenet": PhotoDomain(
        "miniImageNet",
        "https://image-net.org/download.php (ILSVRC 2012), class lists of Ravi and Larochelle "
        "at https://github.com/twitter-research/meta-learning-lstm",
        "folders base or train, val, novel or test, each with one folder per class; or a folder "
        "images beside train.csv, val.csv and test.csv (columns filename, label)",
        "",
        (64, 16, 20),
        (600, 600),
        total=60_000,
    ),
    "cub": PhotoDomain(
        "CUB-200-2011",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "CUB_200_2011, or its folder images with one folder per class",
        "images",
        (100, 50, 50),
        (41, 60),
        total=11_788,
    ),
    "cars": PhotoDomain(
        "Stanford Cars",
        "a mirror, as https://github.com/pytorch/vision/issues/7545 says (the original page is "
        "gone)",
        "cars_train and devkit side by side, in devkit cars_train_annos.mat and cars_meta.mat",
        "cars_train",
        (98, 49, 49),
        (24, 68),
        total=8_144,
    ),
    "places": PhotoDomain(
        "Places365-Standard",
        "http://places2.csail.mit.edu/download.html (easy directory structure)",
        "places365_standard, or its folder train with one folder per class",
        "train",
        (183, 91, 91),
        (3_068, 5_000),
        taken=200,
    ),
    "plantae": PhotoDomain(
        "Plantae of iNaturalist 2018",
        "https://github.com/visipedia/inat_comp/tree/master/2018",
        "train_val2018/Plantae with one folder per species, of which the 200 with the most images "
        "are used",
        "Plantae",
        (100, 50, 50),
        (21, 1_000),
        taken=600,
    ),
}


# Reading: lists and images of a run.


def find_data_dir(data_dir: Path | None) -> Path:
    """``data_dir``, else EVOGRAD_DATA. Raises UserError if neither is set."""
    if chosen := data_dir or os.environ.get("EVOGRAD_DATA"):
        return Path(chosen).expanduser()
    raise UserError(
        "photographs are needed: name the folder that holds a folder for each domain with "
        "--data-dir or EVOGRAD_DATA"
    )


def read_lists(data_dir: Path | None, name: str) -> dict[str, Classes]:
    """The classes of a domain's splits.

    Raises UserError if a list is missing or damaged, or a class is in two splits.
    """
    folder = find_data_dir(data_dir) / name
    paths = {split: folder / f"{split}.json" for split in SPLITS}
    if not all(path.is_file() for path in paths.values()):
        known = PHOTO_DOMAINS.get(name)
        source = f"get {known.title} from {known.page} and " if known else ""
        raise UserError(
            f"{folder} lacks base.json, val.json or novel.json: {source}write them with python -m "
            f"cross_domain_fewshot.folders --name {name} --images IMAGES --data-dir {folder.parent}"
        )
    lists = {split: _read_list(path) for split, path in paths.items()}
    names = [class_name for classes in lists.values() for class_name in classes]
    if both := {class_name for class_name in names if names.count(class_name) > 1}:
        raise UserError(f"class {min(both)} of {folder} is in two lists: remove it from one")
    return lists


def _read_list(path: Path) -> Classes:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names, files = [str(name) for name in content["label_names"]], content["image_names"]
        classes: Classes = {name: [] for name in names}
        for file, label in zip(files, content["image_labels"], strict=True):
            if label not in range(len(names)):  # 3.0 is 3
                raise ValueError(f"label {label} of {file} has no name")
            classes[names[int(label)]].append(path.parent / file)
        if len(classes) < len(names) or len(set(files)) < len(files):
            raise ValueError("a class or an image occurs twice")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of classes and images ({_reason(error)})") from None
    return {name: files for name, files in classes.items() if files}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def open_image(path: Path) -> Image.Image:
    """RGB with 8 bits a channel. Raises UserError if the file is missing, damaged, or has more."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError("it has 16 or 32 bits a channel instead of 8")
            return image.convert("RGB")
    except Exception as error:  # of many kinds
        raise UserError(
            f"{path} cannot be read as an image ({_reason(error)}): replace it"
        ) from None


def checked_images(name: str, classes: Mapping[str, Sequence[Path]], threads: int = 1) -> str:
    """SHA-256 over the names of some classes of a domain and the bytes of their images.

    Every image is decoded once. Raises UserError with the first that cannot be read.
    """

    def check(file: Path) -> str:
        open_image(file)
        return file_digest(file)

    total, files = hashlib.sha256(), [file for own in classes.values() for file in own]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        checks = pool.map(check, files)
        found = list(tqdm(checks, f"checking {name}", len(files), leave=False, delay=2))
    for class_name, own in classes.items():
        total.update(repr((class_name, found[: len(own)])).encode())
        del found[: len(own)]
    return total.hexdigest()


# Writing: lists from an unpacked original.


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and clutter."""
    names = (p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in CLUTTER)
    return sorted(p for p in names if p.is_dir())


def _images(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    return sorted(p for p in files if not p.name.startswith("."))


def class_folders(folder: Path, inner: str = "") -> Classes:
    """One class per folder, sorted by name: the folders in ``inner``, here or one level deeper,
    else those here; of a folder that holds nothing but another one, those in that."""
    places = (place / inner for place in (folder, *_folders(folder)))
    folder = next(filter(Path.is_dir, places), folder)
    while len(only := _folders(folder)) == 1 and not _images(folder):
        folder = only[0]
    return {place.name: _images(place) for place in _folders(folder)}


def split_by_number(classes: Classes) -> dict[str, Classes]:
    """The rule at the top of this page, for classes in the order of their numbers."""
    names = list(classes)
    numbered = {"base": names[0::2], "val": names[1::4], "novel": names[3::4]}
    return {split: {n: classes[n] for n in own} for split, own in numbered.items()}


def given_splits(folder: Path) -> dict[str, Classes] | None:
    """Splits that are folders, or lists in CSV files beside the folder ``images``, in ``folder`` or
    one level deeper; None if there are none."""
    for place in (folder, *_folders(folder)):
        splits: dict[str, Classes] = {}
        for split, other in zip(SPLITS, ("train", "val", "test"), strict=True):
            table = place / f"{other}.csv"
            if folders := [place / name for name in (split, other) if (place / name).is_dir()]:
                splits[split] = class_folders(folders[0])
            elif table.is_file():
                files = pd.read_csv(table, dtype=str, keep_default_na=False).groupby("label")
                splits[split] = {
                    str(label): sorted(place / "images" / name for name in own)
                    for label, own in files["filename"]
                }
        if len(splits) == len(SPLITS):
            return splits
    return None


def cars_devkit(folder: Path) -> Classes:
    """Stanford Cars as it is distributed, its training images: numbered files, classes in MATLAB
    files, in the order of the index."""
    from scipy.io import loadmat

    names, marks = (
        loadmat(next(folder.rglob(f"{file}.mat")), squeeze_me=True)[key]
        for file, key in (("cars_meta", "class_names"), ("cars_train_annos", "annotations"))
    )
    files = {file.name: file for file in folder.rglob("*.jpg") if "cars_train" in file.parts}
    ordered = [str(name).replace("/", "-") for name in names]
    classes: Classes = {name: [] for name in ordered}
    for number, file in sorted(zip(marks["class"], marks["fname"], strict=True)):
        classes[ordered[int(number) - 1]].append(files[str(file)])
    return classes


def largest_species(classes: Classes, count: int) -> Classes:
    """The ``count`` classes with the most images, smallest first, ties by name; the files are
    shuffled as after ``random.seed(0)``, for all classes in alphabetical order."""
    shuffler = random.Random(0)
    for name in sorted(classes):
        shuffler.shuffle(classes[name])
    ascending = sorted(classes, key=lambda name: (len(classes[name]), name))
    return {name: classes[name] for name in ascending[-count:]}


def find_splits(name: str, folder: Path) -> dict[str, Classes]:
    """The classes of each split in an unpacked original. Raises UserError if it is not one, or if
    one of the paper's has other numbers of classes or images."""
    domain = PHOTO_DOMAINS.get(name)
    try:
        if domain is None:
            return given_splits(folder) or split_by_number(_own_classes(folder))
        if name == "miniImagenet":
            splits = given_splits(folder) or {}
        elif name == "cars":
            splits = split_by_number(cars_devkit(folder))
        else:
            classes = class_folders(folder, domain.inner)
            if name == "plantae":
                classes = largest_species(classes, sum(domain.classes))
            splits = split_by_number(classes)
        check_counts(domain, splits)
    except Exception as error:  # damaged files raise errors of many kinds
        layout = "one folder per class, or base, val and novel with these"
        needed = f"{domain.layout}, from {domain.page}" if domain else layout
        raise UserError(
            f"--images {folder} cannot be read as {domain.title if domain else name} "
            f"({_reason(error)}): needed is {needed}"
        ) from None
    return {s: {n: files[: domain.taken] for n, files in own.items()} for s, own in splits.items()}


def _own_classes(folder: Path) -> Classes:
    classes = {name: files for name, files in class_folders(folder).items() if files}
    if len(classes) < LEAST_CLASSES:
        raise ValueError(f"it has {len(classes)} folders of images, fewer than {LEAST_CLASSES}")
    return classes


def check_counts(domain: PhotoDomain, splits: Mapping[str, Classes]) -> None:
    """Raises ValueError if the number of classes, or of images in a class, is wrong, or an image is
    missing."""
    classes = [(name, files) for own in splits.values() for name, files in own.items()]
    counts = tuple(map(len, splits.values()))
    if counts != domain.classes:
        raise ValueError(f"base, val and novel have {counts} classes instead of {domain.classes}")
    least, most = domain.images
    for name, files in classes:
        if not least <= len(files) <= most:
            raise ValueError(f"class {name} has {len(files)} images instead of {least} to {most}")
        if missing := [file for file in files if not file.is_file()]:
            raise ValueError(f"{missing[0]} is not there")
    total = sum(len(files) for _, files in classes)
    if domain.total not in (None, total):
        raise ValueError(f"it has {total} images instead of {domain.total}")


def write_lists(name: str, images: Path, data_dir: Path | None = None) -> None:
    """Writes the class lists of a domain of photographs into DATA_DIR/NAME.

    name: one of the paper's (miniImagenet, cub, cars, places, plantae), or any other for your own.
    images: the unpacked original; your own: a folder of class folders. data_dir: default the
    environment variable EVOGRAD_DATA.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UserError(f"--name {name} must consist of letters, digits and underscores")
    output = (find_data_dir(data_dir) / name).resolve()

    def written(file: Path) -> str:
        """Relative where the images lie below the list, so that they can be moved together."""
        file = file.resolve()
        return str(file.relative_to(output) if file.is_relative_to(output) else file)

    splits = find_splits(name, images)
    lists: dict[Path, bytes] = {}
    for split, classes in splits.items():
        content = {
            "label_names": list(classes),
            "image_names": [written(file) for files in classes.values() for file in files],
            "image_labels": [i for i, files in enumerate(classes.values()) for _ in files],
        }
        lists[output / f"{split}.json"] = json.dumps(content).encode()
    for path, data in lists.items():
        if path.exists() and path.read_bytes() != data:
            raise UserError(f"{path} is there with other content: delete {output}'s lists first")
    for path, data in lists.items():
        write_atomic(path, data)
    for split, classes in splits.items():
        sizes = [len(files) for files in classes.values()]
        print(f"{split}: {len(sizes)} classes of {min(sizes)} to {max(sizes)} images, {sum(sizes)}")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(write_lists, prog="python -m cross_domain_fewshot.folders"))
