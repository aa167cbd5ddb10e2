import io
import sys
import zipfile

import numpy as np
import onnx.parser
import pytest

from graphopt.calibration import InputSpec, input_specs, load_dataset
from graphopt.errors import CalibrationError, ConfigError, UnsupportedError

F32 = np.dtype(np.float32)
X = InputSpec("x", F32, (1, 3))


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def feeds(dataset):
    return [feed["x"] for feed in dataset]


def fails(source, *words, inputs=(X,)):
    with pytest.raises(CalibrationError) as error:
        list(load_dataset(source, inputs))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# --- what the model asks for ---


def test_inputs_are_the_graph_inputs_that_no_initializer_gives():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["":13]>
        g (float[N,3,?] a, int64 s, float16 r, float[2] w) => (float[N,3,?] y)
        <float[2] w = {1, 2}> { y = Identity(a) }"""
    )
    model.graph.input[2].type.tensor_type.ClearField("shape")
    assert input_specs(model) == [
        InputSpec("a", F32, ("N", 3, None)),
        InputSpec("s", np.dtype(np.int64), ()),
        InputSpec("r", np.dtype(np.float16), None),
    ]
    assert [str(spec) for spec in input_specs(model)] == [
        "float32 [N, 3, ?]",
        "int64 []",
        "float16 of any shape",
    ]


def test_an_input_that_is_no_tensor_is_refused():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["":13]>
        g (seq(float[N]) s) => (float[N] y) { y = ConcatFromSequence<axis=0>(s) }"""
    )
    with pytest.raises(UnsupportedError, match="input 's' is not a tensor"):
        input_specs(model)


# --- cutting stacked arrays ---


@pytest.mark.parametrize(
    ("declared", "stacked", "sample"),
    [
        ((1, 3), (5, 3), (1, 3)),
        ((1, 3), (5, 1, 3), (1, 3)),
        ((2, 3), (10, 3), (2, 3)),
        (("N", 3), (5, 3), (1, 3)),
        (("N", 3), (5, 7, 3), (7, 3)),
        ((None, None), (5, 4), (1, 4)),
        ((2, "N", 128), (10, 1, 128), (2, 1, 128)),
        ((), (5,), ()),
        ((3,), (5, 3), (3,)),
        (None, (5, 3), (1, 3)),
    ],
)
def test_samples_are_cut_along_axis_0(tmp_path, declared, stacked, sample):
    values = np.arange(np.prod(stacked), dtype=np.float32).reshape(stacked)
    dataset = load_dataset(save(tmp_path / "d.npz", x=values), [InputSpec("x", F32, declared)])
    got = feeds(dataset)
    assert len(dataset) == len(got) == 5
    assert [g.shape for g in got] == [sample] * 5
    assert all(isinstance(g, np.ndarray) and g.dtype == F32 for g in got)
    assert np.array_equal(np.concatenate([g.reshape(-1) for g in got]), values.reshape(-1))


def test_a_dataset_can_be_read_again_and_limited(tmp_path):
    path = save(tmp_path / "d.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3), labels=np.arange(4))
    dataset = load_dataset(path, [X], limit=2)
    assert len(dataset) == len(feeds(dataset)) == len(feeds(dataset)) == 2
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1]
    assert len(load_dataset(path, [X], limit=9)) == 4
    with pytest.raises(ConfigError, match="limit is 0"):
        load_dataset(path, [X], limit=0)


def test_fortran_order_arrays_give_contiguous_samples(tmp_path):
    values = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    got = feeds(load_dataset(save(tmp_path / "d.npz", x=values), [InputSpec("x", F32, (1, 3, 4))]))
    assert all(g.flags["C_CONTIGUOUS"] for g in got)
    assert np.array_equal(np.concatenate(got), values)


def test_a_folder_is_read_in_sorted_order_one_file_at_a_time(tmp_path, monkeypatch):
    for name, value in (("b", 1), ("a", 0), ("c", 2)):
        save(tmp_path / f"{name}.npz", x=np.full((2, 3), value, np.float32), labels=np.full(2, value))
    dataset = load_dataset(tmp_path, [X])
    assert dataset.count == 6
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    opened = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path, **options: opened.append(path.name) or load(path, **options))
    seen = [(float(feed["x"][0, 0]), len(opened)) for feed in dataset]
    assert seen == [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 3)]
    assert opened == ["a.npz", "b.npz", "c.npz"]


# --- Python sources ---


def test_python_sources(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    dicts = [{"x": row[None]} for row in rows]
    for source in ({"x": rows}, rows, dicts, [row[None] for row in rows], (d for d in dicts)):
        dataset = load_dataset(source, [X])
        for _ in range(2):
            assert np.array_equal(np.concatenate(feeds(dataset)), rows)
        assert dataset.count == 2


def test_a_function_is_called_for_each_reading(tmp_path, monkeypatch):
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\ncalls = 0\n"
        "def three():\n    global calls\n    calls += 1\n"
        "    for i in range(3):\n        yield {'x': np.full((1, 3), i)}\n"
        "def breaks():\n    yield {'x': np.zeros((1, 3))}\n    raise KeyError('boom')\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    dataset = load_dataset("my_samples:three", [X])
    assert sys.path == path
    assert dataset.count is None
    assert [float(x[0, 0]) for x in feeds(dataset)] == [float(x[0, 0]) for x in feeds(dataset)] == [0, 1, 2]
    assert sys.modules["my_samples"].calls == 2
    assert len(feeds(load_dataset("my_samples:three", [X], limit=2))) == 2
    fails("my_samples:breaks", "my_samples:breaks, sample 1", "KeyError", "boom")
    fails("my_samples:absent", "no function 'absent'")
    fails("no_such_module_here:f", "can't be imported")


# --- errors, one each ---


def test_missing_file(tmp_path):
    fails(tmp_path / "absent.npz", "absent.npz", "doesn't exist")
    fails(str(tmp_path / "absent.npz"), "absent.npz", "doesn't exist")


def test_not_an_npz(tmp_path):
    (tmp_path / "t.npz").write_text("hello")
    fails(tmp_path / "t.npz", "t.npz", "not a readable .npz")
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    fails(tmp_path / "a.npy", "a.npy", "numpy.savez")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("readme.txt", "hi")
    fails(tmp_path / "z.npz", "z.npz", "not a readable .npz")


def test_damaged_npz(tmp_path):
    stream = io.BytesIO()
    np.savez(stream, x=np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    data = bytearray(stream.getvalue())
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    fails(tmp_path / "cut.npz", "cut.npz", "not a readable .npz")
    data[200] ^= 0xFF  # a value: only its checksum tells
    (tmp_path / "flip.npz").write_bytes(data)
    fails(tmp_path / "flip.npz", "flip.npz", "not a readable .npz")


def test_missing_input(tmp_path):
    path = save(tmp_path / "d.npz", image=np.zeros((2, 3)), other=np.zeros(2))
    fails(path, "'images' is missing", "'image', 'other'", "rename 'image'", inputs=[InputSpec("images", F32, (1, 3))])
    fails(path, "'x' is missing", "add an array named 'x' (float32 [1, 3])")
    fails([{"y": np.zeros((1, 3))}], "sample 0", "'x' is missing", "'y'")


def test_wrong_rank(tmp_path):
    fails(
        save(tmp_path / "d.npz", x=np.zeros(6)),
        "d.npz",
        "'x' has rank 1",
        "rank 2 or",
        "on axis 0, 3",
        "float32 [1, 3]",
    )
    scalar = InputSpec("x", F32, ())
    fails({"x": np.zeros(())}, "'x' has rank 0", "rank 1", inputs=[scalar])


def test_wrong_shape(tmp_path):
    fails(save(tmp_path / "d.npz", x=np.zeros((5, 4))), "shape [5, 4]", "samples of shape [1, 4]", "float32 [1, 3]")
    fails([np.zeros((1, 3)), np.zeros(3)], "sample 1", "shape [3]", "expected float32 [1, 3]", "add a batch axis")
    fails([np.zeros((2, 2))], "sample 0", "shape [2, 2]")


def test_rows_that_are_no_multiple_of_the_batch():
    fails({"x": np.zeros((5, 3))}, "5 rows", "2 at a time", inputs=[InputSpec("x", F32, (2, 3))])


def test_types(tmp_path):
    count = InputSpec("x", np.dtype(np.int8), (1, 3))
    fails(save(tmp_path / "d.npz", x=np.zeros((2, 3))), "float64", "int8", inputs=[count])
    fails({"x": np.full((1, 3), 300)}, "sample 0", "don't fit in int8", inputs=[count])
    fails({"x": np.full((1, 3), 1e300)}, "sample 0", "don't fit in float32")
    fails({"x": np.full((1, 3), "a")}, "<U1", "float32")
    assert feeds(load_dataset({"x": np.full((1, 3), 7)}, [count]))[0].dtype == np.int8
    for dtype in (np.float64, np.float16, np.uint8, np.int64, bool):
        (got,) = feeds(load_dataset({"x": np.ones((1, 3), dtype)}, [X]))
        assert got.dtype == F32
        assert np.array_equal(got, np.ones((1, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    values = np.zeros((4, 3), np.float32)
    values[2, 1] = value
    fails(save(tmp_path / "d.npz", x=values), "d.npz, sample 2", "'x'", f"{value} at [0, 1]")


def test_empty_data(tmp_path):
    fails(save(tmp_path / "d.npz", x=np.zeros((0, 3))), "d.npz", "no samples")
    fails([], "no samples")
    fails(iter(()), "no samples")
    (tmp_path / "none").mkdir()
    fails(tmp_path / "none", "holds no .npz")


def test_different_numbers_of_samples():
    specs = [X, InputSpec("z", F32, (1,))]
    fails({"x": np.zeros((2, 3)), "z": np.zeros(3)}, "'x' has 2", "'z' has 3", inputs=specs)


def test_extra_arrays_are_warned_of(tmp_path):
    path = save(tmp_path / "d.npz", x=np.zeros((2, 3)), mask=np.zeros(2), labels=np.zeros(2, int))
    with pytest.warns(UserWarning, match="'mask' is not an input") as caught:
        load_dataset(path, [X])
    assert len(caught) == 1


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = save(tmp_path / "d.npz", x=np.array([Bomb(), 1], object))
    fails(path, "'x'", "pickled")
    fails(save(tmp_path / "l.npz", x=np.zeros((2, 3)), labels=np.array([Bomb(), 1], object)), "'labels'", "pickled")


def test_labels_that_do_not_fit():
    fails({"x": np.zeros((2, 3)), "labels": np.zeros(3, int)}, "'labels' is int64 [3]", "2 samples")
    fails({"x": np.zeros((2, 3)), "labels": np.zeros(2)}, "'labels' is float64")


def test_an_input_named_labels_is_an_input():
    dataset = load_dataset({"labels": np.ones((2, 3))}, [InputSpec("labels", F32, (1, 3))])
    assert dataset.labels is None
    assert next(iter(dataset))["labels"].shape == (1, 3)


def test_plain_arrays_for_two_inputs():
    fails([np.zeros((1, 3))], "2 inputs ('x', 'z')", "dict", inputs=[X, InputSpec("z", F32, (1,))])
