"""Fidelity records: whole and consistent, or refused in one sentence."""

import json
import math

import pytest

from common.errors import UserError
from common.fidelity_study.records import read_fidelity
from common.settings import ROOT

RECORDS = ROOT / "results" / "fidelity" / "quick" / "records"
WHOLE = json.loads((RECORDS / "rotation-stage-end.json").read_text())

# Dotted path of a field -> the values put there; "-" takes the field away.
MUTATIONS = {
    "inner_lr": [0, "0.1", "-"],
    "exact_norm": [math.nan],
    "rows": [[]],
    "rows.0.cosine": [1.5, None],
    "rows.0.sign_agreement": [-0.1],
    "rows.0.draws": [1.5],
    "predictions.2": [{}],
    "precision.0.precision": ["float16"],
    "unknown": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in MUTATIONS.items() for v in values]
)
def test_a_changed_record_is_refused(tmp_path, field, value):
    document = json.loads(json.dumps(WHOLE))
    del document["sha256"]  # its consistency alone gives it away
    *parents, last = [int(part) if part.isdigit() and part != "2" else part
                      for part in field.split(".")]  # fmt: skip
    inside = document
    for part in parents:
        inside = inside[part]
    if value == "-":
        del inside[last]
    else:
        inside[last] = value
    (tmp_path / "changed.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"changed\.json") as caught:
        read_fidelity(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_come_in_the_order_of_training_then_of_size():
    names = [r.name for r in read_fidelity(RECORDS) if r.experiment == "metaweightnet"]
    assert names == [f"metaweightnet-{x}" for x in (
        "stage-start", "stage-middle", "stage-end", "meta_hidden-10", "meta_hidden-1000",
        "width-1", "width-2", "width-4",
    )]  # fmt: skip
