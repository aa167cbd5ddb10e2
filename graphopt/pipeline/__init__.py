"""Running passes: the pass interface, the manager, and the instruments that watch it."""

from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.remarks import Remark, Remarks

__all__ = ["Context", "Pass", "Remark", "Remarks"]
