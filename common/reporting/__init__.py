"""Run records, the paper's numbers, statistics, tables, figures and the report."""

from common.reporting.comparisons import Comparison, comparison_table, cost_table
from common.reporting.figures import (
    Figure,
    bar_style,
    draw_runs,
    epoch_seconds,
    figure_style,
    legend_below,
    metric_against_seconds,
    new_figure,
    save_figure,
    series_styles,
)
from common.reporting.frame import collect_metric
from common.reporting.page import Section, write_report
from common.reporting.published import Published, published, published_value
from common.reporting.records import (
    RunRecord,
    collect_provenance,
    load,
    read_records,
    save,
    utc_now,
)
from common.reporting.statistics import Measured
from common.reporting.tables import (
    MISSING,
    Cell,
    Number,
    Table,
    to_markdown,
    write_table,
    write_tables,
)

__all__ = [
    "MISSING", "Cell", "Comparison", "Figure", "Measured", "Number", "Published", "RunRecord",
    "Section", "Table", "bar_style", "collect_metric", "collect_provenance", "comparison_table",
    "cost_table", "draw_runs", "epoch_seconds", "figure_style",
    "legend_below", "load", "metric_against_seconds", "new_figure", "published",
    "published_value", "read_records", "save", "save_figure", "series_styles", "to_markdown",
    "utc_now", "write_report", "write_table", "write_tables",
]  # fmt: skip
