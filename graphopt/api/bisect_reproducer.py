"""A fall, alone: the part of the model where it happens, what that reads, and the one pass.

graphopt-bisect-1/
before.onnx         the guilty nodes in front of the pass, with as many neighbours as it takes
inputs.npz          what they read, on the sample that loses most
calibration.npz     what they read on a few samples, when the pass or the plan before it needs samples
ranges.json         the saved ranges, when the run had any
pipeline.toml       the pass; where it carries out a plan, all since the plan was begun
target.toml         the target, when it is none of graphopt's own
my_passes.py        a copy of the user's file that the pass is in, when it is none of graphopt's own
reproduce.py        compiles, runs both, prints the SQNR; exits with 1 while the loss shows, with 0 when not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graphopt.api.bisect_code import code_files, copy_code
from graphopt.api.bisect_part import Part, Scene, find_part, least_db
from graphopt.api.choice import choose_pipeline
from graphopt.api.emitting import check_output
from graphopt.api.ranges import ranges_key
from graphopt.calibration import save_ranges
from graphopt.calibration.npz import save_feeds
from graphopt.errors import EmitError
from graphopt.ir import load, save, to_proto
from graphopt.ir.files import replacing
from graphopt.pipeline.toml import Pipeline, Settings, pipeline_to_toml
from graphopt.report.bisection import ReproducerFound
from graphopt.targets.toml import save_target

FILES = ("before.onnx", "inputs.npz", "calibration.npz", "ranges.json", "pipeline.toml", "target.toml", "reproduce.py")


def check_folder(folder: Path, inputs: Sequence[object]) -> None:
    """Refuse a folder before the work begins.

    Raises:
        ConfigError: one of the `inputs` is a file that would be overwritten.
        EmitError: it is a file, or can't be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise EmitError(f"{folder}: is a file; name a folder for the reproducer")
    if folder.is_dir():
        for name in FILES:
            check_output(folder / name, inputs)


def write_reproducer(scene: Scene, folder: Path) -> ReproducerFound | None:
    """Find the smallest part that shows it, and write it; None where not even the whole model does.

    Args:
        scene: what to show.
        folder: where; it is made, and files in it are replaced.

    Raises:
        EmitError: it can't be written.
    """
    whole = to_proto(scene.begin.snapshot.restore())
    part = find_part(scene, whole)
    if part is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmitError(f"{folder}: can't be made: {error.strerror or error}") from error
    least = least_db(scene, part)
    _write(scene, part, folder, least)
    count, of = len(part.model.graph.node), len(whole.graph.node)
    return ReproducerFound(str(folder), count, of, part.sqnr_db, least)


def _write(scene: Scene, part: Part, folder: Path, least: float) -> None:
    save(load(part.model), folder / "before.onnx")
    save_feeds(part.inputs, folder / "inputs.npz")
    if part.calibration:
        save_feeds(part.calibration, folder / "calibration.npz")
    settings = Settings(
        target=None if scene.ctx.target is None else save_target(scene.ctx.target, folder),
        calibration_data="calibration.npz" if part.calibration else None,
    )
    config = folder / "pipeline.toml"
    _save_text(pipeline_to_toml(Pipeline(scene.passes, settings)), config)
    copy_code(code_files(scene.passes), folder)
    if scene.ctx.ranges is not None:
        key = ranges_key(folder / "before.onnx", None, choose_pipeline(config=config))
        save_ranges(folder / "ranges.json", scene.ctx.ranges, model_hash=key, data_hash="", method="saved")
        settings = replace(settings, ranges="ranges.json")
        _save_text(pipeline_to_toml(Pipeline(scene.passes, settings)), config)
    _save_text(_SCRIPT.format(least=f"{least:.1f}"), folder / "reproduce.py")


def _save_text(text: str, path: Path) -> None:
    with replacing(path) as file:
        file.write(text.encode())


_SCRIPT = '''"""What `graphopt bisect` found, alone: exits with 1 while the loss shows, with 0 when it doesn't."""

import sys
from pathlib import Path

import graphopt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
LEAST_DB = {least}

result = graphopt.optimize(HERE / "before.onnx", config=HERE / "pipeline.toml")
found = graphopt.compare(HERE / "before.onnx", result.model, str(HERE / "inputs.npz"))
for output in found.outputs:
    print(f"{{output.name}}: {{output.sqnr_db:.1f}} dB, {{LEAST_DB}} are expected")
sys.exit(0 if all(output.sqnr_db >= LEAST_DB for output in found.outputs) else 1)
'''
