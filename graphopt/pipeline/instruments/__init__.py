"""The instruments: one a file, each a class that the manager calls around every pass.

The order in which they are given is the order of nesting. A good one is Timing, Limit, Reproducer, Verify, Numerics,
Dump: Dump writes a broken graph before Verify complains about it, and Timing measures the others too.
"""

from graphopt.pipeline.instruments.dump import Dump
from graphopt.pipeline.instruments.history import History, Step
from graphopt.pipeline.instruments.limit import Limit
from graphopt.pipeline.instruments.moments import Moment, Moments
from graphopt.pipeline.instruments.numerics import Numerics
from graphopt.pipeline.instruments.print_ir import PrintIr
from graphopt.pipeline.instruments.reproducer import Reproducer
from graphopt.pipeline.instruments.timing import PassTime, Timing
from graphopt.pipeline.instruments.verify import Verify

__all__ = [
    "Dump",
    "History",
    "Limit",
    "Moment",
    "Moments",
    "Numerics",
    "PassTime",
    "PrintIr",
    "Reproducer",
    "Step",
    "Timing",
    "Verify",
]
