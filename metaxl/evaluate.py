"""Entity-level scores, and what the transformation network does to representations."""

import torch
from seqeval.metrics import classification_report
from torch import Tensor

from metaxl.data import Batch, Split
from metaxl.models import Tagger, Transformation
from metaxl.tokens import IGNORED, decode_tags

_BATCH_SIZE = 64
_POINTS = 150


@torch.no_grad()
def entity_scores(
    tagger: Tagger,
    split: Split,
    labels: tuple[str, ...],
    transformation: Transformation | None = None,
) -> dict[str, float]:
    """Entity-level F1 in percent by seqeval (conlleval's reading of IOB2): "f1" over all entities,
    "f1_TYPE" of each type that occurs. Dropout is off.

    transformation: for source sentences of the methods that train with it.
    """
    tagger.eval()
    true: list[list[str]] = []
    predicted: list[list[str]] = []
    for index in split.lengths.argsort(stable=True).split(_BATCH_SIZE):  # short ones together
        batch = split.batch(index)
        guesses = tagger(_states(tagger, batch, transformation)).argmax(2)
        tags = decode_tags(batch.labels.cpu(), guesses.cpu(), labels)
        true, predicted = true + tags[0], predicted + tags[1]
    return f1_by_type(true, predicted)


def _states(tagger: Tagger, batch: Batch, transformation: Transformation | None) -> Tensor:
    """Last hidden states (N, L, H), transformed at the layer of greatest weight if asked for."""
    subwords = batch.input_ids, batch.attention_mask
    if transformation is None:
        return tagger.encoder(*subwords)
    layer = transformation.heaviest
    below = tagger.encoder(*subwords, stop=layer)
    return tagger.encoder(*subwords, transformation(layer, below), layer)


def f1_by_type(true: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """ "f1" (micro average over entities) and "f1_TYPE" in percent; 0 without entities."""
    types = sorted({tag[2:] for sentence in true for tag in sentence if tag != "O"})
    if not types:
        return {"f1": 0.0}
    report = classification_report(true, predicted, output_dict=True, zero_division=0)
    found = {"f1": report["micro avg"]} | {f"f1_{kind}": report[kind] for kind in types}
    return {name: 100 * float(values["f1-score"]) for name, values in found.items()}


@torch.no_grad()
def representation_curves(
    tagger: Tagger, transformation: Transformation | None, source: Split, target: Split
) -> dict[str, list[float]]:
    """First subwords of source and target words in the space that the head sees, dropout off.

    pca_NAME_x, pca_NAME_y: projections on the first two principal components of all of them
    together, for NAME source_before, target, and with a transformation network source_after (it
    acts on source sentences only). pca_explained: their parts of the variance.
    centroid_distance: Euclidean distance between the means of source and target, before (and
    after), in units of the target's root-mean-square distance from its mean.
    """
    tagger.eval()
    before, goal = (_first_subwords(tagger, split, None) for split in (source, target))
    clouds = {"source_before": before, "target": goal}
    if transformation is not None:
        clouds["source_after"] = _first_subwords(tagger, source, transformation)
    together = torch.cat(list(clouds.values()))
    mean = together.mean(0)
    _, sizes, directions = torch.linalg.svd(together - mean, full_matrices=False)
    # A singular vector's sign is arbitrary: the largest entry is positive.
    directions = directions[:2]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    curves = {"pca_explained": (sizes**2 / (sizes**2).sum())[:2].tolist()}
    for name, cloud in clouds.items():
        points = (cloud - mean) @ directions.T
        curves[f"pca_{name}_x"], curves[f"pca_{name}_y"] = points.T.tolist()
    centre = goal.mean(0)
    spread = (goal - centre).square().sum(1).mean().sqrt()
    curves["centroid_distance"] = [
        float((cloud.mean(0) - centre).norm() / spread)
        for name, cloud in clouds.items()
        if name != "target"
    ]
    return {name: [round(value, 4) for value in values] for name, values in curves.items()}


def _first_subwords(tagger: Tagger, split: Split, transformation: Transformation | None) -> Tensor:
    """Last hidden states (n, H) of the first labelled subwords of a split, n at most _POINTS."""
    found: list[Tensor] = []
    for index in torch.arange(len(split)).split(_BATCH_SIZE):
        if sum(map(len, found)) < _POINTS:
            batch = split.batch(index)
            hidden = _states(tagger, batch, transformation)
            found.append(hidden[batch.labels != IGNORED].cpu())
    return torch.cat(found)[:_POINTS].double()
