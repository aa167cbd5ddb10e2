from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ConfigError
from graphopt.pipeline import Pass
from graphopt.pipeline.options import describe_type, options_of
from graphopt.pipeline.spec import PassSpec, parse_text, passes_from_text, passes_to_text
from graphopt.pipeline.toml import Pipeline, Settings, pipeline_from_toml, pipeline_to_toml
from tests.pipeline.toys import Mode, Nothing, Options, Required, resolve

OPTIONS = st.builds(
    Options,
    size_limit=st.integers(),
    share=st.floats(allow_nan=False),
    keep=st.lists(st.text()).map(tuple),
    method=st.sampled_from(["minmax", "kl"]),
    mode=st.sampled_from(Mode),
    note=st.text().filter(lambda s: s != "bad"),
    exact=st.booleans(),
    limit=st.none() | st.integers(),
    table=st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False, allow_infinity=False))),
    bits=st.integers(2, 16),
)
PASSES = st.lists(st.just(Nothing()) | OPTIONS | st.builds(Required, path=st.text()))


@given(PASSES)
@settings(max_examples=150, deadline=None)
def test_passes_survive_text(passes: list[Pass]) -> None:
    assert passes_from_text(passes_to_text(passes), resolve) == passes


@given(PASSES, st.builds(Settings, st.none() | st.text(), st.none() | st.text(), st.none() | st.text()))
@settings(max_examples=150, deadline=None)
def test_passes_survive_toml(passes: list[Pass], given_settings: Settings) -> None:
    pipeline = Pipeline(tuple(passes), given_settings)
    assert pipeline_from_toml(pipeline_to_toml(pipeline), resolve) == pipeline


@given(st.text(alphabet='ab{}[]=", \\1.-\n', max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_pipeline_or_one_clear_line(text: str) -> None:
    message = ""
    try:
        assert isinstance(parse_text(text), list)
    except ConfigError as error:
        message = str(error)
    assert not message or ("column" in message and "\n" not in message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a", [PassSpec("a")]),
        (" a ,\n b{} ", [PassSpec("a"), PassSpec("b")]),
        (
            "fold-batch-norm,calibrate{method=kl},insert-qdq",
            [PassSpec("fold-batch-norm"), PassSpec("calibrate", {"method": "kl"}), PassSpec("insert-qdq")],
        ),
        (
            'p{a=1,b=true,c=[1,2],d="x, y"}',
            [PassSpec("p", {"a": 1, "b": True, "c": [1, 2], "d": "x, y"})],
        ),
        (
            r'p { e = {x = [a, "}"], y = {}} , f = -1.5e-3, g = /data/x.npz, h = "q\"\n" , i = 1.2.3, j = [] }',
            [
                PassSpec(
                    "p",
                    {
                        "e": {"x": ["a", "}"], "y": {}},
                        "f": -0.0015,
                        "g": "/data/x.npz",
                        "h": 'q"\n',
                        "i": "1.2.3",
                        "j": [],
                    },
                )
            ],
        ),
    ],
)
def test_reading(text: str, expected: list[PassSpec]) -> None:
    assert parse_text(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a,", 3, "found the end; expected a pass name"),
        ("a,,b", 3, "found ','; expected a pass name"),
        ("a b", 3, "found 'b'; expected ',' or the end after pass 'a'"),
        ("a{x}", 4, "found '}'; expected '=' after option 'x'"),
        ("a{x=}", 5, "found '}'; expected a value"),
        ("a{x=1", 6, "found the end; expected ',' or '}' after option 'x'"),
        ("a{x=[1}", 7, "found '}'; expected ',' or ']' in a list"),
        ('a{x="1}', 5, "a string that starts here has no closing quote"),
        ("a{x=1,x=2}", 8, "option 'x' is given twice"),
    ],
)
def test_what_is_wrong_with_a_text(text: str, column: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text)
    assert f"column {column}: {message}" in str(caught.value)


def test_hyphens_and_underscores_mean_the_same() -> None:
    assert passes_from_text("options{size_limit=1}", resolve) == passes_from_text("options{size-limit=1}", resolve)
    with pytest.raises(ConfigError, match="'size-limit' is given twice"):
        passes_from_text("options{size_limit=1,size-limit=2}", resolve)


def test_defaults_are_left_out() -> None:
    toy = "tests.pipeline.toys:Options"
    assert passes_to_text([Options(), Options(limit=None, note="x y")]) == f'{toy},{toy}{{note="x y",limit=none}}'
    assert pipeline_to_toml(Pipeline((Options(size_limit=3),))) == f'[[pass]]\nname = "{toy}"\nsize-limit = 3\n'


def test_infinity() -> None:
    (made,) = passes_from_text("options{share=-inf}", resolve)
    assert isinstance(made, Options)
    assert made.share == -math.inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options{size-limt=1}", "pass 'options' has no option 'size-limt': did you mean 'size-limit'?"),
        ("nothing{x=1}", "pass 'nothing' has no option 'x': it has none"),
        ("options{size-limit=much}", "option 'size-limit' is \"much\"; expected an integer"),
        ("options{size-limit=true}", "option 'size-limit' is true; expected an integer"),
        ("options{size-limit=1.0}", "option 'size-limit' is 1.0; expected an integer"),
        ("options{exact=1}", "option 'exact' is 1; expected true or false"),
        ("options{note=1}", "option 'note' is 1; expected a string"),
        ("options{keep=x}", "option 'keep' is \"x\"; expected a list, each a string"),
        ("options{method=k1}", "option 'method' is \"k1\"; expected minmax | kl"),
        ("options{limit=few}", "option 'limit' is \"few\"; expected an integer or none"),
        ("options{mode=slow}", "option 'mode' is \"slow\"; expected fast | exact"),
        ("options{bits=1}", "option 'bits' is 1; expected an integer (Input should be greater than or equal to 2)"),
        ("options{note=bad}", "pass 'options': a note can't be 'bad'"),
        ("required", "pass 'required': option 'path' (a string) must be given"),
    ],
)
def test_what_is_wrong_with_an_option(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        passes_from_text(text, resolve)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[pass]", "p.toml is not TOML"),
        ("passes = 1", "p.toml: unknown key 'passes': did you mean 'pass'?"),
        ("pass = 1", "p.toml: 'pass' must be an array of tables"),
        ("pipeline = 1", "p.toml: 'pipeline' must be a table"),
        ("[[pass]]\nmethod = 'kl'", "p.toml: a [[pass]] has no name"),
        ("[pipeline]\ntarge = 'x'", "p.toml: [pipeline] has no setting 'targe': did you mean 'target'?"),
        ("[pipeline]\ntarget = 1", "p.toml: setting 'target' is 1; expected a string"),
        ("[[pass]]\nname = 'options'\nbits = '8'", "p.toml: pass 'options': option 'bits' is \"8\"; expected"),
        ("[[pass]]\nname = 'options'\nnote = 2020-01-01", "p.toml: pass 'options': option 'note' is"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline_from_toml(text, resolve, "p.toml")
    assert message in str(caught.value)


def test_options_for_help() -> None:
    named = {o.name: o for o in options_of(Options)}
    assert (named["size-limit"].type, named["size-limit"].default) == ("an integer", 1024)
    assert named["table"].default == {}
    assert [o.required for o in options_of(Required)] == [True]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (tuple[int, ...], "a list, each an integer"),
        (dict[str, float], "a table, each a number"),
        (float | None, "a number or none"),
        (Any, "anything"),
    ],
)
def test_types_in_words(hint: Any, text: str) -> None:
    assert describe_type(hint) == text
