"""ONNX → Graph → ONNX says the same: nothing that a file can hold is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import LoadError
from graphopt.ir import from_proto, to_proto
from tests.support.backend_suite import cases, in_one_worker
from tests.support.rewrite import run

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])


def make(nodes: list[onnx.NodeProto], opset: int = 21, **kwargs: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", kwargs.pop("inputs", [X]), kwargs.pop("outputs", [Y]), **kwargs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def round_trip(model: onnx.ModelProto) -> onnx.ModelProto:
    return to_proto(from_proto(model))


def meta(proto: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


# ---- semantic equality, independent of the code under test -------------------------------------------------


class Normal:
    """A model as plain values, tensors numbered in order of appearance: equal for models that say the same.

    Left out: node names (made unique), names themselves except those of the main graph's inputs and outputs,
    intermediate types, and how a tensor's bytes are stored.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.ids: dict[str, int] = {}
        imports = {e.domain if e.domain != "ai.onnx" else "": e.version for e in model.opset_import}
        functions = [f.SerializeToString(deterministic=True) for f in model.functions]
        self.value = (imports, functions, meta(model), model.doc_string, self.graph(model.graph, {}))
        self.interface = [v.name for v in (*model.graph.input, *model.graph.output)]

    def graph(self, graph: onnx.GraphProto, outer: dict[str, object]) -> object:
        scope = dict(outer)

        def define(name: str) -> object:
            scope[name] = len(self.ids)
            self.ids[f"{len(self.ids)}"] = 0
            return scope[name]

        listed = {i.name for i in graph.input}
        stored = {i.name: self.tensor(i) for i in graph.initializer}
        stored |= {i.values.name: ("sparse", i.SerializeToString()) for i in graph.sparse_initializer}
        inputs = [
            (define(i.name), i.type.SerializeToString(deterministic=True)) for i in graph.input if i.name not in stored
        ]
        read = {n for node in graph.node for n in node.input} | {o.name for o in graph.output} | self.captured(graph)
        constants = [
            (define(name), name in listed, value)
            for name, value in sorted(stored.items())
            if name in read or name in listed
        ]
        for node in graph.node:
            for name in node.output:
                if name:
                    define(name)
        nodes = [self.node(node, scope) for node in graph.node]
        outputs = [(scope[o.name], o.type.SerializeToString(deterministic=True)) for o in graph.output]
        return inputs, constants, nodes, outputs, graph.doc_string, meta(graph)

    def captured(self, graph: onnx.GraphProto) -> set[str]:
        bodies = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        names = {n for body in bodies for node in body.node for n in node.input}
        names |= {o.name for body in bodies for o in body.output}
        return names.union(*(self.captured(body) for body in bodies)) if bodies else names

    def node(self, node: onnx.NodeProto, scope: dict[str, object]) -> object:
        attributes = {a.name: self.attribute(a, scope) for a in node.attribute}
        inputs = [scope[n] if n else None for n in node.input]
        outputs = [scope[n] if n else None for n in node.output]
        domain = "" if node.domain == "ai.onnx" else node.domain
        return domain, node.op_type, node.overload, inputs, outputs, attributes, node.doc_string, meta(node)

    def attribute(self, attr: onnx.AttributeProto, scope: dict[str, object]) -> object:
        if attr.type == onnx.AttributeProto.GRAPH:
            return self.graph(attr.g, scope)
        if attr.type == onnx.AttributeProto.TENSOR:
            return self.tensor(attr.t)
        return attr.type, attr.SerializeToString(deterministic=True)

    def tensor(self, tensor: onnx.TensorProto) -> object:
        if tensor.data_type == TensorProto.STRING:
            return "strings", tuple(tensor.dims), tuple(tensor.string_data)
        values = numpy_helper.to_array(tensor)
        return tensor.data_type, values.shape, values.tobytes(), tensor.doc_string, meta(tensor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normal) and (self.value, self.interface) == (other.value, other.interface)

    __hash__ = None  # type: ignore[assignment]  # compared only


def test_the_comparison_sees_differences() -> None:
    base = make([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)])
    other = make([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.25)])
    assert Normal(base) == Normal(base)
    assert Normal(base) != Normal(other)
    assert Normal(base) != Normal(make([helper.make_node("Relu", ["x"], ["y"])]))


@in_one_worker
def test_the_whole_backend_suite_says_the_same() -> None:
    different: list[str] = []
    for case in cases():
        model, _ = case.read()
        before = Normal(model)  # first: from_proto takes the tensors over
        listed = {i.name for i in model.graph.input} & {i.name for i in model.graph.initializer}
        after = Normal(round_trip(model))
        if model.ir_version < 4 and listed:
            # Up to IR 3 initializers had to be listed as inputs; they no longer are.
            before.interface = [name for name in before.interface if name not in listed]
            _unlist(before)
        if "" not in before.value[0]:
            after.value[0].pop("", None)  # a version of the standard operators is always stated
        if before != after:
            different.append(case.name)
    assert len(cases()) > 1900
    assert different == []


def _unlist(model: Normal) -> None:
    inputs, constants, *rest = model.value[4]  # type: ignore[misc]  # Normal.graph's tuple
    constants = [(index, False, value) for index, _, value in constants]
    model.value = (*model.value[:4], (inputs, constants, *rest))


# ---- one thing at a time -----------------------------------------------------------------------------------


def test_metadata_and_doc_strings() -> None:
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    weights.doc_string = "trained"
    weights.metadata_props.add(key="layer", value="1")
    middle = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 4], doc_string="middle")
    middle.metadata_props.add(key="tensor", value="t")
    nodes = [helper.make_node("Mul", ["x", "w"], ["t"], name="scale"), helper.make_node("Relu", ["t"], ["y"])]
    model = make(nodes, initializer=[weights], value_info=[middle])
    model.producer_name, model.producer_version, model.model_version, model.domain = "maker", "1.2", 7, "org.example"
    for number, proto in enumerate(
        (model, model.graph, nodes[0], model.graph.node[0], model.graph.input[0], model.graph.output[0])
    ):
        proto.doc_string = f"doc {number}"
        proto.metadata_props.add(key="number", value=str(number))
    out = round_trip(model)
    assert (out.producer_name, out.producer_version, out.model_version, out.domain) == (
        "maker",
        "1.2",
        7,
        "org.example",
    )
    assert (out.doc_string, out.graph.doc_string, out.graph.node[0].doc_string) == ("doc 0", "doc 1", "doc 3")
    assert [
        meta(p)["number"] for p in (out, out.graph, out.graph.node[0], *out.graph.input, *out.graph.output)
    ] == list("01345")
    assert (out.graph.input[0].doc_string, out.graph.output[0].doc_string) == ("doc 4", "doc 5")
    assert out.graph.initializer[0] == weights
    assert list(out.graph.value_info) == [middle]


def test_quantization_annotations_live_as_long_as_their_tensors() -> None:
    parameters = [numpy_helper.from_array(np.array(v), n) for n, v in (("scale", 0.5), ("zero", 3))]
    model = make(
        [helper.make_node("Neg", ["x"], ["t"]), helper.make_node("Relu", ["t"], ["y"])], initializer=parameters
    )
    annotation = model.graph.quantization_annotation.add(tensor_name="t")
    for key, value in (("SCALE_TENSOR", "scale"), ("ZERO_POINT_TENSOR", "zero")):
        annotation.quant_parameter_tensor_names.add(key=key, value=value)
    out = round_trip(model)
    assert list(out.graph.quantization_annotation) == [annotation]
    assert [i.name for i in out.graph.initializer] == ["scale", "zero"]  # read by the annotation only
    graph = from_proto(model)
    relu = graph.nodes[1]
    graph.set_input(relu, 0, graph.inputs[0])
    graph.remove_unused([graph.nodes[0]])
    assert list(to_proto(graph).graph.quantization_annotation) == []


def test_functions_and_custom_domains() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "local" : 1, "unused" : 4]>
        g (float[4] x) => (float[4] y) { y = local.Twice<times=3.0>(x) }
        <domain: "local", opset_import: ["" : 21]> Twice<times>(a) => (b) {
          k = Constant<value_float: float = @times>()
          b = Mul(a, k)
        }"""
    )
    out = round_trip(model)
    assert list(out.functions) == list(model.functions)
    assert {e.domain: e.version for e in out.opset_import} == {"": 21, "local": 1, "unused": 4}
    feeds = {"x": np.arange(4, dtype=np.float32)}
    np.testing.assert_array_equal(run(out, feeds)[0], run(model, feeds)[0])


def test_types_that_are_not_tensors() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    types = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(tensor),
        "map": helper.make_map_type_proto(TensorProto.INT64, tensor),
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2, None]),
        "unranked": helper.make_tensor_type_proto(TensorProto.FLOAT, None),
        "scalar": helper.make_tensor_type_proto(TensorProto.BFLOAT16, []),
    }
    infos = [helper.make_value_info(name, type_) for name, type_ in types.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types]
    outputs = [helper.make_value_info(f"{name}_out", type_) for name, type_ in types.items()]
    out = round_trip(make(nodes, inputs=infos, outputs=outputs))
    assert {i.name: i.type for i in out.graph.input} == types
    assert [o.type for o in out.graph.output] == list(types.values())


def test_sparse_initializers_stay_sparse() -> None:
    values = numpy_helper.from_array(np.array([5.0, 6.0], np.float32), "w")
    linear = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 6])), [2, 4])
    model = make([helper.make_node("Mul", ["x", "w"], ["y"])], sparse_initializer=[linear])
    assert list(round_trip(model).graph.sparse_initializer) == [linear]
    (constant,) = from_proto(model).constants
    np.testing.assert_array_equal(constant.values, [[0, 5, 0, 0], [0, 0, 6, 0]])
    coordinates = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([[0, 1], [1, 2]])), [2, 4])
    (constant,) = from_proto(
        make([helper.make_node("Mul", ["x", "w"], ["y"])], sparse_initializer=[coordinates])
    ).constants
    np.testing.assert_array_equal(constant.values, [[0, 5, 0, 0], [0, 0, 6, 0]])


def test_attributes_of_every_kind() -> None:
    tensor = numpy_helper.from_array(np.arange(3.0), "t")
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"])], "b", [], [helper.make_empty_tensor_value_info("n")]
    )
    sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.array([0, 1, 2])), [4])
    type_ = helper.make_tensor_type_proto(TensorProto.INT8, [1, "n"])
    kinds = [
        helper.make_attribute("float", 0.1),
        helper.make_attribute("int", -(2**60)),
        helper.make_attribute("true", 1),
        helper.make_attribute("text", "grüß"),
        helper.make_attribute("bytes", b"\xff\xfe"),
        helper.make_attribute("floats", [0.1, 2.0]),
        helper.make_attribute("ints", [1, -2]),
        helper.make_attribute("texts", ["a", "ü"]),
        helper.make_attribute("raw_texts", [b"\xff", b"a"]),
        helper.make_attribute("no_ints", [], attr_type=onnx.AttributeProto.INTS),
        helper.make_attribute("no_floats", [], attr_type=onnx.AttributeProto.FLOATS),
        helper.make_attribute("no_texts", [], attr_type=onnx.AttributeProto.STRINGS),
        helper.make_attribute("tensor", tensor),
        helper.make_attribute("tensors", [tensor, tensor]),
        helper.make_attribute("sparse", sparse),
        helper.make_attribute("type", type_),
        helper.make_attribute("types", [type_, type_]),
        helper.make_attribute("graphs", [body, body]),
    ]
    node = helper.make_node("Everything", ["x"], ["y"], domain="custom")
    node.attribute.extend(kinds)
    model = make([node])
    model.opset_import.append(helper.make_opsetid("custom", 1))
    written = round_trip(model).graph.node[0].attribute
    assert {a.name: a for a in written} == {a.name: a for a in kinds}


def test_omitted_inputs_and_outputs_keep_their_places() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=2),
        helper.make_node("Dropout", ["x"], ["unused", ""]),
    ]
    model = make(nodes, inputs=[helper.make_tensor_value_info(n, 1, None) for n in "xwrh"], outputs=[Y])
    out = round_trip(model)
    assert [list(n.input) for n in out.graph.node] == [["x", "w", "r", "", "", "h"], ["x"]]
    assert [list(n.output) for n in out.graph.node] == [["", "y"], ["unused", ""]]


def test_device_configurations() -> None:
    model = make([helper.make_node("Neg", ["x"], ["y"])])
    model.configuration.add(name="pair", num_devices=2)
    model.graph.node[0].device_configurations.add(configuration_id="pair", pipeline_stage=1)
    out = round_trip(model)
    assert list(out.configuration) == list(model.configuration)
    assert list(out.graph.node[0].device_configurations) == list(model.graph.node[0].device_configurations)


def test_overloads_and_empty_node_names() -> None:
    node = helper.make_node("Op", ["x"], ["y"], domain="custom", overload="fast")
    model = make([node, helper.make_node("Neg", ["x"], ["z"])])
    model.opset_import.append(helper.make_opsetid("custom", 1))
    out = round_trip(model)
    assert out.graph.node[0].overload == "fast"
    assert [n.name for n in out.graph.node] == ["y_Op", "z_Neg"]


def test_dimensions() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", None, 3, 0])
    info.type.tensor_type.shape.dim.add().dim_value = -1
    graph = from_proto(make([helper.make_node("Neg", ["x"], ["y"])], inputs=[info]))
    assert graph.inputs[0].shape == ("N", None, 3, 0, None)


def test_initializers_as_inputs_by_ir_version() -> None:
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4], doc_string="a default")
    model = make([helper.make_node("Mul", ["x", "w"], ["y"])], inputs=[X, listed], initializer=[weights])
    out = round_trip(model)
    assert [i.name for i in out.graph.input] == ["x", "w"]
    assert out.graph.input[1].doc_string == "a default"
    model.ir_version = 3
    out = round_trip(model)
    assert [i.name for i in out.graph.input] == ["x"]
    assert out.ir_version >= 4
    assert [i.name for i in out.graph.initializer] == ["w"]


@pytest.mark.parametrize(
    ("opset", "file_ir", "written"), [(7, 3, 4), (13, 7, 7), (13, 10, 10), (21, 8, 10), (26, 14, 13)]
)
def test_ir_version(opset: int, file_ir: int, written: int) -> None:
    model = make([helper.make_node("Neg", ["x"], ["y"])], opset=opset)
    model.ir_version = file_ir
    out = round_trip(model)
    assert out.ir_version == written
    assert out.opset_import[0].version == opset


def test_what_cannot_be_a_graph() -> None:
    neg = helper.make_node("Neg", ["x"], ["y"], name="n")
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    faults = {
        "defined twice": make([neg, neg]),
        "reads 'gone'": make([helper.make_node("Neg", ["gone"], ["y"])]),
        "nothing defines its output 'y'": make([helper.make_node("Neg", ["x"], ["z"])]),
        "two inputs named 'x'": make([neg], inputs=[X, X]),
        "two initializers named 'w'": make([neg], initializer=[weights, weights]),
        "element type 99": make([neg], inputs=[helper.make_tensor_value_info("x", 99, [1])]),
    }
    for reason, model in faults.items():
        with pytest.raises(LoadError, match=reason):
            from_proto(model)
