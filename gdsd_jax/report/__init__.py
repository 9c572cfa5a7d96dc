"""What people look at: the report of a run, curves of several runs, and the sinks of their rows."""

from gdsd_jax.report.answers import answer_lines
from gdsd_jax.report.before_after import headline_lines, headlines, score_name
from gdsd_jax.report.charts import charts_of, moving_mean, points
from gdsd_jax.report.figures import curve_figure
from gdsd_jax.report.page import comparison_page, write_report
from gdsd_jax.report.sinks import SINKS, Sink, SinkError, find_sink, open_sinks

__all__ = [
    "SINKS",
    "Sink",
    "SinkError",
    "answer_lines",
    "charts_of",
    "comparison_page",
    "curve_figure",
    "find_sink",
    "headline_lines",
    "headlines",
    "moving_mean",
    "open_sinks",
    "points",
    "score_name",
    "write_report",
]
