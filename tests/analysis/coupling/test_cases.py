"""Groups of small networks against those worked out by hand; and removing any of their units is masking them."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.ir import to_proto
from tests.analysis.coupling.cases import CASES, Case
from tests.support.coupling import graph_of, typed
from tests.support.masking import assert_same_as_masked, random_keep, remove
from tests.support.rewrite import random_feeds

named = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@named
def test_groups(case: Case) -> None:
    coupling = couple(graph_of(case.body, case.inputs, case.outputs, case.opset, **case.values))
    assert {group.name: group.units for group in coupling.removable} == case.groups


@named
def test_removing_units_is_masking_them(case: Case) -> None:
    model = to_proto(graph_of(case.body, case.inputs, case.outputs, case.opset, **case.values))
    rng = np.random.default_rng(0)
    feeds = random_feeds(model, dynamic=4)
    for share in (0.2, 0.7):
        graph = typed(model)
        coupling = couple(graph)
        assert_same_as_masked(remove(graph, coupling, random_keep(coupling, rng, share)), feeds)
