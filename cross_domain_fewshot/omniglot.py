"""Omniglot as an optional further domain: 174 characters of seven alphabets, 20 drawings each.

From the two small background sets (Lake, Salakhutdinov and Tenenbaum, 2015), which share two
alphabets. Latin and Sanskrit are left out: their letters are classes of other domains.
"""

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets.dataset import CanonicalFile, Dataset, obtain
from common.datasets.sources import Damaged, Download, Official, Piece, Pieces, Unavailable
from common.torchvision_import import torchvision
from cross_domain_fewshot.embedded import SIDE, SPLITS, EmbeddedDomain, checksum
from cross_domain_fewshot.folders import split_by_number

_URL = torchvision.datasets.Omniglot.download_url_prefix
_FILES = {
    "images_background_small1.zip": (
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        "e704a628b5459e08445c13499850abc4",
    ),
    "images_background_small2.zip": (
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
        "b75a71a51d3b13f821f212756fe481fd",
    ),
}
"""SHA-256 and MD5 of the archives."""
LEFT_OUT = ("Latin", "Sanskrit")


def read_folder(folder: Path) -> Pieces:
    """The two archives, in ``folder`` or in ``folder``/omniglot."""
    for place in (folder, folder / "omniglot"):
        found = {name: place / name for name in _FILES if (place / name).is_file()}
        if len(found) == len(_FILES):
            return {name: Piece(path.read_bytes(), str(path)) for name, path in found.items()}
        if found:
            raise Damaged(f"{place} lacks {', '.join(set(_FILES) - set(found))}")
    raise Unavailable("no Omniglot archives in it")


OMNIGLOT = Dataset(
    name="omniglot",
    title="Omniglot",
    files=tuple(CanonicalFile(name, sha256) for name, (sha256, _) in _FILES.items()),
    read_folder=read_folder,
    sources=(
        Official(
            tuple(Download((f"{_URL}/{name}",), name, md5) for name, (_, md5) in _FILES.items()),
            read_folder,
            "2.9 MB",
        ),
    ),
    homepage="https://github.com/brendenlake/omniglot",
    licence="MIT (Brenden Lake)",
    expected_in_folder=" and ".join(_FILES),
    how_to_get="get them from https://github.com/brendenlake/omniglot, folder python",
)


@functools.cache
def load_omniglot(data_dir: Path | None) -> EmbeddedDomain:
    """Ink at 32 x 32, grey. Classes ALPHABET/CHARACTER in alphabetical order, divided by
    ``split_by_number``. Raises UserError if the data are not available."""
    files: dict[str, list[Image.Image]] = {}
    for content in obtain(OMNIGLOT, data_dir).files.values():
        seen: dict[str, list[Image.Image]] = {}
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in sorted(archive.namelist()):
                _, *parts = member.split("/")
                if member.endswith(".png") and len(parts) == 3 and parts[0] not in LEFT_OUT:
                    picture = Image.open(io.BytesIO(archive.read(member)))
                    seen.setdefault("/".join(parts[:2]), []).append(picture)
        files |= seen
    classes = {split: tuple(names) for split, names in split_by_number(sorted(files)).items()}
    images = [[_ink(p) for p in files[name]] for split in SPLITS for name in classes[split]]
    array = np.array(images)[..., None]
    return EmbeddedDomain("omniglot", array, classes, checksum(array))


def _ink(picture: Image.Image) -> np.ndarray:
    """uint8 (32, 32): black lines on white become light lines on black."""
    small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return 255 - np.asarray(small)
