"""Float32 layers between Casts, which the engine computes in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.analysis.legality.scene import Found, Scene
from graphopt.analysis.precision.lone_layers import lone_layer


def check_casts(scene: Scene) -> Iterator[Found]:
    """Each linear layer of the main graph that stands alone between Casts from and to 16 bits."""
    if not scene.target.fuses_casts:
        return
    for node in scene.graph.nodes:
        layer = lone_layer(scene.graph, node)
        if layer is not None:
            yield Found("lone-float32", layer, f"Casts from and to 16 bits around {layer} alone", node.inputs[0].name)
