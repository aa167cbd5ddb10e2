"""Running passes: the pass interface, the manager, and the instruments that watch it."""

from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import Context, Pass
from graphopt.pipeline.remarks import Remark, Remarks

__all__ = ["Context", "Instrument", "Pass", "PassManager", "PassRecord", "Remark", "Remarks"]
