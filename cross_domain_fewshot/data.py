"""The domains of both benchmarks.

"embedded": five small domains that ship with the project, 32 x 32 pixels; Omniglot can be opened as
a sixth. "paper": five domains of photographs, in a folder of the user's.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from cross_domain_fewshot import embedded
from cross_domain_fewshot.folders import SPLITS, find_data_dir, list_checksums, read_lists, require
from cross_domain_fewshot.images import DomainSplit, FileImages, TensorImages
from cross_domain_fewshot.omniglot import load_omniglot

DOMAINS = {
    "embedded": ("sketches", "icons", "emoji", "latin", "devanagari"),
    "paper": ("miniImagenet", "cub", "cars", "places", "plantae"),
}
OPTIONAL_DOMAINS = {"embedded": ("omniglot",), "paper": ()}
BASE_DOMAIN = {"embedded": "sketches", "paper": "miniImagenet"}
"""The domain of pre-training, of the auxiliary loss and of validation."""
LETTERS = {"latin", "devanagari", "omniglot"}
"""Never mirrored: the mirror image of a letter is a different letter, or none."""


def open_domain(
    benchmark: str,
    name: str,
    split: str,
    image_size: int,
    data_dir: Path | None,
    device: torch.device,
    workers: int = 0,
) -> DomainSplit:
    """One split ("base", "val", "novel") of one domain, its images as S = ``image_size`` squares.

    data_dir: the folder of the photographs (or Omniglot). workers: threads that read photographs
    ahead, 0 for none. Raises UserError if the data are missing or damaged.
    """
    known = DOMAINS[benchmark] + OPTIONAL_DOMAINS[benchmark]
    if name not in known:
        raise UserError(f"{benchmark} has no domain {name}: use {', '.join(known)}")
    if split not in SPLITS:
        raise UserError(f"there is no split {split}: use {', '.join(SPLITS)}")
    device = torch.device(device)
    if benchmark == "paper":
        folder = find_data_dir(data_dir)
        require(folder, [name])
        classes = read_lists(folder / name)[split]
        files = [file for of_class in classes.values() for file in of_class]
        return DomainSplit(
            name=name,
            split=split,
            class_names=tuple(classes),
            class_sizes=tuple(map(len, classes.values())),
            images=FileImages(files, image_size, device, workers),
            mirrored=True,
        )
    domain = load_omniglot(data_dir) if name == "omniglot" else embedded.load(name)
    pixels = domain.split(split)
    return DomainSplit(
        name=name,
        split=split,
        class_names=domain.classes[split],
        class_sizes=(pixels.shape[1],) * pixels.shape[0],
        images=TensorImages(pixels.reshape(-1, *pixels.shape[2:]), image_size, device),
        mirrored=name not in LETTERS,
    )


def data_checksums(
    benchmark: str, data_dir: Path | None, domains: Sequence[str] | None = None
) -> dict[str, str]:
    """SHA-256 by name, for the run record: of the embedded domains' pixels, or of the photograph
    domains' lists. domains: default the benchmark's five."""
    names = domains or DOMAINS[benchmark]
    if benchmark == "paper":
        return list_checksums(find_data_dir(data_dir), names)
    loaded = [load_omniglot(data_dir) if n == "omniglot" else embedded.load(n) for n in names]
    return {domain.name: domain.checksum for domain in loaded}
