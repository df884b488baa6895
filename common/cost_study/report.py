"""A study's measurements as a section of a report; its tables and figures as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.cost_study.case import PublishedCost
from common.cost_study.figures import cost_figure, counted_timed_figure, published_figure
from common.cost_study.records import Measurement, by_device, slug
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
        # Of a CPU the bytes are those that are counted.
        if beside and measurements[0].size == "paper" and device != "cpu":
            tables[f"{stem}-published-{device}"] = gigabytes_table(points, beside)
    for experiment, entries in published.items():
        table = published_table(figures, experiment, entries)
        if table is not None:
            tables[f"{slug(experiment)}-published-{device}"] = table
    write_tables(tables, folder)
    return Section(title, INTRO, tables, tuple(p for p in pictures if p), folder)


def beside(
    measurements: Sequence[Measurement],
    order: Sequence[tuple[str, str, str]],
    published: Mapping[str, Sequence[PublishedCost]],
    folder: Path,
) -> Section:
    """What was counted beside what was timed, and both beside the paper's figures."""
    groups = by_device(measurements)
    counted = groups.get("counted", [])
    timed = groups.get("cuda") or groups.get("cpu") or []
    all_counted, all_timed = by_figure(counted, order), by_figure(timed, order)
    pictures = [counted_timed_figure(counted, timed, folder, "counted-timed")]
    if measurements and measurements[0].size == "paper":
        for experiment, entries in published.items():
            for figure in dict.fromkeys(entry.figure for entry in entries):
                own = [entry for entry in entries if entry.figure == figure]
                place = experiment, figure
                points, seconds = all_counted.get(place, {}), all_timed.get(place, {})
                stem = slug(own[0].where)
                pictures.append(published_figure(points, seconds, own, folder, stem))
    return Section("Counted, timed and published", "", {}, tuple(filter(None, pictures)), folder)
