"""The report of a run as plain data: the graph through its passes, and a section for each thing there is to show."""

from __future__ import annotations

from graphopt._version import __version__
from graphopt.report.html.gathered import Gathered
from graphopt.report.html.payload import Payload
from graphopt.report.html.section_calibration import calibration_section
from graphopt.report.html.section_channels import channels_section
from graphopt.report.html.section_errors import errors_section
from graphopt.report.html.section_layers import layers_section, node_badges
from graphopt.report.html.section_passes import passes_section, step_figures
from graphopt.report.html.section_precision import guard_section, precision_section
from graphopt.report.html.section_remarks import remarks_section
from graphopt.report.html.section_summary import report_title, summary_section
from graphopt.report.html.steps import graph_steps
from graphopt.report.html.versions import Labels


def payload_of(found: Gathered) -> Payload:
    """The report; sections that would be empty are left out."""
    graph = graph_steps(found.history, Labels(found.real, node_badges(found)), step_figures(found))
    sections = (
        summary_section(found),
        passes_section(found, graph),
        layers_section(found),
        guard_section(found),
        precision_section(found),
        errors_section(found),
        calibration_section(found),
        channels_section(found),
        remarks_section(found),
    )
    shown = tuple(section for section in sections if section is not None)
    return Payload(report_title(found), __version__, shown, graph)
