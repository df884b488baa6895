"""The official CIFAR archives: pickles in a tar file, every byte checked before it is opened."""

from dataclasses import dataclass
from pathlib import Path

from common.datasets.sources import Damaged, Piece, Pieces, Unavailable, read_members
from common.files import digest, file_digest


@dataclass(frozen=True)
class PickleArchive:
    """An official archive: its name, MD5, the folder in it, and the MD5 of each wanted member."""

    filename: str
    md5: str
    folder: str
    members: dict[str, str]


def read_archive(folder: Path, archive: PickleArchive, subfolder: str) -> Pieces:
    """The members of an official archive, extracted or packed, each checked against its MD5.

    Looks in ``folder`` and its ``subfolder`` for the extracted folder, the bare members and the
    archive. Raises Unavailable if there is nothing, Damaged if it is incomplete or altered.
    """
    incomplete = None
    for root in (folder, folder / subfolder):
        extracted = root / archive.folder
        for place in (extracted, root):
            lacking = [name for name in archive.members if not (place / name).is_file()]
            if not lacking:
                return {
                    name: _checked((place / name).read_bytes(), md5, str(place / name))
                    for name, md5 in archive.members.items()
                }
            if place == extracted and len(lacking) < len(archive.members) and incomplete is None:
                incomplete = f"{place} lacks {', '.join(lacking)}"
        if (root / archive.filename).is_file():
            return _read_packed(root / archive.filename, archive)
    if incomplete:
        raise Damaged(incomplete)
    raise Unavailable(f"neither {archive.folder} nor {archive.filename} in it")


def _read_packed(path: Path, archive: PickleArchive) -> Pieces:
    found = file_digest(path, "md5")
    if found != archive.md5:
        raise Damaged(
            f"{path} ({path.stat().st_size} bytes) has MD5 {found} where {archive.md5} is expected"
        )
    members = {f"{archive.folder}/{name}": name for name in archive.members}
    return {
        members[inside]: _checked(data, archive.members[members[inside]], f"{path}:{inside}")
        for inside, data in read_members(path, members).items()
    }


def _checked(data: bytes, md5: str, origin: str) -> Piece:
    found = digest(data, "md5")
    if found != md5:
        raise Damaged(f"{origin} ({len(data)} bytes) has MD5 {found} where {md5} is expected")
    return Piece(data, origin)
