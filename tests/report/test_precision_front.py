"""The front of mixed precision as a table and as a picture."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from graphopt.analysis.precision.front import front
from graphopt.analysis.precision.greedy import greedy_curve
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.calibration import figures
from graphopt.errors import ConfigError, EmitError
from graphopt.report.precision_front import draw_front, front_csv, save_front
from tests.support.random_precision import random_problem


def choice(seed: int = 0, place: int = 3) -> PrecisionChoice:
    problem = random_problem(seed, 12, [("float32", "int8")])
    points = front(problem)
    return PrecisionChoice(problem, points, points[place], "latency=0.6x")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_line_says_what_a_point_is() -> None:
    found = choice()
    macs = {f"r{i}": 10 + i for i in range(12) if i != 4}
    lines = rows(front_csv(found, macs))
    assert len(lines) == len(found.front)
    for line, point in zip(lines, found.front, strict=True):
        assert {name: line[name] for name in point.precisions} == dict(point.precisions)
        assert float(line["cost (seconds)"]) == pytest.approx(point.cost, rel=1e-8)
        assert float(line["error"]) == pytest.approx(point.error, rel=1e-8)
        integer = sum(count for node, count in macs.items() if point.precisions[node] == "int8")
        assert float(line["MACs int8"]) == pytest.approx(integer / sum(macs.values()), abs=1e-6)
        assert float(line["MACs int8"]) + float(line["MACs float32"]) == pytest.approx(1, abs=2e-6)
        decibels = -10 * math.log10(point.error) if point.error else math.inf
        assert float(line["predicted dB"]) == pytest.approx(decibels, abs=0.01)
    assert float(lines[-1]["error"]) == 0
    assert [line["chosen"] for line in lines] == ["", "", "", "yes", *[""] * (len(lines) - 4)]


def test_shares_need_all_sizes() -> None:
    found = choice()
    assert not [head for head in rows(front_csv(found))[0] if head.startswith("MACs")]
    assert not [head for head in rows(front_csv(found, {"r0": 3, "r1": None}))[0] if head.startswith("MACs")]


def test_a_chosen_point_beside_the_front_has_a_line_too() -> None:
    found = choice()
    other = evaluate(found.problem, dict.fromkeys(found.problem.choices, "float32"), proven=False)
    lines = rows(front_csv(replace(found, front=found.front[:4], chosen=other)))
    assert [line["chosen"] for line in lines] == ["", "", "", "", "yes"]
    assert lines[-1]["proven"] == "no"
    assert float(lines[-1]["cost share"]) == 1


def test_names_that_a_table_must_quote() -> None:
    found = choice()
    regions = replace(found.problem.regions, regions=tuple(
        replace(r, name='a,"b"\n' if r.name == "r0" else r.name) for r in found.problem.regions.regions
    ))  # fmt: skip
    rename = {"r0": 'a,"b"\n'}
    point = replace(found.chosen, precisions={rename.get(r, r): p for r, p in found.chosen.precisions.items()})
    text = front_csv(PrecisionChoice(replace(found.problem, regions=regions), (), point, "a saved assignment"))
    assert rows(text)[0]['a,"b"\n'] == found.chosen.precisions["r0"]


def test_pictures_and_tables_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = choice()
    for name in ("1", "2"):
        written = save_front(tmp_path / name / "deep", found)
        assert [path.name for path in written] == ["front.csv", "front.png"]
        assert save_front(tmp_path / name / "front.svg", found) == (tmp_path / name / "front.svg",)
    for path in (tmp_path / "1").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()
    with Image.open(tmp_path / "1" / "deep" / "front.png") as image:
        assert image.size == (990, 572)


@pytest.mark.parametrize("kind", ["latency", "size", "bits"])
def test_every_kind_of_cost_and_other_curves_can_be_drawn(kind, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = choice(place=-1)  # nothing is lost: its decibels are infinite
    problem = replace(found.problem, costs=replace(found.problem.costs, kind=kind, estimated=True))
    found = replace(found, problem=problem)
    path = tmp_path / "a.svg"
    draw_front(path, found, {"greedy": greedy_curve(problem)})
    text = path.read_text()
    assert "<svg" in text
    save_front(path, replace(found, front=()))  # a replayed plan has no front


def test_errors(tmp_path: Path, monkeypatch) -> None:
    found = choice()
    with pytest.raises(ConfigError, match=r"front\.txt: the front is written as \.csv, \.png, \.svg or into a folder"):
        save_front(tmp_path / "front.txt", found)
    (tmp_path / "file").write_text("")
    with pytest.raises(EmitError, match="can't be made"):
        save_front(tmp_path / "file" / "folder", found)
    with pytest.raises(EmitError, match="can't be written"):
        save_front(tmp_path / "nowhere" / "front.csv", found)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(figures.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'graphopt\[plot\]'"):
        save_front(tmp_path / "front.png", found)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
