"""What a quantized number is: schemes, ranges, scales and the plan. Pure data and arithmetic, no graph."""

from graphopt.quant.arithmetic import QuantParams, dequantize, quantize, solve_params
from graphopt.quant.plan import Edge, QuantPlan, TensorPlan
from graphopt.quant.rounding import round_balanced
from graphopt.quant.scheme import Range, Scheme

__all__ = [
    "Edge",
    "QuantParams",
    "QuantPlan",
    "Range",
    "Scheme",
    "TensorPlan",
    "dequantize",
    "quantize",
    "round_balanced",
    "solve_params",
]
