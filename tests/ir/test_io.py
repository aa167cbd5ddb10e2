"""Loading and saving: external data, text, and one clear line for everything that isn't a model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.errors import ConfigError, EmitError, GraphoptError, LoadError
from graphopt.ir import Constant, Graph, fixed_value, load, save, to_proto
from graphopt.ir import write as write_module
from tests.support.rewrite import assert_same_outputs, run

WEIGHTS = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def model(opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f"""<ir_version: {ir_version}, opset_import: ["" : {opset}]>
        g (float[N,64] x) => (float[N,64] y) <float[64] b = {{{",".join(["0.5"] * 64)}}}> {{
          t = MatMul(x, w)
          y = Add(t, b)
        }}"""
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS, "w"))
    return made


def external(folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    return path


def constant(graph: Graph, name: str) -> Constant:
    return next(c for c in graph.constants if c.name == name)


# ---- what can be loaded ------------------------------------------------------------------------------------


@dataclass
class Program:
    """Like torch.onnx.ONNXProgram."""

    model_proto: onnx.ModelProto


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    for source in (path, str(path), path.read_bytes(), model(), Program(model())):
        assert_same_outputs(model(), to_proto(load(source)))


@pytest.mark.parametrize("suffix", [".onnxtxt", ".txt"])
def test_text_round_trip_is_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    save(load(model()), path)
    np.testing.assert_array_equal(constant(load(path), "w").values, WEIGHTS)
    assert_same_outputs(model(), to_proto(load(path)), rtol=0, atol=0)


def test_text_of_bodies_and_quoted_names(tmp_path: Path) -> None:
    source = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) {
          ["an if"] y = If(c) <then_branch = t () => (float[2] "a.1") { "a.1" = Neg(x) },
                              else_branch = e () => (float[2] b) {
                                k = Constant<value = float[2]{1,2}>()
                                b = Add(x, k)
                              }>
        }"""
    )
    source.graph.node[0].attribute[0].g.name = "torch-jit-export.1"
    source.graph.node[0].attribute[1].g.node[0].attribute[0].t.name = "k.value"
    path = tmp_path / "model.onnxtxt"
    save(load(source), path)
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": np.array([3, 4], np.float32)}
        np.testing.assert_array_equal(run(to_proto(load(path)), feeds)[0], run(source, feeds)[0])


# ---- external data -----------------------------------------------------------------------------------------


def test_external_data_stays_in_its_file_until_it_is_read(tmp_path: Path) -> None:
    graph = load(external(tmp_path))
    weights = constant(graph, "w")
    assert weights.lazy is not None
    assert weights.lazy.is_external
    assert isinstance(weights.values.base, np.memmap) or isinstance(weights.values, np.memmap)
    np.testing.assert_array_equal(weights.values, WEIGHTS)
    assert not weights.values.flags.writeable


def test_external_stays_external(tmp_path: Path) -> None:
    source = external(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    graph = load(source)
    save(graph, out / "small.onnx")
    assert constant(graph, "w").lazy is not None  # saving reads it and lets it go
    assert sorted(p.name for p in out.iterdir()) == ["small.onnx", "small.onnx.data"]
    (weights,) = [
        i for i in onnx.load(out / "small.onnx", load_external_data=False).graph.initializer if i.external_data
    ]
    assert {e.key: e.value for e in weights.external_data}["location"] == "small.onnx.data"
    onnx.checker.check_model(out / "small.onnx", full_check=True)
    assert_same_outputs(model(), onnx.load(out / "small.onnx"), rtol=0, atol=0)
    assert_same_outputs(model(), to_proto(load(out / "small.onnx")), rtol=0, atol=0)


def test_external_data_on_request_and_not(tmp_path: Path) -> None:
    save(load(model()), tmp_path / "a.onnx", external_data=True)
    assert (tmp_path / "a.onnx.data").stat().st_size >= WEIGHTS.nbytes
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx", external_data=False)
    assert not (tmp_path / "b.onnx.data").exists()
    assert_same_outputs(model(), onnx.load(tmp_path / "b.onnx"), rtol=0, atol=0)


def test_packed_and_odd_types_in_external_data(tmp_path: Path) -> None:
    import ml_dtypes

    rng = np.random.default_rng(0)
    values = {
        "half": rng.normal(size=(40, 40)).astype(np.float16),
        "brain": rng.normal(size=(40, 40)).astype(ml_dtypes.bfloat16),
        "nibbles": rng.integers(-8, 8, size=(41, 101)).astype(ml_dtypes.int4),
        "flags": rng.integers(0, 2, size=(40, 41)).astype(bool),
        "columns": np.asfortranarray(rng.normal(size=(30, 50))),
    }
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in values]
    outputs = [onnx.helper.make_empty_tensor_value_info(f"{name}_out") for name in values]
    source = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "g", [], outputs, [onnx.numpy_helper.from_array(v, n) for n, v in values.items()]
        ),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    graph = load(source)
    graph.set_values(constant(graph, "columns"), values["columns"])
    save(graph, tmp_path / "m.onnx", external_data=True)
    again = load(tmp_path / "m.onnx")
    for name, expected in values.items():
        np.testing.assert_array_equal(constant(again, name).values, expected)
        assert constant(again, name).dtype == expected.dtype
    inline = to_proto(again)  # stands alone: nothing refers to the data file
    assert not any(i.external_data for i in inline.graph.initializer)


def broken_external(tmp_path: Path, location: str, offset: str = "0", length: str = str(WEIGHTS.nbytes)) -> Path:
    made = onnx.load(external(tmp_path), load_external_data=False)
    (tensor,) = [i for i in made.graph.initializer if i.external_data]
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    path = tmp_path / "broken.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("location", "offset", "length", "reason"),
    [
        ("nowhere.bin", "0", str(WEIGHTS.nbytes), "doesn't exist"),
        ("/etc/passwd", "0", str(WEIGHTS.nbytes), "relative path"),
        ("../weights.bin", "0", str(WEIGHTS.nbytes), "relative path"),
        ("a/../../weights.bin", "0", str(WEIGHTS.nbytes), "relative path"),
        ("C:\\weights.bin", "0", str(WEIGHTS.nbytes), "relative path"),
        ("", "0", str(WEIGHTS.nbytes), "doesn't say in which"),
        ("weights.bin", "64", str(WEIGHTS.nbytes), "has only"),
        ("weights.bin", "-1", str(WEIGHTS.nbytes), "damaged"),
        ("weights.bin", "0", "12", "damaged"),
        ("weights.bin", "zero", "12", "aren't numbers"),
    ],
)
def test_bad_external_data(tmp_path: Path, location: str, offset: str, length: str, reason: str) -> None:
    with pytest.raises(LoadError, match=reason) as caught:
        load(broken_external(tmp_path, location, offset, length))
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = external(tmp_path / "real")
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(path.read_bytes())
    (folder / "weights.bin").symlink_to(path.parent / "weights.bin")
    with pytest.raises(LoadError, match="link"):
        load(folder / "model.onnx")


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    content = external(tmp_path).read_bytes()
    np.testing.assert_array_equal(constant(load(content, base_dir=tmp_path), "w").values, WEIGHTS)
    with pytest.raises(LoadError, match="base_dir"):
        load(content, base_dir=tmp_path / "elsewhere")


# ---- what isn't a model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file\n" * 10, "text file"),
        ("schöne Grüße\n".encode() * 400, "text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TFLite"),
        (bytes(range(256)) * 8, "isn't an ONNX model"),
        # Parses as a message whose fields are all unknown, or with an IR version only.
        (b"\xa0\x06\x01", "has no IR version"),
        (b"\x08\x07", "has no graph"),
        (model().SerializeToString()[:-100], "isn't an ONNX model, or is truncated"),
        (model().SerializeToString()[: len(model().SerializeToString()) // 2], "isn't"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_every_truncation_is_one_clear_line(tmp_path: Path) -> None:
    content = model().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(LoadError) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(LoadError, match="is a directory"):
        load(tmp_path)
    with pytest.raises(LoadError, match="from int"):
        load(3)
    (tmp_path / "bad.onnxtxt").write_text("<ir_version: 8> oops")
    with pytest.raises(LoadError, match=r"isn't ONNX text: \[ParseError at position \(line: 1"):
        load(tmp_path / "bad.onnxtxt")
    (tmp_path / "bad.onnxtxt").write_text("<ir_version: 8> g (float[1] x) => (float[1] y) { y = Neg(x) }")
    with pytest.raises(LoadError, match="has no opset import"):
        load(tmp_path / "bad.onnxtxt")


def test_invalid_models_name_the_place() -> None:
    made = model()
    made.graph.node[0].input[1] = "gone"
    with pytest.raises(LoadError, match="'gone'"):
        load(made)
    made = model()
    made.graph.node[0].op_type = "MatMull"
    with pytest.raises(LoadError, match="MatMull"):
        load(made)
    made = model()
    made.graph.node.append(made.graph.node[0])
    with pytest.raises(LoadError, match="defined twice"):
        load(made)
    made = model()
    made.graph.initializer[0].dims[0] = 63
    with pytest.raises(LoadError, match=r"'b' of shape .* needs 63 values"):
        load(made)
    made = model()
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.INT64, ["N", 64]))
    with pytest.raises(LoadError, match="'t' is stated as int64"):
        load(made)


def test_loading_leaves_the_given_model_alone() -> None:
    made = model(opset=9, ir_version=3)
    made.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [64, 64]))
    made.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, [64]))
    before = made.SerializeToString(deterministic=True)
    graph = load(made)
    graph.set_values(constant(graph, "b"), np.zeros(64, np.float32))
    to_proto(graph)
    assert made.SerializeToString(deterministic=True) == before


# ---- what is repaired on loading ---------------------------------------------------------------------------


def test_listed_initializers_of_old_ir_are_plain_constants() -> None:
    made = model(opset=8, ir_version=3)
    made.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [64, 64]))
    made.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, [64]))
    graph = load(made)
    assert [t.name for t in graph.inputs] == ["x"]
    assert not constant(graph, "w").is_input
    out = to_proto(graph)
    assert (out.ir_version, out.opset_import[0].version, [i.name for i in out.graph.input]) == (7, 13, ["x"])
    assert_same_outputs(made, out)


def test_defaults_that_may_be_overridden_stay() -> None:
    made = model()
    made.graph.input.append(onnx.helper.make_tensor_value_info("b", 1, [64]))
    graph = load(made)
    assert constant(graph, "b").is_input
    assert fixed_value(constant(graph, "b")) is None
    assert [i.name for i in to_proto(graph).graph.input] == ["x", "b"]
    assert not constant(load(made, keep_defaults=False), "b").is_input


def test_an_exporter_that_lists_all_weights_is_understood() -> None:
    made = model()
    for tensor in made.graph.initializer:
        made.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    graph = load(made)
    assert not any(c.is_input for c in graph.constants)
    assert any("plain constants" in note for note in graph.facts.notes)
    assert all(c.is_input for c in load(made, keep_defaults=True).constants)


def test_stale_shapes_are_inferred_anew() -> None:
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("t", 1, [1, 64]))
    graph = load(made)
    assert graph.outputs[0].shape == (4, 64)
    assert graph.nodes[0].output().shape == (4, 64)
    assert any("stated shapes" in note for note in graph.facts.notes)


def test_an_opset_too_new_for_engines_is_lowered_where_it_means_the_same() -> None:
    graph = load(model(opset=28, ir_version=14))
    assert graph.opset == 26
    assert to_proto(graph).ir_version == 13


def test_unknown_custom_operators_and_missing_shapes_load() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
        g (float[2] x) => (y) { t = my.ops.Magic<level=3>(x)  y = Relu(t) }"""
    )
    graph = load(made)
    assert [n.op for n in graph.nodes] == ["Magic", "Relu"]
    assert to_proto(graph).graph.node[0].domain == "my.ops"


def test_functions_of_an_old_opset_are_inlined_and_upgraded() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 11, "local" : 1]>
        g (float[2,3] x) => (float[2,1,3] y) { y = local.Insert(x) }
        <domain: "local", opset_import: ["" : 11]> Insert (a) => (b) { b = Unsqueeze<axes=[1]>(a) }"""
    )
    out = to_proto(load(made))
    onnx.checker.check_model(out, full_check=True)
    assert len(out.functions) == 0
    assert_same_outputs(made, out, rtol=0, atol=0)


@pytest.mark.parametrize("opset", [21, 18])
def test_functions_are_inlined_where_their_operators_mean_the_same(opset: int) -> None:
    # Mul, Add and Relu are those of 14 in both. 't' and 'w' are names of the graph, too.
    made = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[2] x) => (float[2] y) <float[2] w = {{3.0, -2.0}}> {{ t = local.Outer(x, w)  y = local.Outer(t, w) }}
        <domain: "local", opset_import: ["" : {opset}, "local" : 1]> Outer (a, b) => (d) {{
          t = Mul(a, b)
          w = local.Inner(t)
          d = Add(w, b)
        }}
        <domain: "local", opset_import: ["" : {opset}]> Inner (a) => (b) {{ b = Relu(a) }}"""
    )
    before = made.SerializeToString()
    graph = load(made)
    assert made.SerializeToString() == before
    assert [n.op for n in graph.nodes] == ["Mul", "Relu", "Add"] * 2
    assert graph.facts.notes == ["2 functions of the model's own were inlined"]
    assert_same_outputs(made, to_proto(graph), rtol=0, atol=0)


def test_functions_that_stand_in_for_an_engines_kernel_stay() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "local" : 1]>
        g (float[2] x) => (float[2] y) { t = com.microsoft.MyGelu(x)  y = local.Negate(t) }
        <domain: "com.microsoft", opset_import: ["" : 20]> MyGelu (a) => (b) { b = Gelu(a) }
        <domain: "local", opset_import: ["" : 20]> Negate (a) => (b) { b = Neg(a) }"""
    )
    graph = load(made)
    assert [n.op for n in graph.nodes] == ["MyGelu", "Neg"]
    assert_same_outputs(made, to_proto(graph), rtol=0, atol=0)


def test_a_model_of_other_domains_only() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["ai.onnx.ml" : 3]>
        g (float[2] x) => (float[2] y) { y = ai.onnx.ml.Binarizer<threshold=0.5>(x) }"""
    )
    assert to_proto(load(made)).graph.node[0].op_type == "Binarizer"


# ---- saving ------------------------------------------------------------------------------------------------


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    graph = load(path)
    (tmp_path / "link.onnx").symlink_to(path)
    for target in (path, tmp_path / "link.onnx", tmp_path / "weights.bin", tmp_path / "." / "model.onnx"):
        with pytest.raises(ConfigError, match="would overwrite the input"):
            save(graph, target)
    os.rename(tmp_path / "weights.bin", tmp_path / "other.onnx.data")
    graph.facts.source_files = (path, tmp_path / "other.onnx.data")
    with pytest.raises(ConfigError, match=r"other\.onnx\.data"):
        save(graph, tmp_path / "other.onnx")
    assert path.read_bytes() == before["model.onnx"]
    assert (tmp_path / "other.onnx.data").read_bytes() == before["weights.bin"]


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(model())
    with pytest.raises(EmitError, match="doesn't exist"):
        save(graph, tmp_path / "none" / "m.onnx")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, ".", ".."):
        with pytest.raises(EmitError, match="is a directory"):
            save(graph, folder)


@pytest.mark.parametrize("external_data", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external_data: bool) -> None:
    old = tmp_path / "m.onnx"
    old.write_bytes(b"the previous result")
    graph = load(model())

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "_serialize", full)
    with pytest.raises(EmitError, match=r"m\.onnx.*No space left"):
        save(graph, old, external_data=external_data)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert old.read_bytes() == b"the previous result"


def test_any_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(model())

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_module, "_serialize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(graph, tmp_path / "m.onnx", external_data=True)
    assert list(tmp_path.iterdir()) == []


def test_same_model_same_bytes_in_every_process(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(model(opset=9), source)
    program = "import sys; from graphopt.ir import load, save; save(load(sys.argv[1]), sys.argv[2], external_data=True)"
    results: list[bytes] = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", program, source, out / "m.onnx"], check=True, env=environment)
        results.append((out / "m.onnx").read_bytes() + (out / "m.onnx.data").read_bytes())
    assert results[0] == results[1]


def test_errors_are_the_users_side() -> None:
    assert issubclass(LoadError, GraphoptError)
    assert issubclass(EmitError, GraphoptError)
