"""The documentation is true: its code runs and prints what is shown, its links lead somewhere, its options exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import urlparse

import numpy as np
import pytest
import typer
from PIL import Image

from graphopt.cli.app import app
from tests.support.markdown_files import MarkdownFile
from tests.support.run_docs import DATA, ROOT, RUN, SHOWN, DocsRunner, commands, compare, plain_words

DIGITS = ROOT / "calibration_data"
# Their code runs. CONTRIBUTING's are the commands of development themselves, and CHANGELOG has none.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), DIGITS / "README.md"]
ALL = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "examples").rglob("*.md"))]
FILES = {path: MarkdownFile.read(path) for path in ALL}
MOST_NOT_RUN = 6
OTHERS_OPTIONS = {"--out", "--peer", "--samples", "--validation"}  # of make.py and benchmarks


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has: a model, samples, samples with labels, pictures; and the repository's own data."""
    shutil.copy(DIGITS / "digits_cnn.onnx", tmp_path / "model.onnx")
    shutil.copy(DIGITS / "calibration.npz", tmp_path / "samples.npz")
    shutil.copy(DIGITS / "validation.npz", tmp_path / "labelled.npz")
    (tmp_path / "calibration_data").symlink_to(DIGITS)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(np.load(DIGITS / "validation.npz")["image"][:8]):
        pixels = ((image[0] + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    for name, call in {"graphopt": f"{sys.executable} -m graphopt", "python": sys.executable}.items():
        (tmp_path / ".bin").mkdir(exist_ok=True)
        (tmp_path / ".bin" / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (tmp_path / ".bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / '.bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")  # torch about itself
@pytest.mark.parametrize("path", [p for p in PAGES if any(b.language in RUN for b in FILES[p].blocks)], ids=named)
def test_all_code_runs_and_prints_what_is_shown(path: Path, folder: Path) -> None:
    runner = DocsRunner(FILES[path], folder)
    try:
        for block in FILES[path].blocks:
            runner.run(block)
    finally:
        runner.close()


def test_every_block_says_what_it_is() -> None:
    known = RUN | DATA | SHOWN
    for path in PAGES:
        assert FILES[path].indented == [], f"{named(path)}: code is fenced, so that its language can be said"
        for block in FILES[path].blocks:
            assert block.language in known, f"{named(path)}:{block.line}: language '{block.language}'"


def test_files_that_are_shown_are_named_and_used() -> None:
    for path in PAGES:
        blocks = FILES[path].blocks
        for index, block in enumerate(blocks):
            name = block.mark("file")
            later = "".join(b.code for b in blocks[index + 1 :] if b.language in RUN and b.mark("not run") is None)
            where = f"{named(path)}:{block.line}: '{name}'"
            assert name is None or Path(name).stem in later, f"{where} isn't used"
            assert name is None or name in FILES[path].spans, f"{where} isn't named where readers see it"


def test_few_blocks_are_not_run_and_each_has_its_reason() -> None:
    reasons = [block.mark("not run") for path in PAGES for block in FILES[path].blocks]
    given = [reason for reason in reasons if reason is not None]
    assert all(len(reason) > 10 for reason in given)
    assert len(given) <= MOST_NOT_RUN


@pytest.mark.parametrize("path", ALL, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    broken: list[str] = []
    for link in FILES[path].links:
        if "://" in link:
            url = urlparse(link)
            good = url.scheme == "https" and "." in url.netloc and " " not in link
        else:
            target, _, fragment = link.partition("#")
            file = (path.parent / target).resolve() if target else path
            good = file.exists() and file.is_relative_to(ROOT.resolve())
            if good and fragment:
                good = file.suffix == ".md" and fragment in MarkdownFile.read(file).anchors
        if not good:
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", ALL, ids=named)
def test_files_and_modules_that_are_named_exist(path: Path) -> None:
    spans = FILES[path].spans
    folders = "graphopt|passes|calibration_data|benchmarks|tests|examples|docs"
    files = [span for span in spans if re.fullmatch(rf"(?:{folders})/[\w./-]*", span)]
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = [m[1] for span in spans if (m := re.match(r"python -m ((?:graphopt|benchmarks)[\w.]*)", span))]
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    public = [m[0] for span in spans if (m := re.match(r"graphopt(?:\.\w+)+", span)) and "." in m[0]]
    assert [name for name in public if not is_defined(name)] == []


@pytest.mark.parametrize("path", ALL, ids=named)
def test_rows_of_tables_have_as_many_cells_as_their_headings(path: Path) -> None:
    cells = 0
    for line in FILES[path].prose:
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert found in (0, cells) or cells == 0, line
        cells = found


def is_defined(dotted: str) -> bool:
    with suppress(ImportError):  # what is left is no module, or one that imports an extra
        if importlib.util.find_spec(dotted) is not None:
            return True
    try:
        resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("path", ALL, ids=named)
def test_commands_and_options_that_are_named_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    options = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]  # it has sub-commands
    }
    own = {"--help", "--version"}
    everywhere = own.union(OTHERS_OPTIONS, *options.values())
    wrong: list[str] = []
    for span in FILES[path].spans:
        given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span))
        words = span.split()
        if words[0] == "graphopt" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            known = options.get(words[1], set()) | own
            wrong += [span] if words[1] not in options or given - known else []
        elif span.startswith("--") and given - everywhere:
            wrong.append(span)
    assert wrong == []


def test_markdown_is_read_as_github_does(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n## Same\n\n<!-- file: a.toml -->\n\n```toml\nx = 1\n```\n\n## Same\n\n- item [one](a.md#b)\n\n"
        "  ```sh\n  graphopt passes\n  ```\n\nText `[no](link)` and\n`two\nlines`, ![picture](p.png).\n\n    indented\n"
    )
    read = MarkdownFile.read(page)
    assert [(b.language, b.code, b.mark("file"), b.line) for b in read.blocks] == [
        ("toml", "x = 1\n", "a.toml", 8),
        ("sh", "graphopt passes\n", None, 16),
    ]
    assert read.anchors == {"a-page", "same", "same-1"}
    assert read.links == ["a.md#b", "p.png"]
    assert read.spans == ["[no](link)", "two lines"]
    assert read.indented == [23]


def test_output_is_compared_by_its_shape() -> None:
    printed = "model.onnx → out.onnx\n  nodes   30   59\nsaved out.onnx in 223 ms\n"
    compare("model.onnx → out.onnx\n  nodes  31  5\n…\nsaved out.onnx in 1.5 s\n", printed, "here")
    compare("model.onnx …\n", printed, "here")
    for wrong in ("saved\n", "saved out.onnx in 1 ms\n  nodes 1 2\n", "  nodes 1\n"):
        with pytest.raises(AssertionError, match="here: the commands don't print"):
            compare(wrong, printed, "here")


def test_commands_are_told_from_shell_scripts() -> None:
    assert commands("# a comment\ngraphopt a \\\n  b\n\ngraphopt c\n") == ["graphopt a    b", "graphopt c"]
    assert plain_words(".venv/bin/graphopt optimize 'a b' --x  # exit code 1") == ["graphopt", "optimize", "a b", "--x"]
    assert plain_words("graphopt optimize --passes 'a{b=1},c*'") == ["graphopt", "optimize", "--passes", "a{b=1},c*"]
    assert all(plain_words(line) is None for line in ("graphopt a > b", "graphopt a | b", "graphopt $A", "ls *.txt"))
