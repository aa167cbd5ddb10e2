"""Calibrated ranges outside of a run: found by `calibrate`, kept in a file, taken by `optimize`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.api.choice import Choice
from graphopt.calibration import load_ranges, model_hash, save_ranges
from graphopt.ir.read import read_source
from graphopt.passes.calibrate import Calibrate
from graphopt.quant import Range


@dataclass(frozen=True)
class Calibration:
    """Ranges of a model's activations, tied to the model and to the passes before calibration."""

    ranges: Mapping[str, Range]
    method: str
    model_hash: str
    data_hash: str

    def save(self, path: str | Path) -> None:
        """Write the ranges file that `optimize(ranges=path)` and `--ranges` take.

        Raises:
            EmitError: it can't be written.
        """
        save_ranges(Path(path), self.ranges, model_hash=self.model_hash, data_hash=self.data_hash, method=self.method)


def read_ranges(
    ranges: str | Path | Calibration | None, model: object, base_dir: str | Path | None, choice: Choice
) -> dict[str, Range] | None:
    """The ranges by tensor, from whatever `optimize` takes.

    Raises:
        CalibrationError: the file can't be read, or its ranges belong to another model or to other passes.
    """
    if ranges is None:
        return None
    if isinstance(ranges, Calibration):
        return dict(ranges.ranges)
    return load_ranges(Path(ranges), model_hash=ranges_key(model, base_dir, choice))


def ranges_key(model: object, base_dir: str | Path | None, choice: Choice) -> str:
    """What ranges depend on besides the samples: the model, and the passes that rewrote it before it was calibrated.

    With other rewrites a tensor of the same name may hold other values.
    """
    content = f"{model_hash(read_source(model, base_dir).model)} {choice.rewrites_before(Calibrate)}"
    return hashlib.sha256(content.encode()).hexdigest()
