"""Writes base.json, val.json and novel.json of a photograph domain from its unpacked original:

    python -m cross_domain_fewshot.filelists --domain cub --images CUB_200_2011 --output DATA/cub

The classes of miniImageNet's splits are given. The other domains' classes are numbered from 0: base
if i % 2 = 0, val if i % 4 = 1, novel if i % 4 = 3 (the rule of Chen et al. 2019 for CUB, of Tseng
et al. 2020 for all four). The number of a class:

    cub, places   in alphabetical order; places: only the first 200 files of a class
    cars          in the order of the development kit's index; only images of cars_train
    plantae       the 200 classes with the most images, smallest first, ties by name; at most 600
                  images of a class, chosen by a shuffle with seed 0

The numbers of classes and images are checked before anything is written.
"""

import argparse
import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path

from common.command import run_command
from common.errors import UserError
from common.files import write_atomic
from cross_domain_fewshot.folders import PHOTO_DOMAINS, SPLITS, PhotoDomain, split_by_number

SUFFIXES = {".jpg", ".jpeg", ".png"}
Classes = dict[str, list[Path]]
"""Files of images by class."""


def class_folders(folder: Path) -> Classes:
    """One class per folder, sorted by name."""
    return {
        place.name: sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES)
        for place in sorted(folder.iterdir())
        if place.is_dir() and not place.name.startswith(".")
    }


def cars_devkit(folder: Path) -> Classes:
    """Stanford Cars as it is distributed, its training images: numbered files, classes in MATLAB
    files, in the order of the index."""
    from scipy.io import loadmat

    names = loadmat(folder / "devkit/cars_meta.mat", squeeze_me=True)["class_names"]
    marks = loadmat(folder / "devkit/cars_train_annos.mat", squeeze_me=True)["annotations"]
    classes: Classes = {str(name).replace("/", "-"): [] for name in names}
    ordered = list(classes)
    for number, file in zip(marks["class"], marks["fname"], strict=True):
        classes[ordered[int(number) - 1]].append(folder / "cars_train" / str(file))
    return {name: sorted(files) for name, files in classes.items()}


def largest_species(classes: Classes, count: int) -> Classes:
    """The ``count`` classes with the most images, smallest first, ties by name; the files are
    shuffled as after ``random.seed(0)``, for all classes in alphabetical order."""
    shuffler = random.Random(0)
    for name in sorted(classes):
        shuffler.shuffle(classes[name])
    ascending = sorted(classes, key=lambda name: (len(classes[name]), name))
    return {name: classes[name] for name in ascending[-count:]}


def mini_imagenet(folder: Path) -> dict[str, Classes]:
    """The given splits, as folders or as lists in CSV files beside the folder ``images``."""
    splits = {}
    for split, other in zip(SPLITS, ("train", "val", "test"), strict=True):
        table = folder / f"{other}.csv"
        places = [folder / name for name in (split, other) if (folder / name).is_dir()]
        if places:
            splits[split] = class_folders(places[0])
        elif table.is_file():
            classes: Classes = {}
            with table.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    classes.setdefault(row["label"], []).append(folder / "images" / row["filename"])
            splits[split] = {name: sorted(classes[name]) for name in sorted(classes)}
        else:
            raise UserError(
                f"{folder} lacks {split} of miniImageNet: it should hold "
                f"{PHOTO_DOMAINS['miniImagenet'].layout}; get it from "
                f"{PHOTO_DOMAINS['miniImagenet'].page}"
            )
    return splits


def find_splits(name: str, folder: Path) -> dict[str, Classes]:
    """The classes of each split in an unpacked original. Raises UserError if it is not one."""
    domain = PHOTO_DOMAINS[name]
    if not folder.is_dir():
        raise UserError(
            f"--images {folder} is not a folder: get {domain.title} from {domain.page} and unpack "
            f"it; needed is {domain.layout}"
        )
    try:
        if name == "miniImagenet":
            return mini_imagenet(folder)
        if name == "cars":
            return _divided(cars_devkit(folder))
        inner = {"cub": "images", "places": "train", "plantae": "Plantae"}[name]
        classes = class_folders(folder / inner if (folder / inner).is_dir() else folder)
    except UserError:
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        raise UserError(
            f"{folder} cannot be read as {domain.title} ({' '.join(str(error).split())}): needed "
            f"is {domain.layout}"
        ) from None
    if name == "plantae":
        classes = largest_species(classes, sum(domain.classes))
    return _divided(classes)


def _divided(classes: Classes) -> dict[str, Classes]:
    """The rule above, for classes in the order of their numbers."""
    splits = split_by_number(list(classes)).items()
    return {split: {name: classes[name] for name in names} for split, names in splits}


def check(domain: PhotoDomain, splits: Mapping[str, Classes]) -> None:
    """Raises UserError if the number of classes, or of images in a class, is wrong, or an image is
    missing."""
    for split, wanted in zip(SPLITS, domain.classes, strict=True):
        if len(splits[split]) != wanted:
            raise UserError(
                f"{domain.title} has {len(splits[split])} classes for {split} where {wanted} are "
                f"expected: is the original complete, and unpacked as {domain.layout}?"
            )
        least, most = domain.images
        for name, files in splits[split].items():
            if not least <= len(files) <= most:
                wanted_images = f"{least} to {most}" if least < most else f"{least}"
                raise UserError(
                    f"class {name} of {domain.title} has {len(files)} images where "
                    f"{wanted_images} are expected: unpack the original again, from {domain.page}"
                )
            if missing := [file for file in files if not file.is_file()]:
                raise UserError(f"{missing[0]}, listed by {domain.title}, is not there")
    found = sum(len(files) for classes in splits.values() for files in classes.values())
    if found != (domain.total or found):
        raise UserError(
            f"{domain.title} has {found} images where {domain.total} are expected: unpack the "
            f"original again, from {domain.page}"
        )


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cross_domain_fewshot.filelists",
        description="Writes the class lists of a photograph domain.",
    )
    parser.add_argument("--domain", required=True, metavar="|".join(PHOTO_DOMAINS))
    parser.add_argument("--images", type=Path, required=True, help="the unpacked original")
    parser.add_argument("--output", type=Path, required=True, help="folder for the three lists")
    options = parser.parse_args()
    if options.domain not in PHOTO_DOMAINS:
        raise UserError(f"--domain {options.domain} is unknown: use {', '.join(PHOTO_DOMAINS)}")
    splits = find_splits(options.domain, options.images)
    domain = PHOTO_DOMAINS[options.domain]
    check(domain, splits)
    for split, all_images in splits.items():
        classes = {name: files[: domain.taken] for name, files in all_images.items()}
        write_atomic(options.output / f"{split}.json", file_list(classes, options.output))
        sizes = [len(files) for files in classes.values()]
        print(
            f"{split}: {len(sizes)} classes, {sum(sizes)} images, "
            f"{min(sizes)} to {max(sizes)} per class"
        )


if __name__ == "__main__":
    run_command(main)
