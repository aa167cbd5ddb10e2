"""What a target is: frozen data that planning, Q/DQ insertion, checks and the README's support table all read.

A backend's quirk belongs in its table. Code that compares target names means that the table lacks a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from graphopt.quant import Scheme
from graphopt.quant.precision import PrecisionName
from graphopt.targets.breaches import Breach


class Role(StrEnum):
    """What an operator does to quantized values."""

    LINEAR = "linear"  # constant weight, integer accumulation: always worth running in 8 bits
    COMPUTE = "compute"  # an integer kernel with a scale of its own for each input and output
    SAME_SCALE = "same scale"  # moves or selects values: inputs and outputs share one scale
    FIXED_OUTPUT = "fixed output"  # an integer kernel that prescribes its output's scale and zero point


Operands = Literal["all", "skip", "all but one"]
"""Which activations of an elementwise operator are quantized: all; all but the one that fuses into its producer, and
none where there is no such one ("skip"); or then all ("all but one").
"""

Bias = Literal["float", "int32"]

FusedPattern = Literal["layer-norm", "rms-norm", "erf-gelu", "erf-gelu-div", "tanh-gelu"]
"""What exporters write in several operators, ending in or beginning with a constant scale (`analysis.fused_scales`)."""


@dataclass(frozen=True)
class OpRule:
    """How one operator is quantized for one target.

    Attributes:
        role: see `Role`.
        output_quantized: the integer kernel exists only with a Q on the output (after fused activations). Without
            it, an operator of `Role.SAME_SCALE` has Q/DQ before it alone: the engine carries the scale through.
        needs_reader: the integer kernel of an operator with a float result runs only where that is read quantized.
        rescales: for an operator of `Role.SAME_SCALE`: its kernel also takes other scales on each side. The result of a
            fused activation that is joined keeps its own then, unless all operands are alike.
        operands: which inputs get Q/DQ, for elementwise operators.
        signed_input: scheme of an activation that can be negative, where the kernel can't take the target's own.
        fixed_output: (scale, zero point) of the output, for `Role.FIXED_OUTPUT`.
        conditions: names of facts about the node, in `ir.conditions`, that must all hold.
        source: where the rule comes from: a backend document, or what was measured.
    """

    role: Role
    output_quantized: bool = False
    needs_reader: bool = False
    rescales: bool = False
    operands: Operands = "all"
    signed_input: Scheme | None = None
    fixed_output: tuple[float, int] | None = None
    conditions: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class PrecisionRule:
    """One of the precisions (`quant.precision`) that an engine computes in.

    Attributes:
        written: how a model says so, in ONNX.
        borders: which conversions its borders cost, beside float32's own form; empty: none.
        operators: those that have it; None: all that have the type, for "int8" all that `Target.rules` has.
        without: operators that lack it, though ONNX defines them for the type.
        conditions: names of facts about the node, in `ir.conditions`, that must all hold.
        devices: those that have it, as the engine names them; empty: every one.
        source: where it comes from: a document, or what was measured.
    """

    written: str
    borders: str = ""
    operators: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    conditions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    source: str = ""

    @property
    def where(self) -> str:
        """The operators in words: "Gemm, MatMul", "all but GRU"; "all"."""
        if self.operators is not None:
            return ", ".join(sorted(self.operators))
        return f"all but {', '.join(sorted(self.without))}" if self.without else "all"


@dataclass(frozen=True)
class BlockRule:
    """How weights of "int4-weights" are stored: DequantizeLinear in blocks along the summed axis.

    Attributes:
        sizes: numbers of weights that may share a scale, the last of which may be fewer; empty: any number that
            divides that of the inputs.
        zero_points: blocks may have zero points other than 0 (uint4).
        signed: scales may be negative.
        transposed: a Gemm may keep its transB; else the weight is turned over.
        shared: several nodes may read one weight.
        source: what was measured.
    """

    sizes: tuple[int, ...] = ()
    zero_points: bool = True
    signed: bool = True
    transposed: bool = True
    shared: bool = True
    source: str = ""


@dataclass(frozen=True)
class Target:
    """A backend and what it wants from a quantized model.

    Attributes:
        name: as on the command line.
        title: as its makers write it.
        engine: the module of `graphopt.backends` that runs or builds its models and says what became of each node;
            empty: there is none here.
        activation: scheme of activations.
        weight: scheme of constant weights; the channel axis is filled in per operator (output channels).
        bias: "int32": DequantizeLinear of an int32 with scale s_x·s_w, zero point 0; "float": as it is.
        shared_result_bias: what a convolution is given as bias when it has none, or zeros, and its result is read
            more than once; None: nothing.
        moves_strides: it moves strides of pointwise convolutions past the DequantizeLinear before them, if all readers
            have them, and runs the convolutions in float then.
        mistakes_products: it rounds the weights of float products between integers, and runs some products in float
            whose weights are integers, for what is behind them: Relu, Clip, Q.
        fused_activations: operators that run inside the integer kernel before them, so that Q comes after them.
        fused_conditions: what must hold for an operator of `fused_activations` to be fused.
        rules: operator → rule. An operator without one runs in float.
        wide_rules: likewise, of its kernels with 16-bit activations (`wide`); empty: it has none.
        quantize_everywhere: the engine wants whole integer regions: wherever an input is quantized already and a
            rule exists, quantize the operator; else only what ends in a linear operator is.
        fuse_matmul_add: the engine prefers Gemm to MatMul + Add.
        fused_patterns: what the engine runs as one operator, or in the kernel before, only with its constant scale.
        float_reasons: operator → why it stays float, for remarks.
        breaches: rule of `graphopt lint` → what the engine does with a model that breaks it.
        precisions: what its engine computes in, by name (`quant.precision`), the fewest bits first.
        block_weights: how 4-bit weights in blocks are stored; None: the engine has no kernels for them.
        own_format: suffix of the engine's own files, which graphopt writes besides .onnx; empty: it writes none.
        fuses_casts: a linear node alone between Casts from and to a 16-bit type is computed in that type, with its
            weights in it; behind a Clip without bounds it isn't.
        weight_per_channel: weights have a scale for each output channel; else one for all.
    """

    name: str
    title: str
    engine: str
    activation: Scheme
    weight: Scheme
    bias: Bias
    fused_activations: frozenset[str]
    rules: Mapping[str, OpRule]
    quantize_everywhere: bool = False
    fuse_matmul_add: bool = True
    fused_patterns: frozenset[FusedPattern] = frozenset()
    shared_result_bias: float | None = None
    moves_strides: bool = False
    mistakes_products: bool = False
    fused_conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    float_reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    breaches: Mapping[str, Breach] = field(default_factory=dict[str, Breach])
    precisions: Mapping[PrecisionName, PrecisionRule] = field(default_factory=dict[PrecisionName, PrecisionRule])
    own_format: str = ""
    fuses_casts: bool = False
    block_weights: BlockRule | None = None
    wide_rules: Mapping[str, OpRule] = field(default_factory=dict[str, OpRule])
    weight_per_channel: bool = True

    @property
    def wide(self) -> Target | None:
        """The same engine with 16-bit activations and a float bias, which its own format stores; None: it has none."""
        if not self.wide_rules:
            return None
        return replace(self, activation=Scheme("int16", symmetric=True), bias="float", rules=self.wide_rules)

    def at(self, precision: str | None) -> Target:
        """Its table for integer nodes that were assigned a precision, or none: `wide` for "int16x8"."""
        return self.wide or self if precision == "int16x8" else self
