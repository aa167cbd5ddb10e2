"""How an image becomes a model's input: resize, centre crop, channel order, scaling, layout.

    y = (x / divide − mean) / std        x: the image's values, 0 … 255; mean and std: per channel, in the model's order

    preset        size                        order  divide  mean                     std
    imagenet      fills size / 0.875, cropped rgb    255     0.485, 0.456, 0.406      0.229, 0.224, 0.225
    imagenet-bgr  fills size / 0.875, cropped bgr    1       103.939, 116.779, 123.68 1
    unit          exactly size                rgb    255     0                        1
    raw           exactly size                rgb    1       0                        1

`size` is the model's own. Where that is dynamic, it is 224, and `unit` and `raw` don't resize. "Fills size / 0.875,
cropped": the shorter side becomes size / 0.875 (224: 256), and the centre is kept, as torchvision's models are
evaluated; `imagenet-bgr` is what Caffe's take. A TOML file sets any field of `Preprocess` and
may start from a preset:

    preset = "imagenet"
    resize = 256                # the shorter side; or [height, width]
    interpolation = "bicubic"
    crop = 224                  # from the centre; or [height, width]
    channels = "bgr"            # rgb, bgr or gray; by default what the model's input has room for
    layout = "NHWC"             # by default what the model's input shape says
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from graphopt.errors import ConfigError, nearest, one_line

Size = int | tuple[int, int]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One number per channel, or one for all."""
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class Preprocess:
    """What is done to every image.

    Attributes:
        resize: the length of the shorter side, or exactly (height, width), in pixels. None: with `crop_fraction`, so
            that the crop is that fraction of the image; else exactly to the model's size, if it is fixed.
        crop: the size of the part from the centre that is kept. None: the model's size after a resize of the shorter
            side, else everything.
        crop_fraction: the share of each side that the crop keeps, see `resize`.
        interpolation: Pillow's filters, which average when they shrink.
        channels: their order; None: gray for one channel, rgb for three.
        divide: what values are divided by first.
        mean: subtracted then; one number, or one per channel in the model's order.
        std: what is divided by last; the same.
        layout: the order of the input's axes; None reads it off the model's input.

    Raises:
        ValueError: a size, fraction or divisor isn't positive.
    """

    resize: Size | None = None
    crop: Size | None = None
    crop_fraction: float | None = None
    interpolation: Interpolation = "bilinear"
    channels: Literal["rgb", "bgr", "gray"] | None = None
    divide: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Literal["NCHW", "NHWC"] | None = None

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if size is not None and min(_pair(size)) < 1:
                raise ValueError(f"{name} is {size}; expected at least one pixel")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}; expected more than 0 and at most 1")
        if self.divide == 0 or 0 in numbers(self.std):
            raise ValueError("divide and std must not be 0")

    @property
    def keeps_values(self) -> bool:
        """Whether the values stay the integers 0 … 255."""
        return self.divide == 1 and set(numbers(self.mean)) == {0.0} and set(numbers(self.std)) == {1.0}


_IMAGENET = Preprocess(crop_fraction=0.875, divide=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "imagenet": replace(_IMAGENET, channels="rgb"),
        "imagenet-bgr": Preprocess(crop_fraction=0.875, channels="bgr", mean=(103.939, 116.779, 123.68)),
        "unit": Preprocess(divide=255.0),
        "raw": Preprocess(),
    }
)


def read_preprocess(source: str | Path | Preprocess) -> Preprocess:
    """The preset of this name, or what a TOML file says (see the module).

    Raises:
        ConfigError: there is no such preset or file, or the file has a wrong key or value.
    """
    if isinstance(source, Preprocess):
        return source
    if str(source) in PRESETS:
        return PRESETS[str(source)]
    path = Path(source)
    if not path.suffix:
        raise ConfigError(f"there is no preprocessing preset '{source}', and no .toml: {nearest(str(source), PRESETS)}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the preprocessing file '{path}' ({error.strerror})") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"{path} is not TOML: {one_line(error)}") from error
    return _from_table(content, path)


def _from_table(content: dict[str, Any], path: Path) -> Preprocess:
    known = {field.name for field in fields(Preprocess)}
    base: object = content.pop("preset", None)
    if base is not None and base not in PRESETS:
        raise ConfigError(f"{path}: there is no preset '{base}': {nearest(str(base), PRESETS)}")
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: there is no setting '{key}': {nearest(key, (*sorted(known), 'preset'))}")
    start = PRESETS[base] if isinstance(base, str) else Preprocess()
    merged = {field.name: getattr(start, field.name) for field in fields(Preprocess)} | content
    try:
        return TypeAdapter(Preprocess).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else "settings"
        raise ConfigError(f"{path}: {place}: {first['msg']} (found {content.get(place, content)!r})") from error


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
