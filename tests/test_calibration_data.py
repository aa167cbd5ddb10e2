"""The bundled model and its samples are what calibration_data/README.md says they are."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

FOLDER = Path(__file__).parent.parent / "calibration_data"
MODEL = FOLDER / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(str(MODEL))


@pytest.fixture(scope="module")
def calibration() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "calibration.npz"))


@pytest.fixture(scope="module")
def validation() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "validation.npz"))


def run(model: onnx.ModelProto, outputs: list[str], image: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(outputs, {"image": image})]


def test_readme_states_the_measured_accuracy(model, validation):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"fp32 top-1 on `validation\.npz`: (\d+)/(\d+) \(([\d.]+) %\)", readme)
    assert stated is not None, "README.md no longer states the accuracy in the form this test reads"
    (logits,) = run(model, ["logits"], validation["image"])
    correct, total = int((logits.argmax(axis=1) == validation["labels"]).sum()), len(validation["labels"])
    assert (correct, total) == (int(stated[1]), int(stated[2]))
    assert stated[3] == f"{100 * correct / total:.2f}"
    assert correct / total >= 0.97


def test_readme_states_the_file_sizes_and_they_are_small():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = {name: int(size.replace(",", "")) for name, size in re.findall(r"\| `(\S+)` \|.*\| ([\d,]+) \|", readme)}
    names = ("digits_cnn.onnx", "calibration.npz", "validation.npz")
    assert stated == {name: (FOLDER / name).stat().st_size for name in names}
    assert stated["digits_cnn.onnx"] <= 500_000
    assert sum(stated.values()) <= 600_000


def test_model_is_valid_and_has_the_documented_interface(model):
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]

    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        dims = value.type.tensor_type.shape.dim
        return value.name, value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims]

    assert [signature(v) for v in model.graph.input] == [("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])]
    assert [signature(v) for v in model.graph.output] == [("logits", onnx.TensorProto.FLOAT, ["batch", 10])]


def test_batch_axis_is_really_dynamic(model, validation):
    (together,) = run(model, ["logits"], validation["image"][:7])
    apart = [run(model, ["logits"], validation["image"][i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-5, atol=1e-5)


def test_model_has_the_structure_the_compiler_is_shown_on(model):
    ops = Counter(node.op_type for node in model.graph.node)
    assert {op: ops[op] for op in ("Conv", "BatchNormalization", "Add", "Clip", "GlobalAveragePool", "Gemm")} == {
        "Conv": 7,
        "BatchNormalization": 7,
        "Add": 2,
        "Clip": 1,
        "GlobalAveragePool": 1,
        "Gemm": 1,
    }
    producer = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    depthwise = pointwise = 0
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes.get("training_mode", 0) == 0, f"{node.name} is in training mode"
            assert producer[node.input[0]].op_type == "Conv", f"{node.name} does not follow a Conv"
        if node.op_type == "Conv":
            group = next(a.i for a in node.attribute if a.name == "group")
            outputs, inputs_per_group, *kernel = weights[node.input[1]]
            depthwise += group > 1 and group == outputs and inputs_per_group == 1
            pointwise += kernel == [1, 1]
    assert depthwise == 1
    assert pointwise == 1


def test_no_channel_is_dead_and_the_clip_clips(model, validation):
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value for value in inferred.graph.value_info}
    watched = [n.output[0] for n in model.graph.node if n.op_type in ("Relu", "Clip", "Add")]
    inferred.graph.output.extend(types[name] for name in watched)
    values = dict(zip(watched, run(inferred, watched, validation["image"]), strict=True))
    for name, value in values.items():
        assert (value.max(axis=(0, 2, 3)) > 0.1).all(), f"{name} has a channel that never fires"
    (clipped,) = (values[n.output[0]] for n in model.graph.node if n.op_type == "Clip")
    assert clipped.min() == 0.0
    assert clipped.max() == 6.0


def test_samples_have_the_documented_form(calibration, validation):
    assert sorted(calibration) == ["image"]
    assert sorted(validation) == ["image", "labels"]
    assert calibration["image"].shape == (128, 1, 8, 8)
    assert validation["image"].shape == (360, 1, 8, 8)
    assert validation["labels"].shape == (360,)
    assert validation["labels"].dtype == np.int64
    assert np.unique(validation["labels"]).tolist() == list(range(10))
    for image in (calibration["image"], validation["image"]):
        assert image.dtype == np.float32
        assert (image.min(), image.max()) == (-1.0, 1.0)
        assert (image * 8 == np.rint(image * 8)).all()


def test_no_calibration_sample_is_a_validation_sample(calibration, validation):
    seen = {sample.tobytes() for sample in calibration["image"]}
    assert len(seen) == 128
    assert seen.isdisjoint({sample.tobytes() for sample in validation["image"]})


def test_samples_are_the_digits_of_scikit_learn(calibration, validation):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    pixels = digits.images[:, np.newaxis]
    np.testing.assert_array_equal((validation["image"] + 1) * 8, pixels[-360:])
    np.testing.assert_array_equal(validation["labels"], digits.target[-360:])
    training = {sample.astype(np.float32).tobytes() for sample in pixels[:-360]}
    assert all(((sample + 1) * 8).tobytes() in training for sample in calibration["image"])
