"""Groups of small graphs, worked out by hand."""

from __future__ import annotations

from tests.support.coupling import couple_text, groups


def test_a_residual_stream_is_one_group_and_the_inner_layer_another() -> None:
    coupling = couple_text(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv(r, w2) d = Conv(c, w3) s = Add(r, d) y = Conv(s, w4)",
        "float[1,3,8,8] x",
        "float[1,2,8,8] y",
        w1=(8, 3, 3, 3), b1=(8,), w2=(4, 8, 1, 1), w3=(8, 4, 1, 1), w4=(2, 8, 1, 1),
    )  # fmt: skip
    assert groups(coupling) == {
        "a:1": (8, ["a:1", "b1:0", "d:1", "r:1", "s:1", "w1:0", "w2:1", "w3:0", "w4:1"]),
        "c:1": (4, ["c:1", "w2:0", "w3:1"]),
    }
