import numpy as np
import pytest
from PIL import Image

from graphopt.calibration import figures, plots
from graphopt.calibration.histogram import Histogram
from graphopt.errors import ConfigError, EmitError
from graphopt.quant import Range, Scheme

pytest.importorskip("matplotlib")
RANGES = {"minmax": Range.of(-4.0, 40.0), "kl": Range.of(-3.1, 3.2), "mse": Range.of(-3.4, 3.5)}


def picture(tensor="/block1/Relu_output_0", values=None):
    histogram = Histogram()
    histogram.update(np.random.default_rng(0).normal(size=10000) if values is None else np.asarray(values, np.float32))
    return plots.Picture(tensor, histogram, Scheme("uint8"), RANGES, "mse")


@pytest.mark.parametrize("low", [-4.0, 0.0, -0.01])
def test_bars_hold_every_value_but_zero_on_their_side(low):
    values = np.concatenate([np.random.default_rng(1).uniform(low, 3, 5000), np.zeros(7)]).astype(np.float32)
    edges, counts = plots.bars(picture(values=values).histogram)
    assert len(counts) <= 240
    assert np.array_equal(np.histogram(values[values != 0], edges)[0][1:-1], counts[1:-1])
    assert counts.sum() == np.count_nonzero(values)
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]
    assert 0 in edges or low == 0.0


def test_nothing_but_zeros_can_be_drawn(tmp_path):
    plots.draw(tmp_path, [picture(values=np.zeros(5)), picture(values=np.zeros(0))])


def test_one_picture_a_tensor_and_a_page_that_shows_them(tmp_path):
    tensors = ["a/b:0", "a_b_0", "<script>", "../../x", "$\\frac$", "ü", "n" * 300]
    plots.draw(tmp_path / "new" / "folder", [picture(t) for t in tensors])
    found = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert len(found) == len(tensors) + 1
    page = (tmp_path / "new" / "folder" / "index.html").read_text()
    assert "<script>" not in page
    for name in found[:-1]:
        assert f'src="{name}"' in page
        with Image.open(tmp_path / "new" / "folder" / name) as image:
            assert image.size == (990, 462)


def test_the_same_values_give_the_same_bytes(tmp_path):
    for folder in ("1", "2"):
        plots.draw(tmp_path / folder, [picture()])
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_errors(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmitError, match="can't be made"):
        plots.draw(tmp_path / "file", [])

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(figures.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'graphopt\[plot\]'"):
        plots.draw(tmp_path, [])
