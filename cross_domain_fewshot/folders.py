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

The numbers of the paper's classes and images are checked before anything is written.
"""

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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


@dataclass(frozen=True)
class PhotoDomain:
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
    chosen = data_dir or os.environ.get("EVOGRAD_DATA")
    if not chosen:
        raise UserError(
            "photographs are needed: name the folder that holds a folder for each domain with "
            "--data-dir or EVOGRAD_DATA"
        )
    return Path(chosen).expanduser()


def read_lists(data_dir: Path | None, name: str) -> tuple[Path, dict[str, Classes]]:
    """A domain's folder and the classes of its splits.

    Raises UserError if a list is missing or damaged, or a class is in two splits.
    """
    folder = find_data_dir(data_dir) / name
    if any(not (folder / f"{split}.json").is_file() for split in SPLITS):
        known = PHOTO_DOMAINS.get(name)
        source = f"get {known.title} from {known.page} and " if known else ""
        raise UserError(
            f"{folder} lacks base.json, val.json or novel.json: {source}write them with python -m "
            f"cross_domain_fewshot.folders --name {name} --images IMAGES --data-dir {folder.parent}"
        )
    lists = {split: _read_list(folder / f"{split}.json") for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        if both := lists[one].keys() & lists[other].keys():
            raise UserError(f"class {min(both)} of {folder} is in both {one} and {other}.json")
    return folder, lists


def _read_list(path: Path) -> Classes:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = [str(name) for name in content["label_names"]]
        files = content["image_names"]
        classes: dict[int, list[Path]] = {}
        for file, label in zip(files, content["image_labels"], strict=True):
            number = int(label)  # some lists have 3.0 for 3
            if number != label or not 0 <= number < len(names):
                raise ValueError(f"label {label} of {file} has no name")
            classes.setdefault(number, []).append(path.parent / file)
        if len(set(names)) != len(names):
            raise ValueError("a label name occurs twice")
        if len(set(files)) != len(files):
            raise ValueError("an image occurs twice")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a list of classes and images ({reason})") from None
    return {names[number]: classes[number] for number in sorted(classes)}


@contextlib.contextmanager
def _image_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as an image ({reason}): replace it") from None


def open_image(path: Path) -> Image.Image:
    """RGB with 8 bits a channel. Raises UserError if the file is missing or damaged.

    Values of 16 bits are scaled from 0 ... 65535; those of 32 bits (integers, floats) from 0 to the
    smallest of 1 (floats only), 255, 65535 and 2^32 - 1 that none exceeds.
    """
    with _image_named(path), Image.open(path) as image:
        if image.mode[0] in "IF":
            values = np.asarray(image, np.float64)
            tops = {"F": (1, 255, 65_535), "I": (255, 65_535)}.get(image.mode, (65_535,))
            top = next((top for top in tops if values.max() <= top), 2**32 - 1)
            scaled = (values.clip(0, top) * (255 / top)).round().astype(np.uint8)
            return Image.fromarray(scaled).convert("RGB")
        return image.convert("RGB")


def checked_images(folder: Path, classes: Mapping[str, Sequence[Path]], threads: int = 1) -> str:
    """SHA-256 over the names of some classes of a domain and the bytes of their images.

    Every image is decoded once, and again when its file has changed: ``checked.json`` in the
    domain's folder keeps the size, the time and the checksum of those that could be read. Raises
    UserError with the first image that cannot be read.
    """
    kept = folder / "checked.json"
    try:
        known = dict(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        known = {}

    def check(file: Path) -> list[int | str]:
        with _image_named(file):
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            if known.get(str(file), [])[:2] == stamp:
                return known[str(file)]
        open_image(file)
        return [*stamp, file_digest(file)]

    files = [file for of_class in classes.values() for file in of_class]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        checks = pool.map(check, files)
        bar = tqdm(checks, f"checking {folder.name}", len(files), leave=False, delay=2)
        found = {str(file): result for file, result in zip(files, bar, strict=True)}
    if any(known.get(file) != result for file, result in found.items()):
        with contextlib.suppress(OSError):  # in a folder that is read only they are read each time
            write_atomic(kept, json.dumps(known | found))
    total = hashlib.sha256()
    for name, of_class in classes.items():
        total.update(repr((name, [found[str(file)][2] for file in of_class])).encode())
    return total.hexdigest()


# Writing: lists from an unpacked original.


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and clutter."""
    names = (p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in CLUTTER)
    return sorted(p for p in names if p.is_dir())


def _images(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    return sorted(p for p in files if not p.name.startswith("."))


def _located(folder: Path, inner: str) -> Path:
    """The folder of class folders (of images for Cars): ``inner``, here or one level deeper, else
    this one; of a folder that holds nothing but another one, that."""
    if inner:
        places = (place / inner for place in (folder, *_folders(folder)))
        folder = next(filter(Path.is_dir, places), folder)
    while len(only := _folders(folder)) == 1 and not _images(folder):
        folder = only[0]
    return folder


def class_folders(folder: Path) -> Classes:
    """One class per folder, sorted by name."""
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
            folders = [place / name for name in (split, other) if (place / name).is_dir()]
            if folders:
                splits[split] = class_folders(_located(folders[0], ""))
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
    images = _located(folder, "cars_train")
    classes: Classes = {str(name).replace("/", "-"): [] for name in names}
    ordered = list(classes)
    for number, file in zip(marks["class"], marks["fname"], strict=True):
        classes[ordered[int(number) - 1]].append(images / str(file))
    return {name: sorted(files) for name, files in classes.items()}


def largest_species(classes: Classes, count: int) -> Classes:
    """The ``count`` classes with the most images, smallest first, ties by name; the files are
    shuffled as after ``random.seed(0)``, for all classes in alphabetical order."""
    shuffler = random.Random(0)
    for name in sorted(classes):
        shuffler.shuffle(classes[name])
    ascending = sorted(classes, key=lambda name: (len(classes[name]), name))
    return {name: classes[name] for name in ascending[-count:]}


def find_splits(name: str, folder: Path) -> dict[str, Classes]:
    """The classes of each split in an unpacked original. Raises UserError if it is not one."""
    domain = PHOTO_DOMAINS.get(name)
    title, source, layout = name, "", "one folder per class, or base, val and novel with these"
    if domain:
        title, source, layout = domain.title, f", from {domain.page}", domain.layout
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder: needed is {layout}{source}")
    try:
        if name == "cars":
            return split_by_number(cars_devkit(folder))
        if domain is None or not domain.inner:
            if splits := given_splits(folder):
                return splits
            if domain:
                raise ValueError("the three splits are not there")
        classes = class_folders(_located(folder, domain.inner if domain else ""))
    except Exception as error:  # damaged files raise errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{folder} cannot be read as {title} ({reason}): needed is {layout}{source}"
        ) from None
    if name == "plantae" and domain:
        classes = largest_species(classes, sum(domain.classes))
    if domain is None:
        classes = {name: files for name, files in classes.items() if files}
        if len(classes) < LEAST_CLASSES:
            raise UserError(
                f"{folder} has {len(classes)} folders of images where at least {LEAST_CLASSES} "
                "are needed: name a folder that holds one folder per class"
            )
    return split_by_number(classes)


def check_counts(domain: PhotoDomain, splits: Mapping[str, Classes]) -> None:
    """Raises UserError if the number of classes, or of images in a class, is wrong, or an image is
    missing."""

    def expect(what: str, found: int, least: int, most: int) -> None:
        if not least <= found <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise UserError(
                f"{what} where {wanted} are expected: unpack the original again, as "
                f"{domain.layout}, from {domain.page}"
            )

    for split, wanted in zip(SPLITS, domain.classes, strict=True):
        found = len(splits[split])
        expect(f"{domain.title} has {found} classes for {split}", found, wanted, wanted)
        for name, files in splits[split].items():
            what = f"class {name} of {domain.title} has {len(files)} images"
            expect(what, len(files), *domain.images)
            if missing := [file for file in files if not file.is_file()]:
                raise UserError(f"{missing[0]}, listed by {domain.title}, is not there")
    if domain.total:
        total = sum(len(files) for classes in splits.values() for files in classes.values())
        expect(f"{domain.title} has {total} images", total, domain.total, domain.total)


def file_list(classes: Classes, output: Path) -> bytes:
    """One list; paths relative to its folder where the images lie below it, else absolute."""

    def written(file: Path) -> str:
        file = file.resolve()
        inside = file.is_relative_to(output.resolve())
        return str(file.relative_to(output.resolve()) if inside else file)

    content = {
        "label_names": list(classes),
        "image_names": [written(file) for files in classes.values() for file in files],
        "image_labels": [i for i, files in enumerate(classes.values()) for _ in files],
    }
    return json.dumps(content).encode()


def write_lists(name: str, images: Path, data_dir: Path | None = None) -> None:
    """Writes the class lists of a domain of photographs into DATA_DIR/NAME.

    name: one of the paper's (miniImagenet, cub, cars, places, plantae), or any other for your own.
    images: the unpacked original; your own: a folder of class folders. data_dir: default the
    environment variable EVOGRAD_DATA.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UserError(f"--name {name} must consist of letters, digits and underscores")
    output = find_data_dir(data_dir) / name
    splits = find_splits(name, images)
    taken = None
    if domain := PHOTO_DOMAINS.get(name):
        check_counts(domain, splits)
        taken = domain.taken
    splits = {s: {n: files[:taken] for n, files in own.items()} for s, own in splits.items()}
    lists = {output / f"{split}.json": file_list(own, output) for split, own in splits.items()}
    for path, content in lists.items():
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"{path} is there with other content: delete {output}'s lists first")
    for path, content in lists.items():
        write_atomic(path, content)
    for split, own in splits.items():
        sizes = [len(files) for files in own.values()]
        print(f"{split}: {len(sizes)} classes of {min(sizes)} to {max(sizes)} images, {sum(sizes)}")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(write_lists, prog="python -m cross_domain_fewshot.folders"))
