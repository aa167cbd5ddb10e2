"""How long each region takes in each precision, and each conversion between them, in an engine on this machine.

    seconds of a region = its kernels' time in the engine's profile, without what profiling itself adds

The float model and a model in each precision are profiled, and timed without profiling in turns, so that the table
gives back what each of them really takes; what a call of an empty model takes is fixed. Conversions that none of these
models has are measured in a small model of their own (`conversion_model`) with tensors of the same shapes.

What it can't know: what a kernel costs that is fused in all of these models and wouldn't be in a mixed one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphopt.analysis.precision.types import Assignment, Border, Costs, Regions
from graphopt.backends.conversion_model import Converted, conversion_model
from graphopt.backends.engines import Engine
from graphopt.backends.kernel_times import Correction, KernelTime
from graphopt.backends.latency import undisturbed_seconds
from graphopt.backends.region_times import RegionTimes, region_times, uniform
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import UnsupportedError
from graphopt.quant.precision import PRECISIONS

BUDGET_SECONDS = 20.0
_FLOAT = "float32"
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
# A scale outside of this tells of a disturbed measurement, not of the profile's own cost.
_LEAST_SCALE, _LARGEST_SCALE = 0.5, 2.0
# Parts of a model's time: what belongs to no region, from which on it is said; what a call can be at most.
_WORTH_SAYING, _LARGEST_CALL = 0.01, 0.9
_CONVERTED_BETWEEN = ("float32", "int8")

Feeds = Sequence[Mapping[str, NDArray[Any]]]
Profile = Callable[[ModelProto, Feeds], list[KernelTime]]


def latency_costs(
    float_model: ModelProto,
    models: Mapping[str, ModelProto],
    regions: Regions,
    engine: Engine,
    feeds: Feeds,
    *,
    threads: int | None = None,
    budget: float = BUDGET_SECONDS,
) -> Costs:
    """Measure the regions of a model.

    Args:
        float_model: its node names are those in `regions`.
        models: precision → the model with the regions in it that can have it, written as the engine wants it; nodes
            keep their names.
        regions: of the float model.
        engine: what runs them.
        feeds: samples.
        threads: of the engine; None leaves it to the engine, as users run it.
        budget: seconds to measure, about; compiling the models comes on top.

    Raises:
        UnsupportedError: the engine isn't here, doesn't run on this machine, or has no profile.
        CalibrationError: there is no sample, or one can't be run.
    """
    engine.require()
    if engine.profile is None or engine.run is None:
        raise UnsupportedError(f"{engine.title} tells no times of its kernels here: take 'bits' as the cost instead")
    run, profiler = engine.run, engine.profile
    others = {name: model for name, model in models.items() if name != _FLOAT}
    # Each model's profile, as many timings in turns, and the conversions.
    share = budget / (2 * len(others) + 3)

    def profile(model: ModelProto, samples: Feeds, seconds: float) -> list[KernelTime]:
        return profiler(model, samples, threads, seconds)

    def calls(model: ModelProto, samples: Feeds) -> Iterator[Any]:
        return iter(run(model, itertools.cycle(samples), threads))

    every = {_FLOAT: float_model, **others}
    nothing, sample = _empty_model()
    runs = [calls(nothing, [sample]), *(calls(model, feeds) for model in every.values())]
    empty, *taken = undisturbed_seconds(runs, share * len(every))
    call = min(empty, _LARGEST_CALL * min(taken))
    seconds = {name: whole - call for name, whole in zip(every, taken, strict=True)}
    assignments = {name: uniform(regions, name, model) for name, model in every.items()}
    times: dict[str, RegionTimes] = {}
    corrections: list[Correction] = []
    for name, model in every.items():
        kernels = profile(model, feeds, share)
        corrections.append(Correction.to(kernels, seconds[name]))
        times[name] = region_times(corrections[-1].of(kernels), regions, assignments[name])
        seconds[name] = times[name].total
    table = _Table(regions, times[_FLOAT])
    for name in others:
        table.add(name, times[name], seconds[name], assignments[name])
    mean = Correction(
        sum(c.overhead for c in corrections) / len(corrections), sum(c.scale for c in corrections) / len(corrections)
    )
    table.convert(float_model, feeds, lambda model, samples: mean.of(profile(model, samples, share)))
    unmeasured = table.fill()
    notes = [f"profile of {engine.title} {version(engine.library)} on this machine"]
    if table.fixed > _WORTH_SAYING * seconds[_FLOAT]:
        notes.append(f"{table.fixed / seconds[_FLOAT]:.0%} of the float model's time belongs to no region")
    if unmeasured:
        notes.append(f"{', '.join(unmeasured)} taken to be as fast as float32")
    return Costs("latency", table.seconds, table.conversions, call + table.fixed, "; ".join(notes))


class _Table:
    """Regions and conversions, in seconds of a call without profiling."""

    def __init__(self, regions: Regions, times: RegionTimes) -> None:
        self.regions = regions
        self.fixed = times.fixed
        self.seconds = {(name, _FLOAT): taken for name, taken in times.regions.items()}
        self.conversions: dict[tuple[str, str], float] = {}

    def add(self, precision: str, times: RegionTimes, seconds: float, assignment: Assignment) -> None:
        """A model in another precision, `seconds` a call, whose sum the table shall give back."""
        own = {name for name, chosen in assignment.items() if chosen == precision}
        known = self.fixed + sum(self.seconds[name, _FLOAT] for name in assignment if name not in own)
        new = sum(times.regions[name] for name in own) + sum(times.conversions.values())
        scale = min(max((seconds - known) / max(new, 1e-9), _LEAST_SCALE), _LARGEST_SCALE)
        for region in self.regions.regions:
            if precision in region.precisions:
                self.seconds[region.name, precision] = times.regions[region.name] * (scale if region.name in own else 1)
        for key, taken in times.conversions.items():
            self.conversions.setdefault(key, taken * scale)

    def convert(self, model: ModelProto, feeds: Feeds, profile: Profile) -> None:
        """Measure conversions that none of the models has."""
        missing = [key for key in self.possible() if key not in self.conversions]
        if not missing:
            return
        borders = {border.tensor: border for border in self.regions.borders}
        shapes = _shapes(model, [tensor for tensor, _ in missing], feeds[0])
        wanted = {key: self.converted(model, borders[key[0]], shapes[key[0]]) for key in missing}
        writes = any(region.writes_form for region in self.regions.regions)
        small = conversion_model(
            list(dict.fromkeys(c for c in wanted.values() if 0 not in c.shape)), writes_form=writes
        )
        times = region_times(profile(small.model, [small.feed]), small.regions, small.assignment)
        for key, converted in wanted.items():
            place = small.places.get((converted, key[1]), "")
            self.conversions[key] = times.conversions.get((place, key[1]), 0.0)

    def converted(self, model: ModelProto, border: Border, shape: tuple[int, ...]) -> Converted:
        """What lies at a border."""
        by_name = self.regions.by_name
        names = (*border.readers, *((border.writer,) if border.writer is not None else ()))
        if len(shape) != 4 or all(by_name[name].op not in _CONVOLUTIONS for name in names):
            return Converted(shape, convolved=False)
        carried = () if border.writer is None else by_name[border.writer].carried
        pools = (
            n for n in model.graph.node if n.op_type == "MaxPool" and n.name in carried and border.tensor in n.input
        )
        return Converted(shape, True, next((_attributes(pool) for pool in pools), ()))

    def fill(self) -> list[str]:
        """Give precisions that no model was in what float32 takes; their names."""
        missing = [(r.name, p) for r in self.regions.regions for p in r.precisions if (r.name, p) not in self.seconds]
        self.seconds.update((key, self.seconds[key[0], _FLOAT]) for key in missing)
        return sorted({precision for _, precision in missing})

    def possible(self) -> list[tuple[str, str]]:
        """(border's tensor, form) of each conversion between float32 and 8 bits that an assignment may need."""
        by_name = self.regions.by_name
        found: list[tuple[str, str]] = []
        for border in self.regions.borders:
            read = {PRECISIONS[p].form for reader in border.readers for p in by_name[reader].precisions}
            written = (
                {"float32"}
                if border.writer is None
                else {PRECISIONS[p].form for p in by_name[border.writer].precisions}
            )
            for form, other in (_CONVERTED_BETWEEN, _CONVERTED_BETWEEN[::-1]):
                if other in written and (form in read or (border.is_output and form == _FLOAT)):
                    found.append((border.tensor, form))
        return found


def _empty_model() -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """A model that does next to nothing, and its sample: what a call takes by itself."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="y")], "nothing", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model, {"x": np.zeros(1, np.float32)}


def _shapes(model: ModelProto, tensors: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor has with this sample."""
    probe = ModelProto()
    probe.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    found = {name: tuple(feed[name].shape) for name in tensors if name in feed}
    wanted = [name for name in dict.fromkeys(tensors) if name not in inputs]
    del probe.graph.output[:]
    probe.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    if wanted:
        values = run_session(open_session(probe, optimize=False), feed, "sample 0", wanted)
        found |= {name: tuple(value.shape) for name, value in zip(wanted, values, strict=True)}
    return found


def _attributes(node: NodeProto) -> tuple[tuple[str, Any], ...]:
    """Name and value of each attribute, such as can be compared."""
    values: list[tuple[str, Any]] = [(a.name, helper.get_attribute_value(a)) for a in node.attribute]
    return tuple((name, value if isinstance(value, (int, float, bytes)) else tuple(value)) for name, value in values)
