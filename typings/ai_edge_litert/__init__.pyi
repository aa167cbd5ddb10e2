# What backends/ uses of ai-edge-litert 2.3.0 (it ships no types).
__version__: str
