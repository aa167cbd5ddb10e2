import pytest

from graphopt.calibration.preprocess import PRESETS, Preprocess, read_preprocess
from graphopt.errors import ConfigError


def written(tmp_path, text):
    path = tmp_path / "p.toml"
    path.write_text(text)
    return path


def test_a_file_sets_every_field(tmp_path):
    path = written(
        tmp_path,
        'resize = 256\ncrop = [224, 192]\ninterpolation = "bicubic"\nchannels = "bgr"\ndivide = 127.5\n'
        'mean = 1\nstd = [1.0, 2, 3]\nlayout = "NHWC"\n',
    )
    assert read_preprocess(path) == Preprocess(
        resize=256, crop=(224, 192), interpolation="bicubic", channels="bgr", divide=127.5, mean=1.0,
        std=(1.0, 2.0, 3.0), layout="NHWC",
    )  # fmt: skip


def test_a_file_may_start_from_a_preset(tmp_path):
    found = read_preprocess(str(written(tmp_path, 'preset = "imagenet"\ncrop_fraction = 1.0\n')))
    assert found == Preprocess(
        crop_fraction=1.0, channels="rgb", divide=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_name(name):
    assert read_preprocess(name) == PRESETS[name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resize 3", "is not TOML"),
        ('preset = "imagnet"', "did you mean 'imagenet'"),
        ("resise = 3", "did you mean 'resize'"),
        ('resize = "big"', "resize"),
        ("resize = 0", "at least one pixel"),
        ("crop = [3]", "crop"),
        ("crop_fraction = 2.0", "crop_fraction"),
        ("divide = 0", "must not be 0"),
        ("std = [1, 0, 1]", "must not be 0"),
        ('interpolation = "cubic"', "bicubic"),
        ('channels = "brg"', "bgr"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        read_preprocess(written(tmp_path, text))
    assert "p.toml" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_there():
    with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
        read_preprocess("imagenett")
    with pytest.raises(ConfigError, match=r"can't read the preprocessing file 'nowhere.toml'"):
        read_preprocess("nowhere.toml")
