"""Folders of images as samples: found in sorted order, decoded one at a time, preprocessed for the model's input.

Turned as their EXIF orientation says, first frame only, alpha dropped. Images in subfolders count too, sorted by path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from graphopt.calibration.preprocess import Preprocess, Size, numbers
from graphopt.calibration.samples import Feed, InputSpec, cast, format_shape
from graphopt.errors import CalibrationError, one_line
from graphopt.ir.process_wide import NO_WARNINGS

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
_DYNAMIC_SIZE = (224, 224)  # for presets with a crop, where the model takes any size
_FILTERS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}
_COLORS = (1, 3)


@dataclass(frozen=True)
class Canvas:
    """What the model's input asks of an image.

    Attributes:
        layout: the order of its axes.
        channels: how many it has.
        size: (height, width) where the input fixes them, else None.
        batch: images in one model call; 0 when the input has no batch axis.
    """

    layout: Literal["NCHW", "NHWC"]
    channels: int
    size: tuple[int, int] | None
    batch: int


def find_images(folder: Path) -> list[Path]:
    """Every image file in the folder and its subfolders, sorted by path; hidden ones are left out."""
    return sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not _hidden(path, folder)),
        key=lambda path: path.relative_to(folder).parts,
    )


def image_canvas(spec: InputSpec, preprocess: Preprocess) -> Canvas:
    """Where the image goes in this input.

    Raises:
        CalibrationError: the input is no image, or its layout can't be told.
    """
    shape = spec.shape
    if shape is None or len(shape) not in (3, 4):
        raise CalibrationError(f"input '{spec.name}' ({spec}) takes no image: save the samples as .npz")
    if spec.dtype.kind not in "fiu":
        raise CalibrationError(f"input '{spec.name}' is {spec.dtype}, which holds no image: save the samples as .npz")
    if spec.dtype.kind != "f" and not preprocess.keeps_values:
        raise CalibrationError(
            f"input '{spec.name}' is {spec.dtype}, and the preprocessing makes fractions: use the preset raw"
        )
    axes = shape[-3:]
    fits = {"NCHW": axes[0] in _COLORS, "NHWC": axes[2] in _COLORS}
    likely: list[Literal["NCHW", "NHWC"]] = [k for k in ("NCHW", "NHWC") if fits[k]]
    if preprocess.layout is None and len(likely) != 1:
        raise CalibrationError(
            f'the layout of input \'{spec.name}\' ({spec}) can\'t be told: give layout = "NCHW" or "NHWC" in the '
            "preprocessing file"
        )
    layout = preprocess.layout or likely[0]
    color, height, width = axes if layout == "NCHW" else (axes[2], axes[0], axes[1])
    wanted = 1 if preprocess.channels == "gray" else 3
    if not isinstance(color, int):
        color = wanted
    if color not in _COLORS or (preprocess.channels is not None and color != wanted):
        found = "1 or 3" if preprocess.channels is None else f"{wanted} ({preprocess.channels})"
        raise CalibrationError(
            f"input '{spec.name}' ({spec}) has {color} channels in {layout}; the image has {found}: set channels "
            "or layout"
        )
    for name, values in (("mean", numbers(preprocess.mean)), ("std", numbers(preprocess.std))):
        if len(values) not in (1, color):
            raise CalibrationError(f"{name} has {len(values)} numbers; input '{spec.name}' has {color} channels")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    first = shape[0] if len(shape) == 4 else 0
    return Canvas(layout, color, size, first if isinstance(first, int) else 1)


def read_images(paths: Sequence[Path], spec: InputSpec, canvas: Canvas, preprocess: Preprocess) -> Iterator[Feed]:
    """One model call after the other; the images of one are in memory.

    Raises:
        CalibrationError: an image can't be decoded, or has another size than the input; the message names it.
    """
    together = max(canvas.batch, 1)
    for start in range(0, len(paths), together):
        images = [_prepared(path, spec, canvas, preprocess) for path in paths[start : start + together]]
        value = images[0] if canvas.batch == 0 else np.stack(images)
        yield {spec.name: cast(value, spec, str(paths[start]))}


def _prepared(path: Path, spec: InputSpec, canvas: Canvas, preprocess: Preprocess) -> NDArray[Any]:
    """The image as an array of rank 3, in the input's layout."""
    image = _placed(_decoded(path, gray=canvas.channels == 1), canvas, preprocess, path)
    values: NDArray[Any] = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    if preprocess.channels == "bgr":
        values = values[..., ::-1]
    if not preprocess.keeps_values:
        values = (values / preprocess.divide - np.array(preprocess.mean)) / np.array(preprocess.std)
        values = values.astype(np.float32)
    values = np.moveaxis(values, -1, 0) if canvas.layout == "NCHW" else values
    found = values.shape if canvas.batch == 0 else (canvas.batch, *values.shape)
    if not spec.accepts(found):
        raise CalibrationError(
            f"'{path}' is {format_shape(found)} after preprocessing; input '{spec.name}' takes {spec}: change resize "
            "or crop, or leave them out to take the model's size"
        )
    return values


def _decoded(path: Path, *, gray: bool) -> Image.Image:
    try:
        # Damaged metadata, or more pixels than usual: what can be decoded is good enough.
        with NO_WARNINGS, Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode.startswith(("I", "F")):
                raise CalibrationError(
                    f"'{path}' has {upright.mode} pixels, more than 8 bits a channel: save it in 8 bits, or as .npz"
                )
            return upright.convert("L" if gray else "RGB")
    except CalibrationError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        raise CalibrationError(f"'{path}' is not a readable image ({one_line(error)}): mend or remove it") from error


def _placed(image: Image.Image, canvas: Canvas, preprocess: Preprocess, path: Path) -> Image.Image:
    """The image resized and cropped."""
    method = _FILTERS[preprocess.interpolation]
    resize, crop = preprocess.resize, preprocess.crop
    if resize is None and crop is None:
        if preprocess.crop_fraction is not None:
            crop = canvas.size or _DYNAMIC_SIZE
            image = _cover(image, crop, preprocess.crop_fraction, method)
        elif canvas.size is not None:
            resize = canvas.size
    if isinstance(resize, int):
        image = _shorter_side(image, resize, method)
        crop = canvas.size if crop is None else crop
    elif resize is not None:
        image = image.resize((resize[1], resize[0]), method)
    return image if crop is None else _center(image, crop, path)


def _shorter_side(image: Image.Image, length: int, method: Image.Resampling) -> Image.Image:
    """As torchvision: the longer side is rounded down."""
    width, height = image.size
    shorter = min(width, height)
    return image.resize((length * width // shorter, length * height // shorter), method)


def _cover(image: Image.Image, crop: tuple[int, int], fraction: float, method: Image.Resampling) -> Image.Image:
    """The smallest size of the same proportions in which the crop is at most `fraction` of each side."""
    if crop[0] == crop[1]:
        return _shorter_side(image, round(crop[0] / fraction), method)
    scale = max(side / fraction / own for side, own in zip(crop, image.size[::-1], strict=True))
    return image.resize((max(round(image.width * scale), crop[1]), max(round(image.height * scale), crop[0])), method)


def _center(image: Image.Image, crop: Size, path: Path) -> Image.Image:
    height, width = (crop, crop) if isinstance(crop, int) else crop
    if height > image.height or width > image.width:
        raise CalibrationError(
            f"'{path}' is {image.height}×{image.width} before the crop of {height}×{width}: resize it to more first"
        )
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
