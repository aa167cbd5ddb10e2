import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphopt.calibration import InputSpec, images, load_dataset
from graphopt.calibration.preprocess import PRESETS, Preprocess
from graphopt.errors import CalibrationError

F32 = np.dtype(np.float32)
NCHW = InputSpec("x", F32, ("N", 3, 8, 8))
COLOR = (255, 51, 0)


def picture(path: Path, array, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)
    return path


def flat(path: Path, color=COLOR, size=(8, 8)) -> Path:
    return picture(path, np.broadcast_to(np.array(color), (*size, 3)))


def read(folder, spec=NCHW, preprocess="raw"):
    dataset = load_dataset(folder, [spec], preprocess=preprocess)
    samples = [feed[spec.name] for feed in dataset]
    assert len(dataset) == len(samples)
    return samples


def fails(folder, *words, spec=NCHW, preprocess="raw", inputs=None):
    with pytest.raises(CalibrationError) as error:
        list(load_dataset(folder, inputs or [spec], preprocess=preprocess))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


# --- values ---


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("raw", (255.0, 51.0, 0.0)),
        ("unit", (1.0, 0.2, 0.0)),
        ("imagenet", ((1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225)),
        ("imagenet-bgr", (0 - 103.939, 51 - 116.779, 255 - 123.68)),
    ],
)
def test_presets(tmp_path, preset, expected):
    flat(tmp_path / "a.png")
    (value,) = read(tmp_path, preprocess=preset)
    assert value.dtype == F32
    assert value.shape == (1, 3, 8, 8)
    assert value == pytest.approx(np.broadcast_to(np.array(expected).reshape(1, 3, 1, 1), value.shape), rel=1e-6)


def test_layouts_and_channel_orders(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    picture(tmp_path / "a.png", array)
    for spec, options, expected in (
        (NCHW, {}, array.transpose(2, 0, 1)[None]),
        (NCHW, {"channels": "bgr"}, array[..., ::-1].transpose(2, 0, 1)[None]),
        (InputSpec("x", F32, (1, 8, 8, 3)), {}, array[None]),
        (InputSpec("x", F32, (3, 8, 8)), {}, array.transpose(2, 0, 1)),
        (InputSpec("x", F32, (8, 8, 3)), {}, array),
        (InputSpec("x", F32, (1, None, None, None)), {"layout": "NHWC"}, array[None]),
        (InputSpec("x", np.dtype(np.uint8), (1, 8, 8, 3)), {}, array[None]),
        (InputSpec("x", np.dtype(np.float16), (1, 8, 8, 3)), {}, array[None]),
    ):
        (value,) = read(tmp_path, spec, Preprocess(**options))
        assert value.dtype == spec.dtype
        assert value.flags["C_CONTIGUOUS"]
        assert np.array_equal(value, expected)


def test_gray_follows_the_input(tmp_path):
    flat(tmp_path / "a.png")
    (value,) = read(tmp_path, InputSpec("x", F32, (1, 1, 8, 8)))
    # ITU-R 601-2 luma, which Pillow documents for RGB → L
    assert value == pytest.approx(np.full((1, 1, 8, 8), 255 * 0.299 + 51 * 0.587), abs=0.6)
    fails(tmp_path, "3 channels", "1 (gray)", preprocess=Preprocess(channels="gray"))


def test_the_crop_is_the_centre_of_the_resized_image(tmp_path):
    array = np.arange(10 * 14 * 3).reshape(10, 14, 3) % 256
    picture(tmp_path / "a.png", array)
    spec = InputSpec("x", F32, (1, 3, None, None))
    (value,) = read(tmp_path, spec, Preprocess(crop=(4, 6)))
    assert np.array_equal(value[0].transpose(1, 2, 0), array[3:7, 4:10])
    (value,) = read(tmp_path, spec, Preprocess())
    assert value.shape == (1, 3, 10, 14)
    (value,) = read(tmp_path, spec, Preprocess(resize=5))
    assert value.shape == (1, 3, 5, 7)
    (value,) = read(tmp_path, NCHW, Preprocess(resize=10))
    assert np.array_equal(value[0].transpose(1, 2, 0), array[1:9, 3:11])
    (value,) = read(tmp_path, NCHW, Preprocess(resize=(20, 28), interpolation="nearest", crop=8))
    assert np.array_equal(value[0].transpose(1, 2, 0), array.repeat(2, 0).repeat(2, 1)[6:14, 10:18])


def test_imagenet_is_what_torchvision_s_models_are_evaluated_with(tmp_path):
    array = np.random.default_rng(1).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    picture(tmp_path / "a.png", array)
    resized = Image.fromarray(array).resize((341, 256), Image.Resampling.BILINEAR)  # int(256 · 400 / 300) = 341
    cropped = np.asarray(resized)[16 : 16 + 224, 58 : 58 + 224] / 255
    expected = (cropped - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for size in (224, None):
        (value,) = read(tmp_path, InputSpec("x", F32, (1, 3, size, size)), "imagenet")
        assert value[0].transpose(1, 2, 0) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_crop_that_is_not_square_is_covered(tmp_path):
    for k, size in enumerate([(40, 30), (30, 40), (5, 90)]):
        flat(tmp_path / f"{k}.png", size=size)
    assert [v.shape for v in read(tmp_path, InputSpec("x", F32, (1, 3, 16, 24)), "imagenet")] == [(1, 3, 16, 24)] * 3


# --- files ---


def test_subfolders_in_sorted_order_and_one_image_at_a_time(tmp_path, monkeypatch):
    for k, name in enumerate(("a/1.png", "a/2.png", "b/0.bmp", "c.webp")):
        flat(tmp_path / name, (k, k, k)) if not name.endswith("webp") else picture(
            tmp_path / name, np.full((8, 8, 3), k), lossless=True
        )
    (tmp_path / "a" / "labels.txt").write_text("no image")
    flat(tmp_path / ".cache" / "0.png")
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(images.Image, "open", lambda path: opened.append(path.name) or real(path))
    dataset = load_dataset(tmp_path, [NCHW], preprocess="raw")
    assert (dataset.count, opened) == (4, [])
    assert [(float(feed["x"][0, 0, 0, 0]), len(opened)) for feed in dataset] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert opened == ["1.png", "2.png", "0.bmp", "c.webp"]
    (one,) = read(tmp_path / "a" / "2.png")
    assert one[0, 0, 0, 0] == 1


def test_images_are_turned_as_exif_says(tmp_path):
    array = np.zeros((8, 8, 3))
    array[0] = 255  # a white top row
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    picture(tmp_path / "a.png", array, exif=exif)
    (value,) = read(tmp_path)
    assert np.array_equal(value[0, 0], np.pad(np.full((8, 1), 255), ((0, 0), (7, 0))))


def test_palettes_alpha_and_animations(tmp_path):
    frame = Image.fromarray(np.broadcast_to(np.uint8(COLOR), (8, 8, 3)).copy())
    frame.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    frame.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "b.png")
    frame.convert("RGBA").save(tmp_path / "c.png")
    assert [tuple(v[0, :, 0, 0]) for v in read(tmp_path)] == [COLOR] * 3


def test_a_fixed_batch_takes_as_many_images_at_a_time(tmp_path):
    for k in range(6):
        flat(tmp_path / f"{k}.png", (k, 0, 0))
    two = InputSpec("x", F32, (2, 3, 8, 8))
    assert [v[:, 0, 0, 0].tolist() for v in read(tmp_path, two)] == [[0, 1], [2, 3], [4, 5]]
    fails(tmp_path, "6 images", "4 at a time", spec=InputSpec("x", F32, (4, 3, 8, 8)))


# --- errors ---


def test_a_damaged_image_is_named(tmp_path):
    flat(tmp_path / "a.png")
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    (tmp_path / "b.jpg").write_bytes(stream.getvalue()[:-900])
    fails(tmp_path, "b.jpg' is not a readable image", "truncated")
    (tmp_path / "b.jpg").write_bytes(b"")
    fails(tmp_path, "b.jpg' is not a readable image")
    (tmp_path / "b.jpg").write_text("<html>not found</html>")
    fails(tmp_path, "b.jpg' is not a readable image")


def test_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "a.png")
    fails(tmp_path, "a.png", "more than 8 bits")


def test_what_does_not_fit_the_input(tmp_path):
    flat(tmp_path / "a.png")
    fails(tmp_path, "a.png' is [1, 3, 4, 4]", "float32 [N, 3, 8, 8]", preprocess=Preprocess(resize=(4, 4)))
    fails(tmp_path, "8×8 before the crop of 9×9", preprocess=Preprocess(crop=9))
    fails(tmp_path, "takes no image", spec=InputSpec("x", F32, (1, 3)))
    fails(tmp_path, "layout", "can't be told", spec=InputSpec("x", F32, (1, 3, 8, 3)))
    fails(tmp_path, "layout", "can't be told", spec=InputSpec("x", F32, (1, None, None, None)))
    fails(tmp_path, "uint8", "preset raw", spec=InputSpec("x", np.dtype(np.uint8), (1, 3, 8, 8)), preprocess="unit")
    fails(tmp_path, "mean has 2 numbers", preprocess=Preprocess(mean=(1.0, 2.0)))
    fails(tmp_path, "one input", "2 ('x', 'z')", ".npz", inputs=[NCHW, InputSpec("z", F32, (1,))])


def test_images_need_to_know_how(tmp_path):
    flat(tmp_path / "a.png")
    fails(tmp_path, "--preprocess", *PRESETS, preprocess=None)


def test_a_folder_of_npz_is_no_folder_of_images(tmp_path):
    flat(tmp_path / "a.png")
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    assert len(load_dataset(tmp_path, [NCHW])) == 2
    assert os.listdir(tmp_path)
