"""What regions take on a GPU that isn't here: the larger of its arithmetic and its memory traffic. An estimate.

    seconds = max( 2 · MACs / peak operations ,  bytes read and written / bandwidth ) + launch of a kernel
    conversion at a border = (bytes in one form + bytes in the other) / bandwidth + launch

No kernel reaches these peaks, small layers least of all. What is left is which regions are held up by arithmetic, where
few bits pay most, and which by memory, where they pay as far as tensors shrink.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.analysis.macs import linear_kind, node_macs, sizes_of_sample
from graphopt.analysis.precision.costs import size_costs
from graphopt.analysis.precision.types import Costs, Region, Regions
from graphopt.errors import ConfigError, nearest
from graphopt.ir import Graph
from graphopt.quant.precision import PRECISIONS

# An order of magnitude, assumed: it keeps many small kernels from looking free.
LAUNCH_SECONDS = 2e-6
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int16": 2}


@dataclass(frozen=True)
class Gpu:
    """A reference card of one compute capability; peaks of dense matrices.

    Attributes:
        card: its name.
        int8: 8-bit integer operations a second, on tensor cores.
        float16: float16 and bfloat16 operations a second, summed in float32, on tensor cores.
        float32: operations a second on float32 values: TF32 on tensor cores, which TensorRT takes by default.
        bandwidth: bytes a second of its memory.
        source: where the figures come from.
    """

    card: str
    int8: float
    float16: float
    float32: float
    bandwidth: float
    source: str

    def operations(self, precision: str) -> float:
        """Operations a second of arithmetic in a precision."""
        form = PRECISIONS[precision].form
        return self.int8 if form == "int8" else self.float16 if form in ("float16", "bfloat16") else self.float32


GPUS: Mapping[str, Gpu] = {
    "SM80": Gpu("A100 80GB SXM", 624e12, 312e12, 156e12, 2039e9, "NVIDIA A100 datasheet"),
    "SM86": Gpu("GeForce RTX 3090", 284.7e12, 71.2e12, 35.6e12, 936e9, "NVIDIA Ampere GA102 architecture whitepaper"),
    "SM89": Gpu("GeForce RTX 4090", 660.6e12, 165.2e12, 82.6e12, 1008e9, "NVIDIA Ada architecture whitepaper"),
    "SM90": Gpu("H100 SXM", 1978.9e12, 989.4e12, 494.7e12, 3350e9, "NVIDIA H100 datasheet"),
    "SM120": Gpu(
        "GeForce RTX 5090", 838e12, 209.5e12, 104.8e12, 1792e9, "NVIDIA RTX Blackwell architecture whitepaper"
    ),
    # Arithmetic of 8 bits and more in the proportions of the RTX 5090 to what is published: 1000 TOPS of sparse FP4.
    "SM121": Gpu("DGX Spark", 250e12, 62.5e12, 31.2e12, 273e9, "NVIDIA DGX Spark datasheet"),
}


def roofline_costs(
    graph: Graph, regions: Regions, *, device: str, shapes: Mapping[str, Sequence[int]] | None = None
) -> Costs:
    """An estimate of the seconds of each region in each precision on the reference card of a device.

    A region reads its weights and what comes in over its borders, and writes its result, all once and in its
    precision's form; what it carries is free. Regions without arithmetic of matrices are held up by memory alone.

    Args:
        graph: with the plan for 8 bits, and shapes inferred.
        regions: of this graph.
        device: compute capability: "SM86".
        shapes: those of tensors for one sample, where the graph leaves them open. What isn't known counts nothing;
            `source` says so.

    Raises:
        ConfigError: there are no figures for this device.
    """
    if device not in GPUS:
        raise ConfigError(f"there are no figures to estimate the latency on '{device}' with: {nearest(device, GPUS)}")
    gpu = GPUS[device]
    elements = {name: _elements(sizes_of_sample(tensor, shapes)) for name, tensor in graph.tensors().items()}
    macs = {node.name: node_macs(node, shapes) for node in graph.nodes if linear_kind(node)}
    weights = size_costs(graph, regions).regions
    moved = _moved(regions, elements)
    found: dict[tuple[str, str], float] = {}
    for region in regions.regions:
        operations = 2.0 * sum(macs.get(node) or 0 for node in region.nodes)
        for precision in region.precisions:
            held = weights[region.name, precision] + moved[region.name] * _BYTES[PRECISIONS[precision].form]
            taken = max(operations / gpu.operations(precision), held / gpu.bandwidth)
            found[region.name, precision] = taken + LAUNCH_SECONDS
    unknown = sum(count is None for count in macs.values()) + sum(
        elements.get(b.tensor) is None for b in regions.borders
    )
    note = f"; {unknown} layers and tensors of unknown size count nothing" if unknown else ""
    source = f"roofline of {device} ({gpu.card}; {gpu.source}), an estimate: nothing was run{note}"
    return Costs("latency", found, dict(_conversions(regions, elements, gpu)), 0.0, source, estimated=True)


def _moved(regions: Regions, elements: Mapping[str, int | None]) -> dict[str, int]:
    """Region → values that it reads over borders, and writes."""
    found = {region.name: elements.get(region.result) or 0 for region in regions.regions}
    for border in regions.borders:
        for reader in border.readers:
            found[reader] += elements.get(border.tensor) or 0
    return found


def _conversions(
    regions: Regions, elements: Mapping[str, int | None], gpu: Gpu
) -> Iterable[tuple[tuple[str, str], float]]:
    by_name = regions.by_name
    for border in regions.borders:
        written = {"float32"} if border.writer is None else _forms([by_name[border.writer]])
        read = _forms(by_name[reader] for reader in border.readers)
        for form in sorted(read | ({"float32"} if border.is_output else set[str]())):
            others = [_BYTES[other] for other in written if other != form]
            if others:
                moved = (elements.get(border.tensor) or 0) * (_BYTES[form] + max(others))
                yield (border.tensor, form), moved / gpu.bandwidth + LAUNCH_SECONDS


def _forms(regions: Iterable[Region]) -> set[str]:
    """The forms of what regions read, in any of their precisions."""
    return {str(PRECISIONS[precision].form) for region in regions for precision in region.precisions}


def _elements(sizes: Sequence[int | None] | None) -> int | None:
    """Values in a tensor, or None where a size isn't known."""
    known = [size for size in sizes or () if size is not None]
    return prod(known) if sizes is not None and len(known) == len(sizes) else None
