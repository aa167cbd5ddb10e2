"""The text inside a TensorRT-RTX plan, and its grammar.

A plan can't be deserialised without a GPU. It contains, per compiled graph, a section of text that says what runs:

    4 bytes "NLYM", 4 bytes revision, 8 bytes length (both little-endian), then as many bytes of text:

    header { version = 5 … accelerators={sm86 } }
    descriptors {
      tensor={ … dims={ 1 16 32 32 } name="__mye3441…" … type=int8 }
      sub_tensor={ base="…" … name="__mye6252^deref" … type=int8 }
    }
    main {
     label bb1:
      corrltn={ name="conv1" output={"…" } input={"…" "…" } … layers="[ONNX Layer: conv1]␟[ONNX Layer: conv1.bias]" }
      function={ name=__myl_MulAddReluMulMinMaxRounCast … input_args={ "…" } … output_args={ "…" } … layers="…" }
    }
    shape_main { … }

None of it is documented. So it is read by a strict grammar, from one known revision, and whatever doesn't fit ends in
an error: a wrong reading must never look like a good result.

    text = block*        block = NAME "{" item* "}"        item = NAME "=" value | value | NAME ":"
    value = STRING | BARE | "{" item* "}"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.errors import UnsupportedError

# What version 1.7.1.116 writes. The second number of the header is 5 for graphs, and 4 for those inside fused kernels.
_MAGIC = b"NLYM\xa1\xda\x1e\x00"
_LENGTH_BYTES = 8
_TOKEN = re.compile(r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<sign>[{}=])|(?P<bare>[^\s{}="]+))', re.DOTALL)
_SNIPPET = 160

Item = tuple[str, "Value"]
Value = str | Sequence[Item]
"""A string (of a STRING or BARE token), or the items between braces; an item without a name has the name ""."""


@dataclass(frozen=True)
class Block:
    """A part of a section's text: its name (header, descriptors, main, …) and its items in order."""

    name: str
    items: Sequence[Item]


def unreadable(version: str, why: str, snippet: str = "") -> UnsupportedError:
    """The error for a plan that isn't what this module knows."""
    shown = f" near {snippet[:_SNIPPET]!r}" if snippet else ""
    return UnsupportedError(
        f"TensorRT-RTX {version} wrote a plan that graphopt can't read: {why}{shown}; nothing is known about its layers"
    )


def sections(plan: bytes, version: str) -> list[list[Block]]:
    """The blocks of each section of text in a plan, in the order of the file.

    Args:
        plan: the serialized engine.
        version: of TensorRT-RTX, for messages.

    Raises:
        UnsupportedError: there is no section, or one that doesn't follow the grammar.
    """
    texts = list(_texts(plan, version))
    if not texts:
        raise unreadable(version, "it has no section of the known revision", repr(plan[:16]))
    return [_Parser(text, version).blocks() for text in texts]


def _texts(plan: bytes, version: str) -> Iterator[str]:
    start = plan.find(_MAGIC)
    while start >= 0:
        begin = start + len(_MAGIC) + _LENGTH_BYTES
        length = int.from_bytes(plan[begin - _LENGTH_BYTES : begin], "little")
        body = plan[begin : begin + length]
        if len(body) < length or not body.startswith(b"header {"):
            raise unreadable(version, "a section has no header", repr(body[:40]))
        try:
            yield body.decode()
        except UnicodeDecodeError as error:
            raise unreadable(version, "a section isn't UTF-8", repr(body[error.start : error.start + 40])) from None
        start = plan.find(_MAGIC, begin + length)


class _Parser:
    """Recursive descent over one section."""

    def __init__(self, text: str, version: str) -> None:
        self._text = text
        self._version = version
        self._at = 0
        self._kind, self._token = "", ""
        self._advance()

    def blocks(self) -> list[Block]:
        found: list[Block] = []
        while self._kind:
            name = self._take("bare")
            self._open()
            found.append(Block(name, self._items()))
        return found

    def _items(self) -> list[Item]:
        """Items up to the closing brace, and the brace."""
        found: list[Item] = []
        while self._token != "}":
            if self._token == "{":
                found.append(("", self._braces()))
                continue
            if self._kind not in ("bare", "string"):
                raise self._error("expected a name or a value")
            kind, token = self._kind, self._take(self._kind)
            if kind == "bare" and self._token == "=":
                self._advance()
                found.append((token, self._value()))
            else:
                found.append(("", token))
        self._advance()
        return found

    def _value(self) -> Value:
        return self._braces() if self._token == "{" else self._take(self._kind)

    def _braces(self) -> list[Item]:
        self._open()
        return self._items()

    def _open(self) -> None:
        if self._token != "{":
            raise self._error("expected '{'")
        self._advance()

    def _take(self, kind: str) -> str:
        if self._kind != kind or kind not in ("bare", "string"):
            raise self._error("expected a name or a value")
        token = re.sub(r"\\(.)", r"\1", self._token[1:-1], flags=re.DOTALL) if kind == "string" else self._token
        self._advance()
        return token

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is not None:
            self._kind, self._token, self._at = str(match.lastgroup), match[str(match.lastgroup)], match.end()
        elif self._text[self._at :].strip():
            raise self._error("a character that no token starts with")
        elif self._kind:
            self._kind, self._token = "", ""

    def _error(self, why: str) -> UnsupportedError:
        begin = max(0, self._at - _SNIPPET // 2)
        return unreadable(self._version, f"{why} at character {self._at}", self._text[begin : begin + _SNIPPET])
