"""Single files of the Hugging Face hub, kept in its own cache; errors in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import LocalEntryNotFoundError

from common.errors import UserError

ADVICE = (
    "download XLM-R once with `hf download FacebookAI/xlm-roberta-base --local-dir FOLDER` and "
    "give --encoder FOLDER, or take --encoder small"
)
SECONDS = 5  # until the hub must have answered


class Unreachable(Exception):
    """The hub, the repository or the file is not available; the message is a short reason."""


def fetch(repository: str, file: str, kind: str = "model") -> Path:
    """The path of a repository's file, which is downloaded if it is not in the cache.

    kind: "model" or "dataset". Raises Unreachable.
    """
    try:
        try:
            found = hf_hub_download(repository, file, repo_type=kind, local_files_only=True)
        except LocalEntryNotFoundError:
            # Without this request the download would wait for an unreachable hub for a minute.
            get_hf_file_metadata(hf_hub_url(repository, file, repo_type=kind), timeout=SECONDS)
            found = hf_hub_download(repository, file, repo_type=kind)
        return Path(found)
    except Exception as error:  # of the hub's library, and of the network libraries it uses
        reason = " ".join(str(error).split())
        raise Unreachable(f"{file} of {repository}: {reason[:160]}") from None


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turns whatever goes wrong in the block into UserError: a folder can contain anything, which
    several libraries say in their own words."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise UserError(f"{what} cannot be loaded ({reason}): {ADVICE}") from None
