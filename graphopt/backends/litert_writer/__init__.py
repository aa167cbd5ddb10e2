"""Write a .tflite from an ONNX model, with the scales and zero points of its Q/DQ pairs.

Three stages. `reading` makes operators over quantized values out of the Q/DQ graph: an int8 kernel is one operator
whose grids are those of its tensors, and a float island has a conversion at each edge. `wishes` and `layout` find the
axis order that each tensor is stored in: LiteRT's windows want channels last, most other operators don't care, and a
Transpose of the ONNX model is only another name for the axes. `emitter` and the `lower_*` modules write operators; a
TRANSPOSE appears where two of them can't agree. `flat` packs the file.
"""

from graphopt.backends.litert_writer.facts import open_sizes
from graphopt.backends.litert_writer.writing import Io, Written, write_tflite

__all__ = ["Io", "Written", "open_sizes", "write_tflite"]
