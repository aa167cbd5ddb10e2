"""What a run did and what a model holds, as data and as text."""

from graphopt.report.document import Document, Line, Table, to_text
from graphopt.report.inspection import Inspection, inspect_model
from graphopt.report.summary import Layer, Measurement, Report, Size
from graphopt.report.verification import Verification

__all__ = [
    "Document",
    "Inspection",
    "Layer",
    "Line",
    "Measurement",
    "Report",
    "Size",
    "Table",
    "Verification",
    "inspect_model",
    "to_text",
]
