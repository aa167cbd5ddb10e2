"""The model that a plan is going to make, beside the float model it was made for: what lossy passes compare."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import ModelProto

from graphopt.calibration import Dataset, Feed, budget
from graphopt.calibration.prefix import Prefix, affordable
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.pipeline.remarks import Remarks

# Samples that are held at a time, of both models, unless the user sets a budget.
_HELD_BYTES = 1 << 29


@dataclass(frozen=True)
class Pair:
    """Both models in the middle of their run over the same samples; tensors have the same names in both.

    Attributes:
        reference: the float model as it was before a pass changed a weight at the expense of the outputs.
        quantized: with integers for every planned tensor.
        planned: the model that `quantized` runs, to look up which tensors its nodes read.
    """

    reference: Prefix
    quantized: Prefix
    planned: ModelProto


def open_pair(graph: Graph, ctx: Context, quantize: QuantizeWeights) -> Pair | None:
    """Both models at their inputs, with as many calibration samples as memory allows; None when there are none.

    Raises:
        ConfigError: a planned tensor has no range yet.
    """
    if ctx.calibration is None:
        return None
    reference, quantized = float_reference(graph, ctx), simulated(graph, ctx, quantize)
    feeds = affordable_samples(ctx.calibration, reference, ctx, copies=2)
    name = ctx.calibration.name
    return Pair(
        Prefix(reference, feeds, name=name, threads=ctx.threads),
        # As it is: with rewrites onnxruntime puts integer kernels in, some of which saturate on older CPUs, and aborts
        # the process on a piece of a recurrent network (Q/DQ beside Ifs, measured with 1.31.1).
        Prefix(quantized, feeds, name=name, threads=ctx.threads, optimize=False),
        quantized,
    )


def affordable_samples(
    dataset: Dataset, model: ModelProto, ctx: Context, copies: int = 1, *, most_bytes: int = _HELD_BYTES
) -> list[Feed]:
    """As many samples as `copies` models like this one can hold in a `Prefix` each; a remark says so if not all.

    `most_bytes` are for all copies, unless the user sets a budget; never more than a quarter of the free memory.
    """
    first = next(iter(dataset))
    held = ctx.resources.memory_budget or min(budget.default_budget(), most_bytes)
    most = affordable(model, {name: value.shape for name, value in first.items()}, held // copies)
    if dataset.count is not None and most < dataset.count:
        ctx.remarks.note(None, f"measured on the first {most} samples, whose tensors fit in {held / 2**20:,.0f} MiB")
    return list(dataset.limited(most))


def float_reference(graph: Graph, ctx: Context) -> ModelProto:
    """The float model as it was before a lossy pass changed a weight: each such pass asks for it first."""
    if ctx.reference is None:
        ctx.reference = to_proto(graph)
    return ctx.reference


def simulated(graph: Graph, ctx: Context, quantize: QuantizeWeights) -> ModelProto:
    """The Q/DQ model that `quantize` and `insert-qdq` would make now; the graph isn't changed.

    Raises:
        ConfigError: a planned tensor has no range yet.
    """
    copy = from_proto(to_proto(graph))
    copy.facts.plan = graph.plan.copy()
    quietly = replace(ctx, remarks=Remarks())
    quantize.run(copy, quietly)
    InsertQdq().run(copy, quietly)
    copy.sort()
    return to_proto(copy)
