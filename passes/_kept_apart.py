"""A function that changes nothing behind a product, so that onnxruntime sees its type as the model has it.

    DQ ─▶ Conv(W: f32) ─▶ Relu ─▶ Q        →    DQ ─▶ Conv(W: f32) ─▶ LeakyRelu(α = 1) ─▶ Relu ─▶ Q
    DQ ─▶ Gemm(W: DQ) ─▶ Relu ─▶ Softmax   →    DQ ─▶ Gemm(W: DQ) ─▶ LeakyRelu(α = 1) ─▶ Relu ─▶ Softmax
    MatMul(W: DQ in blocks) ─▶ Q           →    MatMul(W: DQ in blocks) ─▶ LeakyRelu(α = 1) ─▶ Q

- A Conv, ConvTranspose or Gemm in float between integers gets 8-bit weights of one scale per tensor when the model is
  loaded, without a word (WeightBiasQuantization): a layer that was kept in float would lose more than in 8 bits.
- A product in 8 bits with a Relu or Clip behind it, and no Q there, runs in float; so does one that Q and others read.
- Likewise one with weights in blocks of 4 bits where a Relu, a Clip or a Q is behind it.

A float convolution computes the LeakyRelu in its own kernel; behind a matrix product it passes once over the result.
"""

from __future__ import annotations

from graphopt.ir import Constant, Graph, Node, Variable
from graphopt.ir.block_weights import block_weight
from graphopt.ir.ops import LINEAR, MOVES_VALUES

# onnxruntime looks through these from a product to the Q behind it.
_ACTIVATIONS = ("Clip", "Relu")


def keep_apart(graph: Graph, node: Node) -> bool:
    """Put a LeakyRelu that changes nothing behind a linear node, where the engine would take it for something else."""
    result = _result(graph, node) if node.is_op(*LINEAR) else None
    if result is None or not _is_mistaken(graph, node, result):
        return False
    apart = graph.variable_like(result, f"{result.name}_apart")
    graph.replace_uses(result, apart)
    graph.add_node("LeakyRelu", [result], [apart], {"alpha": 1.0}, hint=f"{node.name}_apart")
    return True


def _is_mistaken(graph: Graph, node: Node, result: Variable) -> bool:
    """Whether a linear node with this result would not be computed as it is written."""
    reader = graph.sole_consumer(result)
    quantized = reader is not None and _leads_to_quantize(graph, reader)
    activated = reader is not None and reader.is_op(*_ACTIVATIONS)
    # In integers for some readers, and in float for others.
    both = reader is None and any(n.is_op("QuantizeLinear") for n in graph.consumers(result))
    if block_weight(node.inputs[1]) is not None:
        return quantized or activated or both
    if _is_dequantized(graph, node, 1):
        return node.is_op("Gemm", "MatMul") and ((activated and not quantized) or both)
    return quantized and not node.is_op("MatMul") and _is_dequantized(graph, node, 0)


def _result(graph: Graph, node: Node) -> Variable:
    """What the node makes, behind the Add of a MatMul's bias: both are one Gemm for the engine."""
    result = node.outputs[0]
    add = graph.sole_consumer(result) if node.is_op("MatMul") else None
    if add is None or not add.is_op("Add"):
        return result
    other = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
    maker = graph.producer(other)
    stored = maker.inputs[0] if maker is not None and maker.is_op("DequantizeLinear") else other
    return add.outputs[0] if isinstance(stored, Constant) else result


def _leads_to_quantize(graph: Graph, reader: Node) -> bool:
    """Whether nothing but activations and what moves values is between `reader`, which is passed too, and a Q."""
    node: Node | None = reader
    while node is not None and node.is_op(*_ACTIVATIONS, *MOVES_VALUES):
        following = graph.consumers(node.outputs[0])
        if following and all(n.is_op("QuantizeLinear") for n in following) and not graph.is_output(node.outputs[0]):
            return True
        node = graph.sole_consumer(node.outputs[0])
    return node is not None and node.is_op("QuantizeLinear")


def _is_dequantized(graph: Graph, node: Node, index: int) -> bool:
    """Whether an input comes out of a DequantizeLinear, perhaps behind operators that move values."""
    maker = graph.producer(node.inputs[index])
    while maker is not None and maker.is_op(*MOVES_VALUES):
        maker = graph.producer(maker.inputs[0])
    return maker is not None and maker.is_op("DequantizeLinear")
