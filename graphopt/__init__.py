"""graphopt: compile a trained float ONNX model into the one a backend runs fastest, measured and explained."""

from graphopt._version import __version__

__all__ = ["__version__"]
