"""The plan's grammar, on plans made here: what isn't understood must be an error."""

from __future__ import annotations

import pytest

from graphopt.backends.tensorrt.kernels import PlanTensor, read_kernels
from graphopt.errors import UnsupportedError

MAGIC = b"NLYM\xa1\xda\x1e\x00"
LAYER = "[ONNX Layer: {}]"
HEADER = 'header {\n  version = 5\n  region = { name=devmem size=8 }\n  inputs={ "x" }\n  accelerators={sm86 }\n}\n'
TENSORS = """descriptors {
  tensor={ dims={ 1 8 } name="x" region="" type=int8 }
  tensor={ const_payload_size=64 dims={ "batch" 8 } name="w" type=int8 }
  sub_tensor={ base="x" name="x^deref" type=float }
}
"""
CONV = 'corrltn={ name="c" output={"x^deref" } input={"x" "w" } stream=0  alpha=3F800000 layers="[ONNX Layer: c]" }\n'


def section(text: str, magic: bytes = MAGIC) -> bytes:
    body = text.encode()
    return magic + len(body).to_bytes(8, "little") + body


def plan(main: str = CONV, header: str = HEADER, tensors: str = TENSORS) -> bytes:
    return b"\x00binary" + section(
        f"{header}{tensors}main {{\n label bb1: \n  {main}}}\nshape_main {{\n label bb2: \n}}\n"
    )


def test_a_kernel_with_its_nodes_and_types() -> None:
    (kernel,) = read_kernels(plan(), "1")
    assert (kernel.kind, kernel.name, kernel.nodes) == ("corrltn", "c", ("c",))
    assert kernel.inputs == (PlanTensor("x", "int8"), PlanTensor("w", "int8", 64))
    assert kernel.outputs == (PlanTensor("x^deref", "float"),)
    assert kernel.is_matrix
    assert kernel.operands == ("int8", "int8")
    assert [t.constant for t in kernel.inputs] == [False, True]


def test_every_section_is_read_whatever_stands_between() -> None:
    both = plan() + MAGIC[:4] + b"\xff weights" + plan(CONV.replace('"c"', '"e"'))
    assert [k.name for k in read_kernels(both, "1")] == ["c", "e"]


def test_generated_code_and_escaped_names() -> None:
    layers = "\x1f".join(LAYER.format(n) for n in ('a\\" } =', "b | then (then_branch) | i (If)"))
    code = f'function={{ name=__myl_MulAdd binary = 0 grid = {{ 1 1 }} input_args={{ "x" }} layers="{layers}" }}\n'
    waits = f'wait={{ event=0 layers="{LAYER.format("c")}" }}\n'
    (kernel,) = read_kernels(plan(waits + code), "1")
    assert (kernel.kind, kernel.name, kernel.nodes) == ("function", "__myl_MulAdd", ('a" } =', "b"))


def test_a_node_that_is_computed_in_another_way() -> None:
    (kernel,) = read_kernels(plan(CONV.replace("c]", "c]__gemm_from_conv1x1")), "1")
    assert kernel.nodes == ("c",)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"", "no section of the known revision"),
        (b"weights" * 9, "no section of the known revision"),
        (section("header { version = 5 }", b"NLYM\xa2\xda\x1e\x00"), "no section of the known revision"),
        (plan()[:-1], "a section has no header"),
        (section("footer { }"), "a section has no header"),
        (plan(header=HEADER.replace("version = 5", "version = 6")), "a section of an unknown version near '6'"),
        (plan(tensors=""), "a section has no part 'descriptors'"),
        (plan(tensors="descriptors { tensor={ name=\"x\" } }"), "a descriptor without name, type or size"),
        (plan(tensors="descriptors { buffer={ name=\"x\" type=int8 } }"), "a descriptor that isn't a tensor"),
        (plan(CONV.replace('"w"', '"v"')), "a tensor without a descriptor near 'v'"),
        (plan(CONV.replace('"x" "w"', '"x"')), "a 'corrltn' with fewer than two inputs"),
        (plan(CONV.replace("layers", "nodes")), "a 'corrltn' that names no nodes"),
        (plan(CONV.replace("[ONNX Layer: c]", "c")), "a layer's name in an unknown form near 'c'"),
        (plan(CONV.replace('input={"x" "w" }', "input=7")), "whose 'input' isn't a list of names"),
        (plan("wait={ event=0 }\n"), "no kernel names the nodes"),
        (plan(CONV.replace("stream=0", "stream=")), "alpha"),
        (plan(CONV.replace("stream=0", "stream==")), "expected a name or a value"),
        (plan(CONV.replace('"c"', '"c')), "at character"),
        (plan(CONV + "}"), "expected"),
        (section("header {\xe9".encode("latin1").decode("latin1")).replace(b"\xc3\xa9", b"\xff\xfe"), "isn't UTF-8"),
    ],
)  # fmt: skip
def test_what_isn_t_understood_is_an_error(broken: bytes, why: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        read_kernels(broken, "9.9")
    assert str(error.value).startswith("TensorRT-RTX 9.9 wrote a plan that graphopt can't read: ")
    assert why in str(error.value)
    assert "\n" not in str(error.value)
