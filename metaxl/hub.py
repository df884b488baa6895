"""Single files of the Hugging Face hub, which are kept in its own cache."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError

ADVICE = (
    "download XLM-R once with `hf download FacebookAI/xlm-roberta-base --local-dir FOLDER` and "
    "give --encoder FOLDER, or take --encoder small"
)
SECONDS = 5  # how long the hub may take to answer at all


class Unreachable(Exception):
    """The hub, the repository or the file cannot be had; the message is a short reason."""


def fetch(repository: str, file: str, kind: str = "model") -> Path:
    """Where a file of a repository lies, fetched if it is not in the cache.

    kind: "model" or "dataset". Raises Unreachable.
    """
    try:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repository, file, repo_type=kind, local_files_only=True
                )
            )
        except LocalEntryNotFoundError:
            # Without this question the download asks an unreachable hub for most of a minute.
            url = huggingface_hub.hf_hub_url(repository, file, repo_type=kind)
            huggingface_hub.get_hf_file_metadata(url, timeout=SECONDS)
            return Path(huggingface_hub.hf_hub_download(repository, file, repo_type=kind))
    except Exception as error:  # of the hub's library and whatever it reaches the network with
        reason = " ".join(str(error).split())
        raise Unreachable(f"{file} of {repository}: {reason[:160]}") from None
