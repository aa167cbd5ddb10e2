"""What engines make of Q/DQ: one tiny model per operator, scheme and placement, run in each engine that is installed.

    python -m benchmarks.probes [--engine …] [--op …] [--probe …]

The targets' tables in graphopt/targets cite these probes by name; a test holds both together.
"""

# Each of these modules adds its probes to the catalogue.
from benchmarks.probes import activations, convolutions, elementwise, moves, products
from benchmarks.probes.catalogue import PROBES, Probe

__all__ = ["PROBES", "Probe", "activations", "convolutions", "elementwise", "moves", "products"]
