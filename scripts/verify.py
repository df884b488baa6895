"""Checks what this project publishes: records, tables, figures, documents, data.

    python -m scripts.verify                  all parts
    python -m scripts.verify records data     only these

Every table and figure of results/ and every table in the documents is made again from the records
and compared. One line per part says what is right, or names what is not; then the exit status is 1.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

from common.command import Parser, run_command
from common.cost_study.records import Measurement
from common.datasets.__main__ import LOADERS
from common.datasets.fetch import Damaged, cached
from common.errors import UserError
from common.experiment import load_experiment
from common.fidelity_study.records import FidelityRecord
from common.reporting import RunRecord
from common.reporting.records import Record, load
from cross_domain_fewshot import embedded
from cross_domain_fewshot.noise_study import NoiseRecord
from metaxl.embedded import LANGUAGES, load_embedded
from scripts import publish
from scripts.peer_tables import PeerRecord

_MODELS = (RunRecord, Measurement, FidelityRecord, NoiseRecord, PeerRecord)
KINDS: dict[str, type[Record]] = {model.KIND: model for model in _MODELS}


class Wrong(Exception):
    """A part that is not right; one argument per thing that is wrong."""


def records() -> str:
    """Each record is whole, consistent, and has settings that its experiment accepts."""
    found: Counter[str] = Counter()
    wrong = []
    for path in sorted(publish.RESULTS.rglob("*.json")):
        try:
            kind = json.loads(path.read_text(encoding="utf-8")).get("kind")
            record = load(path, KINDS[kind])
            if isinstance(record, RunRecord):
                load_experiment(record.experiment).settings_of(record)
            found[kind] += 1
        except (ValueError, AttributeError, KeyError, TypeError, OSError) as error:
            wrong.append(f"{path} is not a record ({error})")
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise Wrong(*wrong)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def tables() -> str:
    """Tables, figures and documents say what the records say."""
    suffixes = (*publish.TABLES, *publish.FIGURES)
    wrong = publish.differences(suffixes)
    if wrong:
        raise Wrong(*wrong)
    counts = {s: len(list(publish.RESULTS.glob(f"*/*/*.{s}"))) for s in suffixes}
    files = ", ".join(f"{count} {suffix}" for suffix, count in counts.items())
    return f"{files}, {len(publish.documents())} documents"


def embedded_data() -> str:
    """The images and texts that come with the project are those that were put there."""
    domains = [embedded.load(name) for name in embedded.recipe()["domains"]]
    corpora = [load_embedded(language) for language in LANGUAGES]
    return f"{len(domains)} image domains, corpora of {len(corpora)} languages"


def data() -> str:
    """Data sets in the cache have their published checksums."""
    whole, absent = list[str](), list[str]()
    for dataset, _ in LOADERS.values():
        try:
            (whole if cached(dataset) else absent).append(dataset.title)
        except Damaged as reason:
            raise Wrong(f"{dataset.title}: {reason}; the next run fetches it again") from None
    return f"{', '.join(whole) or 'none'} (not here: {', '.join(absent) or 'none'})"


PARTS: dict[str, Callable[[], str]] = {
    "records": records,
    "tables": tables,
    "embedded": embedded_data,
    "data": data,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m scripts.verify", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args(argv).parts or list(PARTS)
    status = 0
    for name in chosen:
        if name not in PARTS:
            raise UserError(f"{name} is no part: use {', '.join(PARTS)}")
        try:
            print(f"right  {name}: {PARTS[name]()}", flush=True)
        except (Wrong, UserError) as error:
            status = 1
            print(f"WRONG  {name}: {'; '.join(map(str, error.args))}", flush=True)
    raise SystemExit(status)


if __name__ == "__main__":
    run_command(main)
