"""A study's measurements as a section of a report; its tables and figures as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cost_study.case import PublishedCost
from common.cost_study.figures import cost_figure, published_figure
from common.cost_study.records import Measurement, slug
from common.cost_study.tables import by_figure, gigabytes_table, published_table, steps_table
from common.reporting import Figure, Section, Table, write_tables

INTRO = """
Time and peak memory of one training step with each hypergradient, in units of a plain training
step (forward, backward, update) of the same network in the same process, on synthetic tensors of
the real shapes. "Does not fit" is a result: memory was not enough.
"""


def section(
    measurements: Sequence[Measurement],
    order: Sequence[tuple[str, str, str]],
    published: Mapping[str, Sequence[PublishedCost]],
    folder: Path,
    title: str = "Cost of hypergradients",
) -> Section:
    """Tables and figures of one device's measurements, written into ``folder``; the files' names
    end with the device.

    order: the study's points, in the order wanted. published: by experiment.
    """
    figures, device = by_figure(measurements, order), slug(measurements[0].device)
    tables: dict[str, Table] = {}
    pictures: list[Figure | None] = []
    for (experiment, figure), points in figures.items():
        stem = slug(figure)
        tables[f"{stem}-{device}"] = steps_table(figure, points)
        pictures.append(cost_figure(figure, points, folder, f"{stem}-{device}"))
        beside = [p for p in published.get(experiment, ()) if p.figure == figure]
        if beside and measurements[0].size == "paper":
            name = f"{stem}-published-{device}"
            tables[name] = gigabytes_table(points, beside)
            pictures.append(published_figure(figure, points, beside, folder, name))
    for experiment, entries in published.items():
        table = published_table(figures, experiment, entries)
        if table is not None:
            tables[f"{slug(experiment)}-published-{device}"] = table
    write_tables(tables, folder)
    return Section(title, INTRO, tables, tuple(p for p in pictures if p), folder)
