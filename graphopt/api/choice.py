"""From what the user asked for (a preset, a file, a text or passes) to the passes that will run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.calibration import Dataset
from graphopt.errors import ConfigError, nearest
from graphopt.passes import find_pass
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.presets import preset as preset_passes
from graphopt.pipeline import Context, Pass
from graphopt.pipeline.naming import spelled
from graphopt.pipeline.options import make_pass, plain_options
from graphopt.pipeline.passes import Progress, Resources
from graphopt.pipeline.spec import passes_from_text, passes_to_text
from graphopt.pipeline.toml import Pipeline, Settings, pipeline_from_toml
from graphopt.report.samples import reported
from graphopt.targets import Target, find_target
from graphopt.targets.toml import SUFFIX

Passes: TypeAlias = str | Sequence[str | Pass]
"""A pipeline as text ("fold-batch-norm,calibrate{method=minmax}"), or passes, each as text or as an object."""

Prune: TypeAlias = str | Mapping[str, Any]
"""Options of `eliminate-channels`: "macs=0.5, importance=l1", or as plain values by name."""

DEFAULT_PRESET, MIXED = "int8", "mixed"
# By name: importing the passes brings in what ranks, sizes and solves, a sixth of the command line's time to start.
PRUNING = "eliminate-channels"
ASSIGNING = "assign-precision"
_SAVED_WITH_PRECISIONS = (Calibrate.name, "protect-small-values")
DEPEND_ON_CHANNELS = ("equalize-channels", "smooth-activations", PlanQuantization.name)


@dataclass(frozen=True)
class Choice:
    """Which passes run, for which target (None: none was named), and the settings of the pipeline file if there is one.

    Paths in the settings are absolute.
    """

    passes: tuple[Pass, ...]
    target: Target | None
    settings: Settings

    def has(self, wanted: type[Pass]) -> bool:
        """Whether a pass of this class is among them."""
        return any(isinstance(p, wanted) for p in self.passes)

    @property
    def assigns(self) -> bool:
        """Whether a pass assigns precisions."""
        return any(p.name == ASSIGNING for p in self.passes)

    @property
    def precision_plan(self) -> str | None:
        """The file of the assignment that is replayed; None where none is."""
        return next((getattr(p, "plan", None) for p in self.passes if p.name == ASSIGNING), None)

    def without_samples(self) -> Choice:
        """The same without the passes that need samples for what a saved assignment has."""
        return replace(self, passes=tuple(p for p in self.passes if p.name not in _SAVED_WITH_PRECISIONS))

    def rewrites_before(self, stop: type[Pass]) -> str:
        """The lossless passes before the first `stop`, as text: what decides which values a name stands for."""
        before = itertools.takewhile(lambda p: not isinstance(p, stop), self.passes)
        return passes_to_text([p for p in before if p.lossless])

    def context(
        self, calibration: Dataset | None, threads: int | None, progress: Progress | None, resources: Resources | None
    ) -> Context:
        """What the passes of one run are given; what goes on is reported to `progress`."""
        samples = None if calibration is None else reported(calibration, "calibrating", progress)
        return Context(
            target=self.target,
            calibration=samples,
            threads=threads,
            resources=resources or Resources(),
            progress=progress,
        )


def choose_pipeline(
    target: str | Path | Target | None = None,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    prune: Prune | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    method: str | None = None,
    percentile: float | None = None,
    budget: str | None = None,
    precision: Sequence[str] = (),
    precision_plan: str | Path | None = None,
    device: str | None = None,
) -> Choice:
    """Work out what to run.

    Args:
        target: what to quantize for; None takes the one that the pipeline file names, if any.
        preset: name of a preset; `int8` when none of the three is given.
        config: a pipeline file (TOML).
        passes: a pipeline as text, or passes.
        prune: options of `eliminate-channels`, which is put in front of what prepares and plans 8 bits.
        skip: names of passes to leave out.
        keep_float: nodes to keep in float, added to the option of `plan-quantization`.
        method: how `calibrate` chooses ranges.
        percentile: the parameter of the method of this name, which it implies.
        budget: what `assign-precision` may spend: "latency=0.6x".
        precision: rules for it, added to its own: "Softmax=float".
        precision_plan: an assignment that was saved, in place of a new one.
        device: what `assign-precision` estimates costs for, where the engine has a choice.

    Raises:
        ConfigError: there is no such target; more than one way is given, a name or option is unknown, or `skip`,
            `keep_float` or `method` is about a pass that isn't in the pipeline.
    """
    given = [what for what, value in (("preset", preset), ("config", config), ("passes", passes)) if value is not None]
    if len(given) > 1:
        raise ConfigError(f"both {given[0]} and {given[1]} are given; give one of preset, config, passes")
    pipeline = Pipeline(()) if config is None else _read(Path(config))
    aim = target or pipeline.settings.target
    aim = None if aim is None else find_target(aim)
    if passes is not None:
        pipeline = Pipeline(_resolve(passes))
    elif config is None:
        pipeline = Pipeline(_resolve(preset_passes(preset or DEFAULT_PRESET, aim)))
    chosen = _pruning(_without(pipeline.passes, skip), prune)
    if keep_float:
        _require(chosen, PlanQuantization, "keep-float")
        chosen = tuple(
            replace(p, keep_float=(*p.keep_float, *keep_float)) if isinstance(p, PlanQuantization) else p
            for p in chosen
        )
    method = "percentile" if method is None and percentile is not None else method
    if percentile is not None and method != "percentile":
        raise ConfigError(f"percentile is given for the calibration method '{method}': it belongs to 'percentile'")
    if method is not None:
        _require(chosen, Calibrate, "a calibration method")
        options = {"method": method} | ({} if percentile is None else {"percentile": percentile})
        chosen = tuple(
            make_pass(Calibrate, {**plain_options(p), **options}) if isinstance(p, Calibrate) else p for p in chosen
        )
    return Choice(_assigning(chosen, budget, precision, precision_plan, device), aim, pipeline.settings)


def _assigning(
    passes: tuple[Pass, ...], budget: str | None, precision: Sequence[str], plan: str | Path | None, device: str | None
) -> tuple[Pass, ...]:
    """With these options of the passes that assign precisions."""
    given = {"--budget": budget, "--precision": tuple(precision), "--precision-plan": plan}
    options = [name for name, value in given.items() if value]
    if not any(p.name == ASSIGNING for p in passes):
        if not options:
            return passes
        raise ConfigError(
            f"{options[0]} is for the pass '{ASSIGNING}', which is not in the pipeline: give --preset mixed, or a "
            "pipeline that has it"
        )
    if plan is not None and len(options) > 1:
        raise ConfigError(f"{options[0]} and --precision-plan are given: a saved assignment has every precision")

    def changed(old: Pass) -> Pass:
        values = plain_options(old)
        values |= {} if budget is None else {"budget": budget}
        values |= {} if plan is None else {"plan": str(plan)}
        values |= {} if device is None or "device" in values else {"device": device}
        values |= {"precision": [*values.get("precision", ()), *precision]} if precision else {}
        return make_pass(type(old), values)

    return tuple(changed(p) if p.name == ASSIGNING else p for p in passes)


def _pruning(passes: tuple[Pass, ...], prune: Prune | None) -> tuple[Pass, ...]:
    """With channel elimination in front of the passes that depend on which channels there are."""
    if prune is None:
        return passes
    if any(p.name == PRUNING for p in passes):
        raise ConfigError(f"prune is given, and the pipeline has {PRUNING}: give the options there")
    if isinstance(prune, str):
        (pruning,) = passes_from_text(f"{PRUNING}{{{prune}}}", find_pass)
    else:
        pruning = make_pass(find_pass(PRUNING), prune)
    position = next((k for k, p in enumerate(passes) if p.name in DEPEND_ON_CHANNELS), len(passes))
    return (*passes[:position], pruning, *passes[position:])


def _read(path: Path) -> Pipeline:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"can't read the pipeline file '{path}': {reason}") from error
    pipeline = pipeline_from_toml(text, find_pass, str(path))

    def absolute(value: str | None) -> str | None:
        # `module:function` is no path.
        return value if value is None or ":" in value else str(path.resolve().parent / value)

    s = pipeline.settings
    target = absolute(s.target) if (s.target or "").lower().endswith(SUFFIX) else s.target
    return replace(pipeline, settings=Settings(target, absolute(s.calibration_data), absolute(s.ranges)))


def _resolve(passes: Passes) -> tuple[Pass, ...]:
    texts = [passes] if isinstance(passes, str) else passes
    return tuple(p for text in texts for p in (passes_from_text(text, find_pass) if isinstance(text, str) else [text]))


def _without(passes: tuple[Pass, ...], skip: Sequence[str]) -> tuple[Pass, ...]:
    names = {name for p in passes for name in (p.name, spelled(type(p)))}
    for name in skip:
        if name not in names:
            known = dict.fromkeys(p.name for p in passes)
            raise ConfigError(f"can't skip '{name}', it is not in the pipeline: {nearest(name, known)}")
    return tuple(p for p in passes if p.name not in skip and spelled(type(p)) not in skip)


def _require(passes: tuple[Pass, ...], wanted: type[Pass], what: str) -> None:
    if not any(isinstance(p, wanted) for p in passes):
        raise ConfigError(f"{what} needs the pass '{wanted.name}', which is not in the pipeline")
