"""The five photograph domains of the paper: folders of images with lists of their classes.

A domain is in DATA_DIR/NAME: base.json, val.json and novel.json, each {"label_names": [...],
"image_names": [...], "image_labels": [...]}, the format of Chen et al. (2019) and Tseng et al.
(2020). Existing lists are used whatever classes and images they name; ``python -m
cross_domain_fewshot.filelists`` writes new ones. Image names are absolute or relative to the list's
folder; label_names may include classes without images.
"""

import functools
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import file_digest

SPLITS = ("base", "val", "novel")


Classes = dict[str, tuple[str, ...]]
"""Image files by class."""


@dataclass(frozen=True)
class PhotoDomain:
    """layout: the unpacked original, as the command that writes the lists needs it. classes: their
    number in base, val and novel. images: the smallest and the largest number of images of a class
    in the original. total: images of all these classes, None if unknown. taken: the number used of
    each class, None for all.
    """

    title: str
    page: str
    layout: str
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
        (64, 16, 20),
        (600, 600),
        total=60_000,
    ),
    "cub": PhotoDomain(
        "CUB-200-2011",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "CUB_200_2011, or its folder images with one folder per class",
        (100, 50, 50),
        (41, 60),
        total=11_788,
    ),
    "cars": PhotoDomain(
        "Stanford Cars",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "cars_train and devkit side by side, in devkit cars_train_annos.mat and cars_meta.mat",
        (98, 49, 49),
        (24, 68),
        total=8_144,
    ),
    "places": PhotoDomain(
        "Places365-Standard",
        "http://places2.csail.mit.edu/download.html (easy directory structure)",
        "places365_standard, or its folder train with one folder per class",
        (183, 91, 91),
        (3_068, 5_000),
        taken=200,
    ),
    "plantae": PhotoDomain(
        "Plantae of iNaturalist 2018",
        "https://github.com/visipedia/inat_comp/tree/master/2018",
        "train_val2018/Plantae with one folder per species, of which the 200 with the most images "
        "are used",
        (100, 50, 50),
        (21, 1_000),
        taken=600,
    ),
}


def split_by_number(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Class number i from 0: base if i % 2 = 0, val if i % 4 = 1, novel if i % 4 = 3."""
    return {"base": names[0::2], "val": names[1::4], "novel": names[3::4]}


def find_data_dir(data_dir: Path | None) -> Path:
    """``data_dir``, else EVOGRAD_DATA. Raises UserError if neither is set."""
    chosen = data_dir or os.environ.get("EVOGRAD_DATA")
    if not chosen:
        raise UserError(
            "the paper's photographs are needed: name the folder that holds "
            f"{', '.join(PHOTO_DOMAINS)} with --data-dir or EVOGRAD_DATA"
        )
    return Path(chosen).expanduser()


def require(data_dir: Path, names: Sequence[str]) -> None:
    """Raises a UserError that names each domain without lists and its source."""
    missing = [
        name for name in names if any(not (data_dir / name / f"{s}.json").is_file() for s in SPLITS)
    ]
    if missing:
        pages = "; ".join(f"{name} from {PHOTO_DOMAINS[name].page}" for name in missing)
        raise UserError(
            f"base.json, val.json and novel.json of {', '.join(missing)} are not all in {data_dir}"
            f"/NAME: get the images ({pages}) and write the lists with python -m "
            "cross_domain_fewshot.filelists --domain NAME --images IMAGES "
            f"--output {data_dir}/NAME"
        )


@functools.cache
def read_lists(folder: Path) -> dict[str, Classes]:
    """The three lists of a domain. Raises UserError if a list is damaged or a class is in two
    splits."""
    lists = {split: _read_list(folder / f"{split}.json") for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        if both := lists[one].keys() & lists[other].keys():
            raise UserError(f"class {min(both)} of {folder} is in both {one} and {other}.json")
    return lists


def _read_list(path: Path) -> Classes:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [str(name) for name in content["label_names"]]
        files, labels = content["image_names"], content["image_labels"]
        classes: dict[int, list[str]] = {}
        for file, label in zip(files, labels, strict=True):
            if not 0 <= label < len(names):
                raise ValueError(f"label {label} of {file} has no name")
            classes.setdefault(label, []).append(str(path.parent / file))
        if len(set(names)) != len(names):
            raise ValueError("a label name occurs twice")
        if len(set(files)) != len(files):
            raise ValueError("an image occurs twice")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a list of classes and images ({reason})") from None
    return {names[label]: tuple(classes[label]) for label in sorted(classes)}


def list_checksums(data_dir: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every list; images are not read. Raises UserError if a list is missing."""
    require(data_dir, names)
    return {
        f"{name} {split}.json": file_digest(data_dir / name / f"{split}.json")
        for name in names
        for split in SPLITS
    }
