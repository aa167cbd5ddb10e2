"""The contract of a target, checked on any tool's Q/DQ model."""

from graphopt.analysis.legality.check import check_graph, findings_by_node
from graphopt.analysis.legality.finding import RULES, Finding, Rule

__all__ = ["RULES", "Finding", "Rule", "check_graph", "findings_by_node"]
