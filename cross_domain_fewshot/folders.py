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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import tyro
from PIL import Image
from tqdm import tqdm

from common.command import run_command
from common.datasets.fetch import user_folder
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
    classes: their number in base, val and novel. least: images of the smallest class. total: images
    of all these classes, None if unknown. taken: the number used of each class, None for all.
    """

    title: str
    page: str
    layout: str
    inner: str
    classes: tuple[int, int, int]
    least: int
    total: int | None = None
    taken: int | None = None


PHOTO_DOMAINS = {
    "miniImagenet": PhotoDomain(
        "miniImageNet",
        "https://image-net.org/download.php (ILSVRC 2012), class lists of Ravi and Larochelle "
        "at https://github.com/twitter-research/meta-learning-lstm",
        "folders base or train, val, novel or test, each with one folder per class; or a folder "
        "images beside train.csv, val.csv and test.csv (columns filename, label)",
        inner="", classes=(64, 16, 20), least=600, total=60_000,
    ),
    "cub": PhotoDomain(
        "CUB-200-2011",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "CUB_200_2011, or its folder images with one folder per class",
        inner="images", classes=(100, 50, 50), least=41, total=11_788,
    ),
    "cars": PhotoDomain(
        "Stanford Cars",
        "a mirror, as https://github.com/pytorch/vision/issues/7545 says (the original page is "
        "gone)",
        "cars_train and devkit side by side, in devkit cars_train_annos.mat and cars_meta.mat",
        inner="cars_train", classes=(98, 49, 49), least=24, total=8_144,
    ),
    "places": PhotoDomain(
        "Places365-Standard",
        "http://places2.csail.mit.edu/download.html (easy directory structure)",
        "places365_standard, or its folder train with one folder per class",
        inner="train", classes=(183, 91, 91), least=3_068, taken=200,
    ),
    "plantae": PhotoDomain(
        "Plantae of iNaturalist 2018",
        "https://github.com/visipedia/inat_comp/tree/master/2018",
        "train_val2018/Plantae with one folder per species, of which the 200 with the most images "
        "are used",
        inner="Plantae", classes=(100, 50, 50), least=21, taken=600,
    ),
}  # fmt: skip


# Reading: lists and images of a run.


def find_data_dir(data_dir: Path | None) -> Path:
    """``data_dir``, else EVOGRAD_DATA. Raises UserError if neither is set."""
    if chosen := data_dir or os.environ.get("EVOGRAD_DATA"):
        return user_folder("EVOGRAD_DATA" if data_dir is None else "--data-dir", chosen)
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


def checked_images(name: str, classes: Classes, threads: int = 1) -> str:
    """SHA-256 over the names of some classes of a domain and the bytes of their images.

    Every image is decoded once. Raises UserError with the first that cannot be read.
    """

    def check(file: Path) -> str:
        open_image(file)
        return file_digest(file)

    total, count = hashlib.sha256(), sum(map(len, classes.values()))
    with (
        ThreadPoolExecutor(max(1, threads)) as pool,
        tqdm(desc=f"checking {name}", total=count, leave=False, delay=2) as bar,
    ):
        for class_name, files in classes.items():
            total.update(repr((class_name, [*pool.map(check, files)])).encode())
            bar.update(len(files))
    return total.hexdigest()


# Writing: lists from an unpacked original.


def class_folders(folder: Path, inner: str = "") -> Classes:
    """One class per folder of images, sorted by name, at any depth, without hidden things and
    clutter. inner: if there are folders of this name, only the classes in these. Images beside
    folders of images are no class."""
    found: dict[Path, list[Path]] = {}
    for path, within, names in os.walk(folder, followlinks=True):
        within[:] = [name for name in within if name[0] != "." and name not in CLUTTER]
        files = [Path(path, name) for name in sorted(names) if name[0] != "."]
        found[Path(path)] = [file for file in files if file.suffix.lower() in SUFFIXES]
    places = [place for place, files in found.items() if files]
    places = [place for place in places if place.parent.name == inner] or places
    above = {outer for place in places for outer in place.parents}
    classes: Classes = {}
    for place in sorted(places, key=lambda place: place.name):
        if place not in above:
            classes.setdefault(place.name, []).extend(found[place])
    return classes


def given_splits(folder: Path) -> dict[str, Classes]:
    """Splits that are folders, or lists in CSV files beside the folder ``images``, in ``folder`` or
    one level deeper; none if there are not all three."""
    for place in (folder, *sorted(filter(Path.is_dir, folder.iterdir()))):
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
    return {}


def cars_devkit(folder: Path) -> Classes:
    """Stanford Cars as it is distributed, its training images: numbered files, classes in MATLAB
    files, in the order of the index."""
    from scipy.io import loadmat

    names, marks = (
        loadmat(next(folder.rglob(f"{file}.mat")), squeeze_me=True)[key]
        for file, key in (("cars_meta", "class_names"), ("cars_train_annos", "annotations"))
    )
    files = {file.name: file for file in folder.rglob("*.jpg") if "cars_train" in file.parts}
    classes: Classes = {str(name).replace("/", "-"): [] for name in names}
    ordered = list(classes.values())
    for number, file in sorted(zip(marks["class"], marks["fname"], strict=True)):
        ordered[int(number) - 1].append(files[str(file)])
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
        splits = given_splits(folder) if name == "miniImagenet" or domain is None else {}
        if not splits and name != "miniImagenet":
            inner = domain.inner if domain else ""
            classes = cars_devkit(folder) if name == "cars" else class_folders(folder, inner)
            if name == "plantae":
                classes = largest_species(classes, sum(PHOTO_DOMAINS[name].classes))
            elif domain is None and len(classes) < LEAST_CLASSES:
                raise ValueError(f"{len(classes)} folders of images, fewer than {LEAST_CLASSES}")
            names = list(classes)
            numbered = {"base": names[0::2], "val": names[1::4], "novel": names[3::4]}
            splits = {split: {n: classes[n] for n in own} for split, own in numbered.items()}
        if domain is None:
            return splits
        check_counts(domain, splits)
        return {s: {n: own[n][: domain.taken] for n in own} for s, own in splits.items()}
    except Exception as error:  # damaged files raise errors of many kinds
        layout = "one folder per class, or base, val and novel with these"
        needed = f"{domain.layout}, from {domain.page}" if domain else layout
        raise UserError(
            f"--images {folder} cannot be read as {domain.title if domain else name} "
            f"({_reason(error)}): needed is {needed}"
        ) from None


def check_counts(domain: PhotoDomain, splits: Mapping[str, Classes]) -> None:
    """Raises ValueError if the number of classes, or of images in a class, is wrong, or an image is
    missing."""
    counts = tuple(map(len, splits.values()))
    if counts != domain.classes:
        raise ValueError(f"base, val and novel have {counts} classes instead of {domain.classes}")
    classes = {name: files for own in splits.values() for name, files in own.items()}
    for name, files in classes.items():
        if len(files) < domain.least:
            raise ValueError(f"class {name} has {len(files)} images, fewer than {domain.least}")
        if missing := [file for file in files if not file.is_file()]:
            raise ValueError(f"{missing[0]} is not there")
    total = sum(map(len, classes.values()))
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

    lists: dict[Path, bytes] = {}
    for split, classes in find_splits(name, images).items():
        files = [written(file) for own in classes.values() for file in own]
        labels = [label for label, own in enumerate(classes.values()) for _ in own]
        content = {"label_names": [*classes], "image_names": files, "image_labels": labels}
        lists[output / f"{split}.json"] = json.dumps(content).encode()
        print(f"{split}: {len(classes)} classes, {len(files)} images")
    for path, data in lists.items():
        if path.exists() and path.read_bytes() != data:
            raise UserError(f"{path} is there with other content: delete {output}'s lists first")
    for path, data in lists.items():
        write_atomic(path, data)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(write_lists, prog="python -m cross_domain_fewshot.folders"))
