"""What a check found, and the catalogue of rules: what each looks for and the mend.

What a broken rule does to an engine, and whether that is an error, is in the target's table (`Target.breaches`): a
rule that a target doesn't list doesn't hold there.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.breaches import Severity


@dataclass(frozen=True)
class Rule:
    """One thing that is checked.

    Attributes:
        id: its name.
        forbids: what it looks for.
        mend: what to do.
        fixable: whether `lint --fix` does it without calibration data.
        in_place: whether it does so at the node itself, whatever the floats and the graph around it.
    """

    id: str
    forbids: str
    mend: str
    fixable: bool
    in_place: bool = False


@dataclass(frozen=True)
class Finding:
    """A place in a model that breaks a rule.

    Attributes:
        rule: the rule's id.
        severity: "error" where the engine refuses the model, computes something else or runs the layer in float;
            "warning" where it loses speed or accuracy.
        node: name of the node that it is about.
        op: its operator.
        tensor: the tensor that is at fault, or "".
        found: what was found there.
        why: what the target's engine does with it.
        mend: what to do.
        fixable: whether `lint --fix` can mend it.
        affects: names of the nodes whose integer kernels it concerns, `node` included.
    """

    rule: str
    severity: Severity
    node: str
    op: str
    tensor: str
    found: str
    why: str
    mend: str
    fixable: bool
    affects: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity} [{self.rule}] {self.op} '{self.node}': {self.found}; {self.why}; {self.mend}"


_RULES = (
    # How Q/DQ nodes are written.
    Rule("scale-rank", "one scale or zero point of shape [1]", "make scale and zero point scalars (rank 0)", True,
         in_place=True),
    Rule("scale-value", "a scale that is zero, negative, subnormal, infinite or NaN", "calibrate again", False),
    Rule("scale-constant", "a scale or zero point computed at run time", "store it as an initializer", False),
    Rule("opset", "Q/DQ that the model's opset doesn't have", "export with a newer opset", False),
    Rule("block-scale", "a scale per block", "quantize with one scale per tensor or channel", False),
    Rule("block-form", "4-bit weights in blocks that the engine has no kernel for",
         "quantize the float model again with quantize-weights{bits=4} for this target", False),
    Rule("integer-operator", "integer operators instead of Q/DQ around float ones", "use the Q/DQ form", True),
    Rule("contrib-operator", "integer operators of onnxruntime's own (com.microsoft)", "use the Q/DQ form", True),
    Rule("loose-integers", "DequantizeLinear of integers that another operator computes",
         "put Q/DQ around that operator", True),
    Rule("float-input", "QuantizeLinear of a tensor that isn't float", "quantize the float tensor before it", False),
    Rule("pair-mismatch", "a DequantizeLinear with another scale, zero point or type than its QuantizeLinear",
         "give both the same", False),
    Rule("double-pair", "a Q/DQ pair directly behind another one", "keep one of them", True),
    # Which integers activations are.
    Rule("activation-type", "8-bit activations of the other signedness", "quantize to the target's type", True),
    Rule("activation-type-shared", "8-bit activations of the other signedness that several nodes read",
         "quantize to the target's type", True),
    Rule("activation-bits", "activations that don't have 8 bits", "quantize to 8 bits", True),
    Rule("activation-zero-point", "a zero point where the kernel wants symmetric integers",
         "quantize symmetrically", True),
    Rule("activation-per-channel", "activations with a scale per channel", "use one scale", True),
    Rule("activation-clamp", "integers that reach beyond what a fused activation lets through",
         "let the integers begin and end where the activation does", True),
    Rule("signed-concat", "a Concat of int8 that a convolution reads", "quantize what is joined to uint8", True),
    Rule("counted-pads", "an average of integers over padding that is counted, with a zero point",
         "leave the pool in float", True),
    Rule("constant-pair", "a pair behind a float constant that is added or multiplied", "leave it in float", True),
    Rule("mixed-ranges", "one scale for joined tensors of very different range (boxes and scores)",
         "leave the Concat in float, or quantize its inputs only", False),
    Rule("same-scale", "different scales around an operator that only moves values", "give all of them one", True),
    Rule("rescaling", "different scales around an operator that can convert between them, at a cost",
         "give all of them one", True),
    Rule("fixed-output", "an output that hasn't the scale and zero point that the kernel prescribes",
         "use the prescribed ones", True),
    # Which integers weights and biases are.
    Rule("weight-type", "weights that aren't int8", "quantize them to int8", True),
    Rule("weight-zero-point", "weights with a zero point", "quantize them symmetrically", True),
    Rule("weight-axis", "weight scales along an axis that isn't the output channels'",
         "one scale per output channel", True),
    Rule("weight-stack", "a scale per channel for a stack of matrices", "one scale for the stack", True),
    Rule("weight-narrow", "weights that use −128", "quantize them to [−127, 127]", True),
    Rule("bias-int32", "an int32 bias behind DequantizeLinear", "store the bias in float", True),
    Rule("bias-float", "a float bias on an integer layer", "store the bias as int32 in units of s_x · s_w", True),
    Rule("bias-bits", "a bias in 8 or 16 bits", "store it as the target wants it", True),
    Rule("bias-scale", "an int32 bias whose scale isn't s_x · s_w", "store the bias in units of s_x · s_w", True),
    Rule("bias-zero-point", "an int32 bias with a zero point", "store the bias with zero point 0", True),
    Rule("bias-missing", "no bias on a convolution whose result has several readers", "give it a tiny bias", True),
    # Where Q/DQ is.
    Rule("half-quantized", "a layer with only its weight, or only its activation, quantized",
         "quantize the other one, too", False),
    Rule("partial-operands", "an operator with only some of its inputs quantized", "quantize the others, too", False),
    Rule("float-between", "an operator between integer layers whose inputs aren't quantized",
         "quantize its inputs", False),
    Rule("float-output", "a result that isn't quantized, or not for all its readers",
         "quantize it behind the fused activation, for every reader", False),
    Rule("inside-kernel", "Q/DQ between an operator and what the engine fuses with it", "quantize behind both", True),
    Rule("residual-fusion", "Q/DQ between a convolution and the Add that it could be fused with",
         "quantize the skip branch only", True),
    Rule("pair-behind-move", "Q/DQ on both sides of an operator that only moves values",
         "keep the pair before it", True),
    Rule("useless-pair", "Q/DQ whose readers all compute in float", "take it out", True),
    # Where types change.
    Rule("lone-float32", "a float32 layer alone between Casts from and to 16 bits",
         "put a Clip without bounds before the second Cast", False),
)  # fmt: skip

RULES: dict[str, Rule] = {rule.id: rule for rule in _RULES}
