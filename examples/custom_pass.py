"""A pass of one's own: written in 20 lines, put in front of a preset, measured like any other.

    y = Clip(x, 0, 6)      →      y = Relu(x)

Some accelerators fuse Relu into the layer before it and compute a Clip by itself. Whether a network needs the cap is
for its samples to tell, which is why the pass isn't called lossless: the report measures what it costs.

    python examples/custom_pass.py
    graphopt optimize model.onnx -o out.onnx --passes 'fold-constants,custom_pass:UncapRelu{cap=4}'   # from this folder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import graphopt
from graphopt import Context, Graph, Pass, fixed_value

BUNDLED = Path(__file__).resolve().parents[1] / "calibration_data"


@dataclass(frozen=True)
class UncapRelu(Pass):
    """Write Relu for a Clip from 0 to `cap` or more."""

    cap: float = 6.0

    def run(self, graph: Graph, ctx: Context) -> None:
        """In the model's graph, and in the bodies of its If and Loop."""
        for scope in graph.walk():
            for node in scope.live_nodes():
                low, high = fixed_value(node.input(1)), fixed_value(node.input(2))
                if not node.is_op("Clip") or low is None or high is None or low != 0:
                    continue
                if high < self.cap:
                    ctx.remarks.declined(node, f"it ends at {high:g}, below {self.cap:g}")
                    continue
                result = scope.variable_like(node.output())
                scope.add_node("Relu", [node.inputs[0]], [result], hint=node.name)
                if scope.replace_uses(node.output(), result):
                    scope.remove(node)
                    ctx.remarks.applied(node, f"a Relu, without the end at {high:g}")


def main() -> None:
    """Compile the bundled model with and without the pass."""
    usual = graphopt.preset("int8", "onnxruntime")
    planning = [p.name for p in usual].index("plan-quantization")
    for passes in (usual, [*usual[:planning], UncapRelu(), *usual[planning:]]):
        report = graphopt.optimize(
            BUNDLED / "digits_cnn.onnx",
            target="onnxruntime",
            passes=passes,
            calibration_data=BUNDLED / "calibration.npz",
            validation_data=BUNDLED / "validation.npz",
        ).report
        for remark in report.remarks:
            if remark.pass_name == UncapRelu.name:
                print(remark)
        if report.measurement is not None and report.measurement.agreement.other_accuracy is not None:
            found = report.measurement.agreement
            print(f"{len(passes)} passes: {found.outputs[0].sqnr_db:.1f} dB, top-1 {found.other_accuracy:.1%}")


if __name__ == "__main__":
    main()
