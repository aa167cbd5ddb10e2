"""`lint` finds nothing in what graphopt writes, whatever the model and target."""

from __future__ import annotations

import pytest

from graphopt.analysis.legality import check_graph
from graphopt.targets import TARGETS
from tests.zoo.conftest import ROOT, compiled, names

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("target", TARGETS)
def test_what_graphopt_writes_is_clean(name: str, target: str) -> None:
    assert [str(f) for f in check_graph(compiled(name, target).graph, TARGETS[target])] == []
