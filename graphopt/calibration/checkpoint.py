"""Statistics on disk while a calibration runs, so that one that is killed goes on where it was and gives the same bits.

A checkpoint holds the statistics of the first `done` samples. Reading it back takes the samples to be the same: each
that is skipped is hashed, and the hash compared. The file is an .npz without pickles, written whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.statistics import State, Statistic
from graphopt.ir.files import replacing

# Seconds between two checkpoints: what a kill can cost.
SECONDS = 5.0


@dataclass(frozen=True)
class Position:
    """Where a calibration is.

    Attributes:
        key: hash of the model, the kind of statistic, the tensors and the execution providers.
        chunks: the tensors of each pass over the samples.
        current: the pass that is going on.
        done: samples taken in by it.
        digest: hash of those samples, hex.
        states: the statistics of the passes that are over and of this one.
    """

    key: str
    chunks: Sequence[Sequence[str]]
    current: int
    done: int
    digest: str
    states: Mapping[str, State]


class OrderHash:
    """A hash of samples in their order, of which each is given by its digest."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, digest: bytes) -> None:
        """Take in the next sample."""
        self._digest.update(digest)

    def hex(self) -> str:
        """The hash of the samples so far."""
        return self._digest.hexdigest()


def save(path: Path, position: Position) -> None:
    """Write the checkpoint in place of the last one.

    Raises:
        EmitError: it can't be written.
    """
    header = {
        "key": position.key,
        "chunks": [list(chunk) for chunk in position.chunks],
        "current": position.current,
        "done": position.done,
        "digest": position.digest,
        "tensors": list(position.states),
    }
    arrays = {
        f"{number}.{field}": value
        for number, state in enumerate(position.states.values())
        for field, value in state.items()
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    with replacing(path) as file:
        file.write(content.getvalue())


def load(path: Path, key: str) -> Position | None:
    """The checkpoint, or None when there is none, or one of another calibration or that can't be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            states: list[dict[str, NDArray[Any]]] = [{} for _ in header["tensors"]]
            for name in file.files:
                number, _, field = name.partition(".")
                if field:
                    states[int(number)][field] = file[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if header["key"] != key:
        return None
    named = dict(zip(header["tensors"], states, strict=True))
    return Position(key, header["chunks"], header["current"], header["done"], header["digest"], named)


def calibration_key(model_hash: str, kind: str, tensors: Sequence[str], providers: Sequence[str]) -> str:
    """What a checkpoint must agree in, besides the samples."""
    return hashlib.sha256(json.dumps([2, model_hash, kind, list(tensors), list(providers)]).encode()).hexdigest()


def states_of(statistics: Mapping[str, Statistic]) -> dict[str, State]:
    """The state of each statistic."""
    return {tensor: statistic.state() for tensor, statistic in statistics.items()}
