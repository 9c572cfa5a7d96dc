"""What people look at: the report of a run, curves of several runs, and the sinks of their rows."""

from gdsd_jax.report.answers import answer_lines
from gdsd_jax.report.before_after import headline_lines
from gdsd_jax.report.figures import curve_figure, probe_figure
from gdsd_jax.report.page import comparison_page, write_report
from gdsd_jax.report.sinks import SINKS, Sink, SinkError, find_sink, open_sinks

__all__ = [
    "SINKS",
    "Sink",
    "SinkError",
    "answer_lines",
    "comparison_page",
    "curve_figure",
    "find_sink",
    "headline_lines",
    "open_sinks",
    "probe_figure",
    "write_report",
]
