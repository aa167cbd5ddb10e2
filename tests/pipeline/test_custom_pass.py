from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

from graphopt.cli import main
from graphopt.errors import ConfigError
from graphopt.ir.user_code import import_named
from graphopt.passes import find_pass
from graphopt.pipeline import Pass
from graphopt.pipeline.naming import spelled
from graphopt.pipeline.spec import passes_from_text, passes_to_text
from graphopt.pipeline.toml import Pipeline, pipeline_from_toml, pipeline_to_toml
from tests.pipeline.toys import MODEL

CODE = """
from dataclasses import dataclass

from graphopt import Context, Graph, Pass


@dataclass(frozen=True)
class ScaleHeads(Pass):
    \"\"\"Multiply something.

    Only where there is something.
    \"\"\"

    factor: float = 1.0

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.remarks.note(None, f"factor {self.factor}")


class Outer:
    @dataclass(frozen=True)
    class Inner(ScaleHeads):
        name = "inner"


class NoDataclass(Pass):
    factor: float = 1.0

    def run(self, graph, ctx):
        pass


@dataclass(frozen=True)
class NoRun(Pass):
    pass


@dataclass(frozen=True)
class OddOption(Pass):
    where: Graph = None

    def run(self, graph, ctx):
        pass


@dataclass(frozen=True)
class Failing(Pass):
    def run(self, graph, ctx):
        raise KeyError("oops")


def inside():
    class Hidden(Failing):
        pass

    return Hidden


made = ScaleHeads()
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, under a name of its own for each test: modules stay imported."""
    name = f"passes_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_pass_is_found_by_its_code(module: str) -> None:
    found = find_pass(f"{module}:ScaleHeads")
    assert (found.name, found.summary, found.lossless) == ("scale-heads", "Multiply something", False)
    assert find_pass(f"{module}:Outer.Inner").name == "inner"


@pytest.mark.parametrize("place", ["{module}", "{folder}/{module}.py"])
@pytest.mark.parametrize("name", ["ScaleHeads", "Outer.Inner"])
def test_pipelines_name_it_so_that_it_is_found_again(module: str, name: str, place: str) -> None:
    place = place.format(module=module, folder=Path.cwd())
    text = f"remove-dead,{place}:{name}{{factor=0.5}}"
    passes = passes_from_text(text, find_pass)
    assert passes_to_text(passes) == text
    toml = pipeline_to_toml(Pipeline(tuple(passes)))
    assert f'name = "{place}:{name}"' in toml
    assert pipeline_from_toml(toml, find_pass).passes == tuple(passes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:P", r"module 'no_such_module' can't be imported \(ModuleNotFoundError"),
        ("MODULE.py:P", "has no class 'P'"),
        ("nowhere/MODULE.py:P", r"can't be imported \(FileNotFoundError"),
        ("MODULE:ScaleHead", "has no class 'ScaleHead': did you mean 'ScaleHeads'"),
        ("MODULE:Outer.Iner", "has no class 'Outer.Iner': did you mean 'Inner'"),
        ("MODULE:Outer", "is not a subclass of graphopt.Pass, but Outer"),
        ("MODULE:number", "is not a subclass of graphopt.Pass, but int"),
        ("MODULE:made", "is a pass object: name its class, passes_of_.*:ScaleHeads"),
        ("MODULE:NoRun", "defines no run"),
        ("MODULE:NoDataclass", r"'factor' is no option yet: decorate the class with @dataclass\(frozen=True\)"),
        ("MODULE:OddOption", "option 'where' is of a type that can't be read"),
        ("MODULE:ScaleHeads{factr=1}", "has no option 'factr': did you mean 'factor'"),
        ("MODULE:ScaleHeads{factor=much}", "option 'factor' is \"much\"; expected a number"),
    ],
)
def test_what_is_wrong_is_said(module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        passes_from_text(name.replace("MODULE", module), find_pass)


def test_a_module_that_fails_is_said(module: str) -> None:
    Path(f"{module}_bad.py").write_text("from dataclasses import nonsense", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"can't be imported \(ImportError: cannot import name 'nonsense'"):
        find_pass(f"{module}_bad:P")


def test_the_command_line_shows_it(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", f"{module}:ScaleHeads"]) == 0
    shown = capsys.readouterr().out
    assert "Only where there is something." in shown
    assert "factor" in shown
    assert main(["passes", f"{module}:ScaleHeads", "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)["passes"]
    assert (info["name"], info["package"], info["options"][0]["name"]) == ("scale-heads", module, "factor")
    assert main(["passes", "fold-batch-norm"]) == 0
    assert "beta" in capsys.readouterr().out


def test_a_pass_that_fails_is_its_owners_bug(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.onnxtxt").write_text(MODEL, encoding="utf-8")
    assert main(["optimize", "tiny.onnxtxt", "-o", "out.onnx", "--passes", f"remove-dead,{module}:Failing"]) == 70
    said = capsys.readouterr().err.splitlines()[-1]
    assert "pass 'failing' failed with KeyError: 'oops'" in said
    assert said.endswith(f"This is a bug in {module}:Failing.")


def test_a_pass_inside_a_function_is_not_found_again(module: str) -> None:
    hidden = import_named(f"{module}:inside")()
    text = passes_to_text([hidden()])
    with pytest.raises(ConfigError, match="is defined inside a function, where nothing else finds it"):
        passes_from_text(text, find_pass)


def test_names_come_from_the_class() -> None:
    class DropBNOf2(Pass):
        """Drop.

        More.
        """

    class Named(Pass):
        name: ClassVar[str] = "other"
        summary: ClassVar[str] = "say"

    class Child(Named):
        """Not this."""

    assert [(p.name, p.summary) for p in (DropBNOf2, Named, Child)] == [
        ("drop-bn-of2", "Drop"), ("other", "say"), ("other", "say"),
    ]  # fmt: skip
    assert spelled(Named).startswith("tests.pipeline.test_custom_pass:test_names")
