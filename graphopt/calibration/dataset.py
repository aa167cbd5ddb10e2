"""Calibration and validation data as a stream of checked samples, from files, functions or Python objects.

A `Dataset` can be iterated any number of times and yields one model call at a time. Files are read one at a
time, so memory does not grow with the number of files in a folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.batches import as_array, is_tensor, known_count, only_input
from graphopt.calibration.images import SUFFIXES, find_images, image_canvas, read_images
from graphopt.calibration.npz import LABELS, common_count, cut_feeds, open_npz, read_feeds, read_labels
from graphopt.calibration.preprocess import PRESETS, Preprocess, read_preprocess
from graphopt.calibration.python_source import call, checked, import_function, is_function_name
from graphopt.calibration.samples import Feed, InputSpec, count_samples, input_specs, require_names
from graphopt.errors import CalibrationError, ConfigError

__all__ = ["Dataset", "InputSpec", "Source", "input_specs", "load_dataset"]

# A path, "module:function", {input: stacked array}, or an iterable of feeds (of arrays, for one input).
Source = str | Path | Mapping[str, Any] | Iterable[Any]


class Dataset:
    """Samples for a model: each iteration yields feeds `{input: array}`, one model call each, in a fixed order.

    Attributes:
        name: where the samples come from, for messages.
        count: the number of samples, or None when only iterating can tell.
        labels: one class index per row of the samples, or None.
        given: how many samples it has handed out so far, over all walks.
    """

    def __init__(
        self,
        feeds: Callable[[], Iterator[Feed]],
        *,
        name: str,
        count: int | None = None,
        labels: NDArray[Any] | None = None,
    ) -> None:
        self._feeds = feeds
        self.name = name
        self.count = count
        self.labels = labels
        self.given = 0

    def __iter__(self) -> Iterator[Feed]:
        empty = True
        for feed in self._walk():
            empty = False
            yield feed
        if empty:
            raise CalibrationError(f"{self.name}: no samples: give at least one")

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError(f"{self.name}: the number of samples is not known")
        return self.count

    def limited(self, limit: int) -> Dataset:
        """The first `limit` samples (all, when there are fewer)."""
        count = None if self.count is None else min(self.count, limit)
        labels = self.labels
        if labels is not None and self.count:
            labels = labels[: cast(int, count) * (len(labels) // self.count)]
        return Dataset(lambda: itertools.islice(self._walk(), limit), name=self.name, count=count, labels=labels)

    def _walk(self) -> Iterator[Feed]:
        for feed in self._feeds():
            self.given += 1
            yield feed


def load_dataset(
    source: Source,
    inputs: Sequence[InputSpec],
    *,
    limit: int | None = None,
    preprocess: str | Path | Preprocess | None = None,
) -> Dataset:
    """Open calibration or validation data for a model with these inputs.

    Args:
        source: the path of an .npz file (arrays stacked on axis 0, keyed by input name; a key `labels` holds class
            indices), or of a folder of such files (read in sorted order), or of a folder of images (subfolders too,
            in sorted order); the text `module:function`, a function without parameters that yields samples; or in
            Python a dict of stacked arrays, or an iterable of samples or batches of them, such as a torch DataLoader
            (see `python_source`). An iterable that can only be walked once (a generator) is kept in memory.
        inputs: the model's inputs, see `input_specs`.
        limit: use at most this many samples.
        preprocess: for images, how they become the input: a preset's name, a TOML file, or a `Preprocess`.

    Raises:
        CalibrationError: the data is missing, can't be read, or doesn't fit the inputs. Shapes and types in files
            are checked here, values when they are read.
        ConfigError: `limit` is below 1, or `preprocess` is wrong.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the sample limit is {limit}; expected at least 1")
    dataset = _open(source, inputs, None if preprocess is None else read_preprocess(preprocess))
    return dataset if limit is None else dataset.limited(limit)


def _open(source: Source, inputs: Sequence[InputSpec], preprocess: Preprocess | None) -> Dataset:
    if isinstance(source, (str, Path)):
        images = _image_files(Path(source))
        if images:
            return _from_images(images, str(source), inputs, preprocess)
    if isinstance(source, str) and not Path(source).exists() and is_function_name(source):
        function = import_function(source)
        return Dataset(lambda: call(function, inputs, source), name=source)
    if isinstance(source, (str, Path)):
        return _from_files(_npz_files(Path(source)), str(source), inputs)
    if isinstance(source, Mapping):
        return _from_stacked(cast("Mapping[str, Any]", source), inputs)
    if isinstance(source, np.ndarray) or is_tensor(source):
        return _from_stacked({only_input(inputs).name: source}, inputs)
    return _from_iterable(source, inputs)


def _npz_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = _own_npz(path)
    if not files:
        raise CalibrationError(
            f"folder '{path}' holds no .npz file and no image: save the preprocessed samples as .npz, one array per "
            "input"
        )
    return files


def _own_npz(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".npz")


def _image_files(path: Path) -> list[Path]:
    """The images that the path stands for; none where it is no folder, or a folder of .npz files."""
    if path.is_dir():
        return [] if _own_npz(path) else find_images(path)
    return [path] if path.suffix.lower() in SUFFIXES and path.exists() else []


def _from_images(
    paths: Sequence[Path], name: str, inputs: Sequence[InputSpec], preprocess: Preprocess | None
) -> Dataset:
    if len(inputs) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise CalibrationError(
            f"{name}: images feed one input, and the model has {len(inputs)} ({names}): save the samples as .npz "
            "with an array for each, or give module:function"
        )
    if preprocess is None:
        raise CalibrationError(
            f"{name} holds images: say how they become the input '{inputs[0].name}' ({inputs[0]}), with --preprocess "
            f"{', '.join(PRESETS)} or a TOML file"
        )
    spec = inputs[0]
    canvas = image_canvas(spec, preprocess)
    together = max(canvas.batch, 1)
    if len(paths) % together:
        raise CalibrationError(f"{name} has {len(paths)} images; the model takes {together} at a time: give a multiple")
    return Dataset(lambda: read_images(paths, spec, canvas, preprocess), name=name, count=len(paths) // together)


def _from_files(paths: Sequence[Path], name: str, inputs: Sequence[InputSpec]) -> Dataset:
    files = [open_npz(path, inputs) for path in paths]
    count = sum(file.count for file in files)
    labels = None
    if all(file.has_labels for file in files):
        labels = _check_labels(np.concatenate([read_labels(file) for file in files]), count, name)

    def feeds() -> Iterator[Feed]:
        return itertools.chain.from_iterable(read_feeds(file, inputs) for file in files)

    return Dataset(feeds, name=name, count=count, labels=labels)


def _from_stacked(source: Mapping[str, Any], inputs: Sequence[InputSpec]) -> Dataset:
    name = "calibration data"
    arrays = {key: as_array(value, f"{name}, array '{key}'") for key, value in source.items()}
    labels = None
    if all(spec.name != LABELS for spec in inputs):
        labels = arrays.pop(LABELS, None)
    require_names(arrays, inputs, name)
    counts = {spec.name: count_samples(arrays[spec.name].shape, spec, name) for spec in inputs}
    count = common_count(counts, name, extra=arrays.keys() - counts.keys())
    if labels is not None:
        labels = _check_labels(labels, count, name)
    return Dataset(lambda: cut_feeds(arrays, inputs, count, name), name=name, count=count, labels=labels)


def _from_iterable(source: Iterable[Any], inputs: Sequence[InputSpec]) -> Dataset:
    name = "calibration data"
    # A one-shot iterator would be empty the second time.
    again: Iterable[Any] = list(source) if isinstance(source, Iterator) else source
    return Dataset(lambda: checked(again, inputs, name), name=name, count=known_count(again, inputs))


def _check_labels(labels: NDArray[Any], count: int, name: str) -> NDArray[Any]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % count or len(labels) == 0:
        raise CalibrationError(
            f"{name}: '{LABELS}' is {labels.dtype} {list(labels.shape)}; expected one integer class index per row "
            f"of the {count} samples"
        )
    return labels
