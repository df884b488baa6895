"""Run records, the paper's numbers, statistics, tables, figures and the report."""

from common.reporting.against_seconds import metric_against_seconds
from common.reporting.costs import cost_table
from common.reporting.figures import (
    STYLES,
    TEXT_WIDTH,
    Figure,
    bar_style,
    figure_style,
    new_figure,
    save_figure,
    series_style,
    series_styles,
)
from common.reporting.generated_blocks import check_blocks, fill_blocks
from common.reporting.html import Section, render_report, write_report
from common.reporting.provenance import collect_provenance, utc_now
from common.reporting.published import Published, published, published_value
from common.reporting.records import (
    RunRecord,
    read_record,
    read_records,
    write_record,
)
from common.reporting.statistics import VERDICT_RULE, Measured, Verdict, collect_metric, judge
from common.reporting.table_formats import to_csv, to_latex, to_markdown, write_table
from common.reporting.tables import (
    Cell,
    Comparison,
    Heading,
    Number,
    Table,
    VerdictCell,
    comparison_table,
    runs_text,
)

__all__ = [
    "STYLES",
    "TEXT_WIDTH",
    "VERDICT_RULE",
    "Cell",
    "Comparison",
    "Figure",
    "Heading",
    "Measured",
    "Number",
    "Published",
    "RunRecord",
    "Section",
    "Table",
    "Verdict",
    "VerdictCell",
    "bar_style",
    "check_blocks",
    "collect_metric",
    "collect_provenance",
    "comparison_table",
    "cost_table",
    "figure_style",
    "fill_blocks",
    "judge",
    "metric_against_seconds",
    "new_figure",
    "published",
    "published_value",
    "read_record",
    "read_records",
    "render_report",
    "runs_text",
    "save_figure",
    "series_style",
    "series_styles",
    "to_csv",
    "to_latex",
    "to_markdown",
    "utc_now",
    "write_record",
    "write_report",
    "write_table",
]
