"""The paper's measurements of cost, as the rooms hand them over."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedCost:
    """What the paper measured at one point of a figure.

    costs: name of the row in this study -> (gigabytes in use, seconds), for whatever amount of work
    the paper took, since only ratios between methods are compared; in the order plain (if there),
    EvoGrad, T1-T2. A room that has such values offers ``published_costs() ->
    list[PublishedCost]``.
    """

    figure: str
    x: str
    costs: Mapping[str, tuple[float, float]]
