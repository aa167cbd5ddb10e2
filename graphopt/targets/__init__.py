"""Targets as data: what each backend wants from a quantized graph."""
