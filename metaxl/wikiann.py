"""WikiAnn (PAN-X): entities in Wikipedia by its links (Pan et al., ACL 2017; splits by Rahimi et
al., ACL 2019). Original files in a folder, else the Hugging Face hub's copy."""

from common.errors import UserError
from metaxl import hub
from metaxl.sentences import SPLITS, Corpus, Sentence, label_list

TYPES = ("PER", "ORG", "LOC")
LANGUAGES = ("en", "qu", "cdo", "ilo", "xmf", "mhr", "mi", "tk", "gn")
"""Those of the paper; all 176 languages of the data set can be loaded."""

HUB = "unimelb-nlp/wikiann"
HOW_TO_GET = (
    "fetch the original files (linked from the page of the data set unimelb-nlp/wikiann on the "
    "Hugging Face hub), unpack them to LANGUAGE/train, dev and test, and name the folder above "
    "with --data-dir or EVOGRAD_DATA"
)
# As the hub's copy numbers its tags and names its splits.
_LABELS = label_list(TYPES)
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def load_from_hub(language: str) -> Corpus:
    """The corpus from the hub, or from its cache on this machine.

    UserError if a package is missing, or the hub or the language cannot be reached.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"WikiAnn of the language {language} is in no folder (--data-dir, EVOGRAD_DATA), and "
            "reading the hub's copy needs the package pyarrow: install that with pip, or "
            f"{HOW_TO_GET}."
        ) from None
    corpus = {}
    for split in SPLITS:
        file = f"{language}/{_HUB_SPLITS[split]}-00000-of-00001.parquet"
        try:
            path = hub.fetch(HUB, file, "dataset")
        except hub.Unreachable as reason:
            raise UserError(
                f"WikiAnn of the language {language} is in no folder (--data-dir, EVOGRAD_DATA) "
                f"and is not available from the Hugging Face hub ({reason}): {HOW_TO_GET}."
            ) from None
        columns = parquet.read_table(path, columns=["tokens", "ner_tags"]).to_pydict()
        rows = zip(columns["tokens"], columns["ner_tags"], strict=True)
        corpus[split] = [Sentence(tuple(t), tuple(_LABELS[n] for n in tags)) for t, tags in rows]
    return corpus
