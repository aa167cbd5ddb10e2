"""Run one pass on a small model and hold the result to the pass's promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from graphopt.ir import from_proto, to_proto
from graphopt.pipeline import Context, Pass, Remarks


@dataclass(frozen=True)
class Rewritten:
    """The model after the pass, and what the pass said."""

    model: onnx.ModelProto
    remarks: Remarks
    revision: int  # 0: the pass changed nothing

    @property
    def ops(self) -> list[str]:
        """Operator names in graph order."""
        return [n.op_type for n in self.model.graph.node]

    def declined(self) -> list[str]:
        """The reasons given for what wasn't done."""
        return [r.message for r in self.remarks.items if r.kind == "declined"]


def parse(text: str) -> onnx.ModelProto:
    """An ONNX text model, checked."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def rewrite(pass_: Pass, model: onnx.ModelProto | str, ctx: Context | None = None) -> Rewritten:
    """Run `pass_` on a copy of `model` (text is parsed); the result passed onnx.checker."""
    before = parse(model) if isinstance(model, str) else onnx.ModelProto.FromString(model.SerializeToString())
    graph = from_proto(before)
    ctx = ctx or Context()
    ctx.remarks.current = pass_.name
    start = graph.revision
    pass_.run(graph, ctx)
    changed = graph.revision - start
    graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return Rewritten(after, ctx.remarks, changed)


def plain_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """onnxruntime without any graph optimization, so that it can't hide a wrong rewrite."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # tests run side by side
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a `plain_session`."""
    return plain_session(model).run(None, feeds)


def random_feeds(model: onnx.ModelProto, seed: int = 0, dynamic: int = 2) -> dict[str, np.ndarray]:
    """Normal noise for each float input; symbolic axes get size `dynamic`."""
    rng = np.random.default_rng(seed)
    stored = {i.name for i in model.graph.initializer}
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        shape = [d.dim_value if d.HasField("dim_value") else dynamic for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = rng.normal(size=shape).astype(dtype)
    return feeds


def assert_same_outputs(
    before: onnx.ModelProto, after: onnx.ModelProto, *, rtol: float = 1e-5, atol: float = 1e-5, seed: int = 0
) -> None:
    """Both models give the same outputs on noise, under the same names."""
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output]
    feeds = random_feeds(before, seed)
    for name, old, new in zip(
        [o.name for o in before.graph.output], run(before, feeds), run(after, feeds), strict=True
    ):
        np.testing.assert_allclose(new, old, rtol=rtol, atol=atol, err_msg=name)
