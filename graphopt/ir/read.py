"""File, bytes or object → ModelProto, with one clear line for whatever isn't an ONNX model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.parser
from google.protobuf.message import DecodeError

from graphopt.errors import LoadError, one_line

TEXT_SUFFIXES = frozenset({".onnxtxt", ".txt"})

# What people pass by mistake: (offset, first bytes, what it is and the mend).
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint is one): export the model with torch.onnx.export"),
    (0, b"\x80\x02", "a Python pickle (an old PyTorch checkpoint): export the model with torch.onnx.export"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras): convert it with tf2onnx"),
    (0, b"\x93NUMPY", "a numpy array"),
    (4, b"TFL3", "a TFLite model; graphopt reads ONNX"),
    (4, b"ORTM", "onnxruntime's own .ort format; graphopt reads the .onnx that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
)


@dataclass(frozen=True)
class Source:
    """A model as it was read, where it came from (None: from memory) and the folder of its external data."""

    model: onnx.ModelProto
    path: Path | None
    base_dir: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.path) if self.path is not None else "the model"


def read_source(source: object, base_dir: str | Path | None = None) -> Source:
    """The ModelProto in a path, bytes, a ModelProto, or an object with a `model_proto` (torch.onnx.ONNXProgram).

    Raises:
        LoadError: it can't be read or isn't an ONNX model.
    """
    folder = "" if base_dir is None else str(base_dir)
    if isinstance(source, (str, Path)):
        path = Path(source)
        return Source(_read_file(path), path, folder or str(path.parent))
    if isinstance(source, bytes):
        return Source(_parse(source, "the given bytes"), None, folder)
    # torch.onnx.export(dynamo=True) returns an ONNXProgram; torch itself isn't needed to read it.
    model = source if isinstance(source, onnx.ModelProto) else getattr(source, "model_proto", None)
    if not isinstance(model, onnx.ModelProto):
        raise LoadError(
            f"a model can't be read from {type(source).__name__}; give a path, bytes, an onnx.ModelProto, or what "
            "torch.onnx.export(..., dynamo=True) returns"
        )
    _check_not_empty(model, "the given ModelProto")
    return Source(model, None, folder)


def _read_file(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise LoadError(f"{path}: is a directory; name the .onnx file in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LoadError(f"{path}: no such file") from None
    except OSError as error:
        raise LoadError(f"{path}: can't be read: {error.strerror}") from None
    if not content:
        raise LoadError(f"{path}: the file is empty")
    if path.suffix.lower() in TEXT_SUFFIXES:
        return _parse_text(content, path)
    return _parse(content, str(path))


def _parse_text(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.parser.parse_model(content.decode())
    except UnicodeDecodeError:
        raise LoadError(f"{path}: isn't ONNX text; binary models end in .onnx") from None
    except onnx.parser.ParseError as error:
        raise LoadError(f"{path}: isn't ONNX text: {parse_problem(error)}") from None
    _check_not_empty(model, str(path))
    return model


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    for offset, signature, what in _SIGNATURES:
        if content[offset : offset + len(signature)] == signature:
            raise LoadError(f"{where}: isn't an ONNX model but {what}")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        if _is_text(content):
            raise LoadError(f"{where}: is a text file; ONNX text ends in .onnxtxt, binary models in .onnx") from None
        raise LoadError(
            f"{where}: isn't an ONNX model, or is truncated ({len(content)} bytes); download or export it again"
        ) from None
    _check_not_empty(model, where)
    return model


def _check_not_empty(model: onnx.ModelProto, where: str) -> None:
    """Protobuf reads many files that aren't models at all, as messages with nothing known in them."""
    missing = [
        what
        for what, is_there in (
            ("IR version", model.ir_version > 0),
            ("graph", model.HasField("graph")),
            ("graph output", len(model.graph.output) > 0),
            ("opset import", len(model.opset_import) > 0 or 0 < model.ir_version < 3),
        )
        if not is_there
    ]
    if missing:
        raise LoadError(f"{where}: isn't a whole ONNX model: it has no {' and no '.join(missing)}; export it again")


def _is_text(content: bytes) -> bool:
    try:
        text = content[:4096].decode()
    except UnicodeDecodeError as error:
        # A multi-byte character cut at the end of the sample is fine.
        if error.start < min(len(content), 4096) - 4:
            return False
        text = content[: error.start].decode()
    return all(c.isprintable() or c.isspace() for c in text)


def parse_problem(error: onnx.parser.ParseError) -> str:
    """The parser's message in one line; onnx gives it as bytes."""
    text = error.args[0] if error.args else error
    return one_line(text.decode(errors="replace") if isinstance(text, bytes) else text)
