"""Runs the blocks of a Markdown file, as a reader would who types them in order, in a folder with a model and samples.

Comments above a block say what it is besides code to run:

    <!-- output -->              what the block before it prints, in shape: numbers may differ; "…" leaves lines out
    <!-- file: NAME -->          a file, which blocks behind it use
    <!-- not run: REASON -->     can't be run here
    <!-- compile -->, <!-- test -->    commands of the README that .ci/run runs in full

A command whose line ends in "# exit code 1" must end with that.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import yaml

from graphopt.cli import main
from tests.support.markdown_files import Block, MarkdownFile

ROOT = Path(__file__).parents[2]
RUN = {"python", "sh"}
DATA = {"json", "toml", "yaml"}
SHOWN = {"text", "diff"}
_INSTALL = re.compile(r"(python3? -m venv|(\S*/)?pip install) ")
_EXIT_CODE = re.compile(r"#.*\bexit code (\d+)")
_NUMBER = re.compile(r"[-+−]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
_UNIT = re.compile(r"# ?(?:[kMG]?B|bytes|ms|µs|s|min)\b")


class DocsRunner:
    """The state of one reader: the folder, Python's names, and what was printed last."""

    def __init__(self, file: MarkdownFile, folder: Path) -> None:
        self.file = file
        self.folder = folder
        self.module = ModuleType(f"docs_{re.sub(r'[^a-z]', '_', file.path.stem.lower())}")
        sys.modules[self.module.__name__] = self.module  # dataclasses look their module up
        self.printed: str | None = None

    def run(self, block: Block) -> None:
        """Run, write, read or compare one block."""
        where = f"{self.file.path.relative_to(ROOT)}:{block.line}"
        if block.mark("not run") is not None or block.mark("test") is not None:
            return
        name = block.mark("file")
        if name is not None:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(block.code)
        if block.mark("output") is not None:
            assert self.printed is not None, f"{where}: nothing ran before this output"
            compare(block.code, self.printed, where)
        elif block.language in DATA:
            parse(block, where)
        elif name is None and block.language == "python":
            self._python(block, where)
        elif name is None and block.language == "sh":
            self.printed = "".join(self._command(line, where) for line in commands(block.code))

    def close(self) -> None:
        """Forget the modules that the blocks defined or imported from the folder."""
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            if module is self.module or (origin is not None and Path(origin).is_relative_to(self.folder)):
                del sys.modules[name]

    def _python(self, block: Block, where: str) -> None:
        out = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, where.rpartition(":")[0], "exec")
        with redirect_stdout(out):
            exec(code, self.module.__dict__)
        self.printed = out.getvalue()

    def _command(self, line: str, where: str) -> str:
        expected = int(found[1]) if (found := _EXIT_CODE.search(line)) else 0
        if _INSTALL.match(line):
            check_extras(line, where)
            return ""
        words = plain_words(line)
        code, out, err = self._graphopt(words[1:]) if words and words[0] == "graphopt" else self._shell(line)
        assert code == expected, f"{where}: exit code {code} instead of {expected}\n$ {line}\n{out}{err}"
        return out + err

    def _graphopt(self, argv: list[str]) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
        return code, out.getvalue(), err.getvalue()

    def _shell(self, line: str) -> tuple[int, str, str]:
        call = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        return call.returncode, call.stdout, call.stderr


def commands(code: str) -> list[str]:
    """The commands of a shell block: lines, with those that end in a backslash joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def plain_words(line: str) -> list[str] | None:
    """The words of a command that needs no shell, or None; `.venv/bin/graphopt` is `graphopt`."""
    if "$" in line or "*" in re.sub(r"'[^']*'|\"[^\"]*\"", "", line):
        return None
    parser = shlex.shlex(line, posix=True, punctuation_chars=True)
    parser.whitespace_split = True
    words = list(parser)
    if any(set(word) <= set("();<>|&") for word in words):
        return None
    return [Path(words[0]).name, *words[1:]] if words else None


def check_extras(line: str, where: str) -> None:
    """`pip install 'graphopt[extra]'` names an extra that there is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"\[([\w,-]+)\]", line):
        unknown = set(names.split(",")) - set(project["optional-dependencies"])
        assert not unknown, f"{where}: pyproject.toml has no extra {unknown}"


def parse(block: Block, where: str) -> None:
    """JSON, TOML and YAML can be read."""
    if block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "json":
        json.loads(block.code)
    else:
        assert yaml.safe_load(block.code) is not None, where


def compare(shown: str, printed: str, where: str) -> None:
    """Every line that is shown was printed, in this order, but for numbers and spaces; "…" stands for any lines."""
    lines = [_shape(line) for line in printed.splitlines()]
    at = 0
    for line in shown.splitlines():
        wanted = _shape(line)
        if not wanted or wanted == "…":
            continue
        begins = wanted.endswith("…")
        stem = wanted.removesuffix("…").rstrip()
        hits = [i for i in range(at, len(lines)) if (lines[i].startswith(stem) if begins else lines[i] == wanted)]
        assert hits, f"{where}: the commands don't print (any more, or not in this order)\n{line}\nbut\n{printed}"
        at = hits[0] + 1


def _shape(line: str) -> str:
    return " ".join(_UNIT.sub("#", _NUMBER.sub("#", line)).split())
