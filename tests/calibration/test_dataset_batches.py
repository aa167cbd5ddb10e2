"""Python sources as users have them: loaders that yield tensors, tuples and dicts, in batches of any size."""

import numpy as np
import pytest

from graphopt.calibration import InputSpec, data_hash, load_dataset
from graphopt.errors import CalibrationError

F32 = np.dtype(np.float32)
ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)
FIXED, DYNAMIC = InputSpec("x", F32, (1, 3)), InputSpec("x", F32, ("N", 3))
LABELS = InputSpec("y", np.dtype(np.int64), ("N",))


class Tensor:
    """What a torch tensor offers; `numpy` refuses while a gradient is attached or on another device."""

    def __init__(self, array, *, grad=True, device="cuda", dtype="torch.float32"):
        self.array, self.grad, self.device, self.dtype = np.asarray(array), grad, device, dtype
        self.shape = self.array.shape

    def detach(self):
        return Tensor(self.array, grad=False, device=self.device, dtype=self.dtype)

    def cpu(self):
        return Tensor(self.array, grad=self.grad, device="cpu", dtype=self.dtype)

    def float(self):
        return Tensor(self.array, grad=self.grad, device=self.device)

    def numpy(self):
        if self.grad or self.device != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert tensor to numpy")
        return self.array

    def __array__(self, dtype=None, copy=None):
        return self.numpy()


class Loader:
    """As torch's DataLoader: its length is in batches, the last of which is smaller; it can be walked again."""

    def __init__(self, make, size):
        self.make, self.size = make, size

    def __len__(self):
        return -(-len(ROWS) // self.size)

    def __iter__(self):
        for start in range(0, len(ROWS), self.size):
            yield self.make(
                Tensor(ROWS[start : start + self.size]), Tensor(np.arange(len(ROWS))[start : start + self.size])
            )


FORMS = {
    "tensor": lambda x, y: x,
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"x": x, "labels": y},
    "dict and label": lambda x, y: ({"x": x}, y),
    "tuple in a tuple": lambda x, y: ((x,), y),
    "numpy": lambda x, y: x.detach().cpu().numpy(),
    "bfloat16": lambda x, y: Tensor(x.array, dtype="torch.bfloat16"),
}


@pytest.mark.parametrize("spec", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("form", FORMS)
def test_batches_become_model_calls(form, size, spec):
    dataset = load_dataset(Loader(FORMS[form], size), [spec])
    samples = list(dataset)
    assert dataset.count is None
    assert [s["x"].shape for s in samples] == [(1, 3)] * len(ROWS)
    assert np.array_equal(np.concatenate([s["x"] for s in samples]), ROWS)
    assert data_hash(dataset) == data_hash(load_dataset({"x": ROWS}, [spec]))


def test_batches_for_a_fixed_batch_above_one():
    four = InputSpec("x", F32, (2, 3))
    assert len(list(load_dataset([ROWS[:6], ROWS[:2]], [four]))) == 4
    with pytest.raises(CalibrationError, match=r"sample 1: input 'x' has shape \[3, 3\]"):
        list(load_dataset([ROWS[:6], ROWS[:3]], [four]))


def test_two_inputs_in_order_and_inputs_that_do_not_grow():
    rate = InputSpec("rate", np.dtype(np.int64), ())
    batches = [(Tensor(ROWS[:4]), np.arange(4)), (Tensor(ROWS[4:]), np.arange(3))]
    samples = list(load_dataset(batches, [DYNAMIC, InputSpec("z", F32, ("N",))]))
    assert [(float(s["x"][0, 0]), s["z"].tolist()) for s in samples] == [(3 * k, [k % 4]) for k in range(7)]
    (signal,) = load_dataset([np.zeros(16000)], [InputSpec("x", F32, ("N",))])
    assert signal["x"].shape == (16000,)
    samples = list(load_dataset([{"x": ROWS, "rate": 16000}], [DYNAMIC, rate]))
    assert [(s["x"].shape, int(s["rate"])) for s in samples] == [((1, 3), 16000)] * 7
    with pytest.raises(CalibrationError, match=r"sample 0: 1 arrays for 2 inputs \('x', 'rate'\)"):
        list(load_dataset([(ROWS,)], [DYNAMIC, rate]))


def test_a_state_with_the_batch_on_another_axis_is_not_torn_apart():
    state = InputSpec("h", F32, (2, "N", 4))
    (sample,) = load_dataset([{"x": ROWS, "h": np.zeros((2, 7, 4))}], [DYNAMIC, state])
    assert (sample["x"].shape, sample["h"].shape) == ((7, 3), (2, 7, 4))


def test_lists_are_counted_and_limited():
    dataset = load_dataset([ROWS[:4], ROWS[4:]], [FIXED])
    assert dataset.count == 7
    assert len(list(dataset.limited(5))) == 5
    assert load_dataset([[[1, 2, 3]], [[4, 5, 6]]], [FIXED]).count == 2


def test_a_tensor_of_all_samples():
    assert len(list(load_dataset(Tensor(ROWS), [FIXED]))) == 7
    assert len(list(load_dataset({"x": Tensor(ROWS)}, [FIXED]))) == 7


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"x": object()}, ["sample 1", "'x'", "object"]),
        ([[1.0, 2.0], [3.0]], ["sample 1", "list can't be made an array"]),
        (np.full((4, 3), np.nan), ["sample 1, row 0", "'x' holds nan"]),
        (np.zeros((4, 5)), ["sample 1", "shape [4, 5]", "float32 [1, 3]"]),
        ({"z": ROWS}, ["sample 1", "'x' is missing"]),
    ],
)
def test_errors_name_the_sample_and_the_input(sample, words):
    with pytest.raises(CalibrationError) as error:
        list(load_dataset([ROWS[:2], sample], [FIXED]))
    for word in words:
        assert word in str(error.value), str(error.value)
