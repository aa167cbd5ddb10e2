from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import graphopt.pipeline.naming
from graphopt.errors import ConfigError
from graphopt.passes import CATALOGUE, all_passes, find_pass
from graphopt.passes.presets import PRESETS, preset
from graphopt.passes.remove_dead import RemoveDead
from graphopt.pipeline.spec import passes_from_text, passes_to_text
from graphopt.targets import find_target
from tests.pipeline.toys import Nothing


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Make other packages bring passes: name (with _ for -) → "module:Class"."""
    bring(monkeypatch, *(EntryPoint(name.replace("_", "-"), v, "graphopt.passes") for name, v in points.items()))


def bring(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(graphopt.pipeline.naming, "_entry_points", lambda places: points)  # type: ignore[misc]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_pass_of_the_catalogue_can_be_loaded_and_explains_itself(name: str) -> None:
    found = find_pass(name)
    assert found.name == name
    assert 0 < len(found.summary) <= 100
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]  # set by dataclasses


def test_an_unknown_pass_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="there is no pass 'remove-deed': did you mean 'remove-dead'"):
        find_pass("remove-deed")
    with pytest.raises(ConfigError, match=r"there is no pass 'xyzzy': there are: .*remove-dead"):
        find_pass("xyzzy")


def test_another_packages_pass_is_found_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nothing="tests.pipeline.toys:Nothing")
    assert find_pass("nothing") is Nothing
    assert passes_from_text("nothing,remove-dead", find_pass) == [Nothing(), RemoveDead()]
    assert [i.name for i in all_passes()] == [*CATALOGUE, "nothing"]
    with pytest.raises(ConfigError, match="did you mean 'nothing'"):
        find_pass("nothin")


def test_a_package_that_is_installed_later_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="there is no pass 'nothing'"):
        find_pass("nothing")
    installed = tmp_path / "toys-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: toys\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[graphopt.passes]\nnothing = tests.pipeline.toys:Nothing\n")
    assert find_pass("nothing") is Nothing
    assert all_passes()[-1].package == "toys"
    shutil.rmtree(installed)
    with pytest.raises(ConfigError, match="there is no pass 'nothing'"):
        find_pass("nothing")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests.no_such_module:X", "can't be imported .ModuleNotFoundError"),
        ("tests.pipeline.toys:NoSuchClass", "can't be imported .AttributeError"),
        ("tests.pipeline.toys:Mode", "is not a subclass of graphopt's Pass"),
        ("tests.pipeline.toys:Nothing", "calls itself 'nothing'"),
    ],
)
def test_a_broken_package_only_matters_when_its_pass_is_wanted(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    install(monkeypatch, broken=value)
    assert find_pass("remove-dead") is RemoveDead
    with pytest.raises(ConfigError, match=message):
        find_pass("broken")
    listed = all_passes()[-1]
    assert listed.name == "broken"
    assert listed.error is not None


def test_another_package_can_not_replace_a_pass_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, remove_dead="tests.pipeline.toys:Nothing")
    with pytest.raises(ConfigError, match=r"'remove-dead' is graphopt's own, but .*toys:Nothing"):
        find_pass("remove-dead")
    assert [i.error is None for i in all_passes() if i.name == "remove-dead"] == [True, False]


def test_two_packages_can_not_bring_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, *(EntryPoint("twice", f"package_{x}:P", "graphopt.passes") for x in "ab"))
    with pytest.raises(ConfigError, match=r"'twice' is brought by .*package_a.* and .*package_b"):
        find_pass("twice")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_real_passes(name: str) -> None:
    texts = preset(name, find_target("onnxruntime"))
    passes = passes_from_text(",".join(texts), find_pass)
    assert passes_to_text(passes) == ",".join(texts)


def test_float_keeps_the_outputs() -> None:
    assert all(find_pass(name).lossless for name in preset("float", None))


def test_an_unknown_preset_and_a_missing_target_are_said() -> None:
    with pytest.raises(ConfigError, match="there is no preset 'int9': did you mean 'int8'"):
        preset("int9", None)
    with pytest.raises(ConfigError, match="preset 'int8' needs a target"):
        preset("int8", None)
