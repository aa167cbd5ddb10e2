"""Rules about where Q/DQ is: what plan-quantization would want of the float model against what is there."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.analysis.legality.grid import Grid
from graphopt.analysis.legality.scene import Found, Scene, is_integer_read
from graphopt.ir import Constant, Node, Tensor, fixed_value
from graphopt.ir.ops import LINEAR
from graphopt.targets import OpRule, Role


def check_layers(scene: Scene) -> Iterator[Found]:
    """Linear operators with integers on one side only."""
    for linear in scene.placement.linears:
        data = scene.in_integers(linear.node, linear.data_index)
        weight = scene.data_grid(linear.node, linear.weight_index)
        if (data is None) == (weight is None):
            continue
        missing, there = (linear.data, "weight") if data is None else (linear.weight, "activation")
        text = f"only its {there} is quantized: '{missing.name}' is float"
        # A weight's range is in the model; an activation's may be.
        fixable = True if weight is None else None
        yield Found("half-quantized", linear.node, text, missing.name, fixable=fixable)


def check_operands(scene: Scene) -> Iterator[Found]:
    """Other operators that the target runs in integers here, and whose inputs are not, or not all, integers."""
    for node in scene.placement.quantized:
        if node.is_op(*LINEAR):
            continue
        wanted = [i for i, _ in node.present_inputs() if (node, i) in scene.placement.uses.get(node.inputs[i], {})]
        missing = [node.inputs[i] for i in wanted if scene.in_integers(node, i) is None]
        if missing and len(missing) < len(wanted):
            names = ", ".join(f"'{t.name}'" for t in missing)
            yield Found("partial-operands", node, f"its input {names} is float, the other is quantized",
                        missing[0].name, _near(scene, node))  # fmt: skip
        elif missing and not _begins_later(scene, node, missing[0]):
            yield Found("float-between", node, f"its input '{missing[0].name}' isn't quantized",
                        missing[0].name, _near(scene, node))  # fmt: skip


def check_results(scene: Scene) -> Iterator[Found]:
    """Results that an integer kernel must write as integers, for every reader."""
    for tensor, node in scene.placement.writers.items():
        if not _reads_integers(scene, node):
            continue
        floats = [n for n, i in scene.inner.uses(tensor) if not _takes_integers(scene, n, i)]
        position = next((k for k, t in enumerate(scene.inner.outputs) if t is tensor), None)
        if position is not None and position not in scene.skeleton.outputs and tensor not in _lone(scene):
            text = f"its result '{tensor.name}' is a graph output in float"
        elif floats:
            text = f"its result '{tensor.name}' is read in float by {floats[0]}"
        else:
            continue
        yield Found("float-output", node, text, tensor.name, tuple(floats))


def check_insides(scene: Scene) -> Iterator[Found]:
    """Pairs between an operator and what the engine runs inside its kernel."""
    for tensor, node in scene.placement.inside.items():
        for grid in scene.skeleton.writes.get(tensor, [])[:1]:
            if isinstance(tensor, Constant):
                continue
            readers = scene.inner.consumers(tensor)
            text = f"it stands between {node} and {readers[0] if readers else 'its readers'}"
            yield Found("inside-kernel", grid.node, text, tensor.name, (node, *readers))


def check_unwanted(scene: Scene) -> Iterator[Found]:
    """Pairs that no integer kernel reads, or that keep kernels from being fused."""
    placement = scene.placement
    for tensor, grids in scene.skeleton.writes.items():
        if tensor in placement.inside or isinstance(tensor, Constant):
            continue
        uses = [(n, i) for n, i in scene.inner.uses(tensor) if is_integer_read(scene.skeleton.read(n, i))]
        skips = [n for n, i in uses if _is_fusable_operand(scene, n, i)]
        for node in skips:
            text = f"{node} reads '{tensor.name}' in integers, and could add it inside the convolution"
            yield Found("residual-fusion", grids[0].node, text, tensor.name, (node,))
        wanted = tensor in placement.whole or any((n, i) in placement.uses.get(tensor, {}) for n, i in uses)
        if wanted or skips:
            continue
        producer = tensor.inputs[0] if tensor.inputs else None
        rule = None if producer is None else _mover_rule(scene, producer)
        if rule is not None and producer is not None and not rule.output_quantized and uses:
            if scene.in_integers(producer, 0) is None:
                continue  # the first pair: it could as well stand before
            text = f"'{tensor.name}' is moved by {producer}, whose input is quantized already"
            yield Found("pair-behind-move", grids[0].node, text, tensor.name, (producer, *(n for n, _ in uses)))
        elif uses or any(scene.inner.outputs[k] is tensor for k in scene.skeleton.outputs):
            names = ", ".join(str(n) for n in dict.fromkeys(n for n, _ in uses)) or "a graph output"
            text = f"'{tensor.name}' is read by {names}: none computes with integers here"
            yield Found("useless-pair", grids[0].node, text, tensor.name)


def check_scales(scene: Scene) -> Iterator[Found]:
    """One scale around operators that move values, and prescribed ones."""
    for node in scene.placement.quantized:
        table = scene.table(node)
        rule = table.rules[node.op]
        if rule.role is Role.SAME_SCALE:
            yield from _same_scale(scene, node, rule)
        for output in node.present_outputs():
            grid = _written(scene, output)
            if rule.fixed_output is None or grid is None or grid.scale is None or grid.zero_point is None:
                continue
            scale, zero_point = rule.fixed_output
            if grid.scale.size != 1 or abs(float(grid.scale.item()) - scale) > 1e-6 * scale:
                text = f"'{output.name}' is {grid}; expected scale {scale:g}, zero point {zero_point}"
                yield Found("fixed-output", node, text, output.name)
            elif grid.zero_point.item() != zero_point and str(grid.dtype) == table.activation.dtype:
                text = f"'{output.name}' is {grid}; expected zero point {zero_point}"
                yield Found("fixed-output", node, text, output.name)


def _same_scale(scene: Scene, node: Node, rule: OpRule) -> Iterator[Found]:
    outputs = [t for t in node.present_outputs() if scene.placement.wanted(t) or t in scene.skeleton.writes]
    around: list[tuple[Tensor, Grid]] = []
    for index, tensor in node.present_inputs():
        grid = scene.in_integers(node, index)
        if grid is not None and scene.share(tensor, node.outputs[0]) and not isinstance(tensor, Constant):
            around.append((tensor, grid))
    for tensor in outputs if rule.output_quantized else []:
        grid = _written(scene, tensor)
        if grid is not None:
            around.append((tensor, grid))
    for tensor, grid in around[1:]:
        if not grid.same_as(around[0][1]):
            text = f"'{around[0][0].name}' is {around[0][1]}; '{tensor.name}' is {grid}"
            yield Found("rescaling" if rule.rescales else "same-scale", node, text, tensor.name)
            return


def check_clamps(scene: Scene) -> Iterator[Found]:
    """The integers of a fused Relu or Clip begin where it does, or it stays an operator of its own."""
    if "activation-clamp" not in scene.target.breaches:
        return
    for tensor, writer in scene.placement.writers.items():
        activation = tensor.inputs[0] if tensor.inputs else None
        if activation is None or not activation.is_op("Relu", "Clip") or not _reads_integers(scene, writer):
            continue
        grid = _written(scene, tensor)
        covered = None if grid is None else grid.range()
        if grid is None or covered is None or grid.scale is None:
            continue
        # A bound is rounded to the grid before it is compared.
        half = float(grid.scale.max()) / 2
        (low, high), (bottom, top) = _bounds(activation), (float(covered.low), float(covered.high))
        if (low is not None and bottom < low - half) or (high is not None and top > high + half):
            text = f"'{tensor.name}' reaches from {bottom:.4g} to {top:.4g} behind {activation}"
            yield Found("activation-clamp", writer, text, tensor.name, (activation,))


def _bounds(activation: Node) -> tuple[float | None, float | None]:
    if activation.op == "Relu":
        return 0.0, None
    low, high = (fixed_value(activation.input(i)) for i in (1, 2))
    return (None if low is None else float(low)), (None if high is None else float(high))


def _reads_integers(scene: Scene, node: Node) -> bool:
    """Whether the model wants `node` computed in integers."""
    wanted = [i for i, t in node.present_inputs() if (node, i) in scene.placement.uses.get(t, {})]
    return bool(wanted) and all(scene.in_integers(node, i) is not None for i in wanted)


def _takes_integers(scene: Scene, node: Node, index: int) -> bool:
    # A QuantizeLinear that is left in the float model feeds a graph output, or an operator on integers.
    return bool(scene.skeleton.read(node, index)) or node.is_op("QuantizeLinear")


def _lone(scene: Scene) -> frozenset[Tensor]:
    return frozenset(n.inputs[0] for n in scene.inner.nodes if n.is_op("QuantizeLinear"))


def _written(scene: Scene, tensor: Tensor) -> Grid | None:
    grids = scene.skeleton.writes.get(tensor)
    return grids[0] if grids else None


def _mover_rule(scene: Scene, node: Node) -> OpRule | None:
    rule = scene.target.rules.get(node.op) if node in scene.placement.quantized else None
    return rule if rule is not None and rule.role is Role.SAME_SCALE else None


def _is_fusable_operand(scene: Scene, node: Node, index: int) -> bool:
    """Whether this operand of a quantized Add should have stayed float to be fused with its convolution."""
    rule = scene.target.rules.get(node.op)
    if rule is None or rule.operands == "all" or node not in scene.placement.quantized:
        return False
    return (node, index) not in scene.placement.uses.get(node.inputs[index], {})


def _begins_later(scene: Scene, node: Node, data: Tensor) -> bool:
    """Whether values are quantized behind a mover instead of before it, where no integer kernel comes before."""
    return _mover_rule(scene, node) is not None and not any(n in scene.placement.quantized for n in data.inputs)


def _near(scene: Scene, node: Node) -> tuple[Node, ...]:
    return tuple(n for t in node.inputs for n in t.inputs if n in scene.placement.quantized)
