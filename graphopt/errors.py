"""The error hierarchy, and the words that messages share. Imports nothing of ours: every layer can raise these.

`GraphoptError` and its children are the user's side: a bad file, option, sample or model. Each message names
where (file, node, tensor), what was found, what was expected, and what to do. `InternalError` is ours: a pass
broke the graph. It is outside the tree so that `except GraphoptError` never hides one of our bugs.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GraphoptError(Exception):
    """Something on the user's side is wrong; the message names what, where and the mend."""


class LoadError(GraphoptError):
    """The input model can't be read, or is not a valid ONNX model."""


class ConfigError(GraphoptError):
    """An option, pass name, target name or pipeline text is wrong."""


class UnsupportedError(GraphoptError):
    """The model needs something that graphopt, or the chosen target, doesn't support."""


class CalibrationError(GraphoptError):
    """Calibration or validation data is missing, malformed, or not finite."""


class AccuracyError(GraphoptError):
    """The result is less accurate than what the user demands, and nothing more can be done about it."""


class EmitError(GraphoptError):
    """The result can't be written."""


class PassError(GraphoptError):
    """A pass can't do what it was asked to do on this model."""


class Cancelled(BaseException):
    """The run was ended from outside: by `cancel`, or by a `progress` function that raised this. No error of anybody.

    It isn't an Exception, as KeyboardInterrupt and asyncio.CancelledError aren't, so that nothing on the way takes it
    for a failure: no reproducer is written, and no second attempt is made.
    """


class InternalError(Exception):
    """A bug in a pass or in graphopt itself: a pass left the graph invalid, or changed a result it promised to keep.

    `reproducer` is the folder with the model before the failing pass and the pipeline, or None. `owner` is whose bug it
    is: graphopt's, or that of a pass of somebody else, as `module:Class`.
    """

    def __init__(self, message: str, reproducer: str | None = None) -> None:
        super().__init__(message)
        self.reproducer = reproducer
        self.owner = "graphopt"


def one_line(error: object) -> str:
    """What an error says, without line breaks; the name of its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of a message that helps: "did you mean 'x'?", or all that there are when nothing is near."""
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"there are: {', '.join(names) or 'none'}"
