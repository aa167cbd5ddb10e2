from graphopt.passes.remove_dead import RemoveDead
from tests.support.rewrite import rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def test_a_chain_that_nobody_reads_goes() -> None:
    result = rewrite(
        RemoveDead(),
        HEADER + "g (float[2] x) => (float[2] y) { y = Relu(x)\n a = Exp(x)\n b = Log(a) }",
    )
    assert result.ops == ["Relu"]
    assert [r.op for r in result.remarks.items] == ["Log", "Exp"]


def test_what_a_nested_graph_reads_stays() -> None:
    result = rewrite(
        RemoveDead(),
        HEADER
        + """g (float[2] x, bool c) => (float[2] y) {
            a = Exp(x)
            b = Log(x)
            y = If(c) <then_branch = t () => (float[2] p) { p = Relu(a) q = Neg(a) },
                       else_branch = e () => (float[2] r) { r = Neg(x) }>
        }""",
    )
    assert result.ops == ["Exp", "If"]
    then = result.model.graph.node[1].attribute[0].g
    assert [n.op_type for n in then.node] == ["Relu"]


def test_nothing_to_do_is_no_change() -> None:
    assert rewrite(RemoveDead(), HEADER + "g (float[2] x) => (float[2] y) { y = Relu(x) }").revision == 0


def test_an_unread_custom_operator_is_kept_and_said() -> None:
    model = rewrite(
        RemoveDead(),
        '<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>\n'
        "g (float[2] x) => (float[2] y) { y = Relu(x)\n p = my.ops.Print(x) }",
    )
    assert model.ops == ["Relu", "Print"]
    assert "'my.ops'" in model.declined()[0]


def test_the_sweep_stops_at_a_custom_operator() -> None:
    model = rewrite(
        RemoveDead(),
        '<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>\n'
        "g (float[2] x) => (float[2] y) { y = Relu(x)\n p = my.ops.Print(x)\n e = Exp(p)\n l = Log(e) }",
    )
    assert model.ops == ["Relu", "Print"]


def test_a_dead_if_frees_what_its_branches_read() -> None:
    result = rewrite(
        RemoveDead(),
        HEADER
        + """g (float[2] x, bool c) => (float[2] y) {
            a = Exp(x)
            z = If(c) <then_branch = t () => (float[2] p) { p = Relu(a) },
                else_branch = e () => (float[2] r) { r = Neg(x) }>
            y = Neg(x)
        }""",
    )
    assert result.ops == ["Neg"]
