"""A report with every kind of section, and names that would break a careless page."""

from __future__ import annotations

from graphopt.report.html.payload import (
    Bars,
    Column,
    Figure,
    GraphSteps,
    HistogramData,
    NodeChange,
    NodeVersion,
    Payload,
    Point,
    Scatter,
    Section,
    Step,
    StepRemark,
    TableData,
    TensorVersion,
)

SCRIPT_NAME = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script><!--'
QUOTED_NAME = "a'b\"c`d${window.hacked=1}\\{{ 7 * 7 }}&amp;&lt;"
UNICODE_NAME = "层/\u2028línea\u2029 \U0001f600 \u202eright-to-left"
LONG_NAME = "model/" + "block/" * 60 + "conv"
HOSTILE_NAMES = (SCRIPT_NAME, QUOTED_NAME, UNICODE_NAME, LONG_NAME)

PIPELINE = "fold-batch-norm,fold-pad"

LAYERS = 60
"""Layers that the chain of the graph has."""

ROWS = 3000
"""Rows of the table of remarks."""


def layer(k: int) -> str:
    """Name of the k-th layer of the chain."""
    return f"layer{k}"


def _graph() -> GraphSteps:
    """A chain of convolutions with a BatchNormalization at its head, which step 1 folds; step 2 changes nothing."""
    names = [layer(k) for k in range(LAYERS)] + list(HOSTILE_NAMES)
    tensors = ["image", *(f"t{k}" for k in range(len(names)))]
    nodes = [
        NodeVersion("layer0", "Conv", (), ("image", "w0"), ("before",), {"strides": "[2, 2]"}, 0, 1, "float32"),
        NodeVersion("norm", "BatchNormalization", (), ("before", "scale"), ("t0",), {}, 0, 1, "float32"),
        NodeVersion("layer0", "Conv", (), ("image", "w1"), ("t0",), {"strides": "[2, 2]"}, 1, 3, "int8", ("31.0 dB",)),
    ]
    nodes += [
        NodeVersion(name, "Conv", (), (tensors[k], "w"), (tensors[k + 1],), {}, 0, 3, "int8")
        for k, name in enumerate(names)
        if k > 0
    ]
    versions = [TensorVersion(name, "float32[1,8,4,4]", False, 0, 0, 3) for name in tensors]
    versions += [
        TensorVersion("before", "float32[1,8,4,4]", False, 0, 0, 1),
        TensorVersion("w", "float32[8,8,1,1]", True, 256, 0, 3),
        TensorVersion("w0", "float32[8,3,1,1]", True, 96, 0, 1),
        TensorVersion("scale", "float32[8]", True, 32, 0, 1),
        TensorVersion("w1", "float32[8,3,1,1]", True, 96, 1, 3),
    ]
    remark = StepRemark("applied", "layer0", "Conv", "norm folded into layer0")
    steps = (
        Step(0, "the model", "", None, None, False, (len(names) + 1,) * 2, (384, 384)),
        Step(
            1,
            "fold-batch-norm",
            "",
            0.0123,
            True,
            True,
            (len(names) + 1, len(names)),
            (384, 352),
            removed=(1,),
            edits=(NodeChange(0, 2, ("output t0, was before",)),),
            rewrites=(((1,), (), (2,)),),
            remarks=(remark,),
            figures=(("numerics", "same outputs"),),
        ),
        Step(2, "fold-pad", "", 0.001, True, False, (len(names),) * 2, (352, 352)),
    )
    return GraphSteps(tuple(nodes), tuple(versions), steps, ("image",), (tensors[-1],))


def _layers() -> Section:
    rows = [
        (
            layer(k),
            None if k == 7 else 3.5 * ((k * 37) % LAYERS),
            1000.0 * k * k,
            k / LAYERS / 1000,
            f"t{k}",
            None if k % 2 else 1,
        )
        for k in range(LAYERS)
    ]
    rows += [(name, 1.0, 1.0, 1.0, "image", 0) for name in (*HOSTILE_NAMES, "no such node")]
    columns = (
        Column("layer", "node"),
        Column("SQNR", "number", "dB"),
        Column("weights", "number", "bytes"),
        Column("time", "number", "seconds"),
        Column("tensor", "tensor"),
        Column("pass", "step"),
    )
    names = tuple(layer(k) for k in range(LAYERS))
    errors = tuple((40.0 - 0.5 * ((k * 37) % LAYERS), None if k % 9 == 0 else 0.3 * k) for k in range(LAYERS))
    few = Bars("Time", "seconds", ("time",), names[:12], names[:12], tuple((0.01 * (k + 1),) for k in range(12)))
    return Section(
        "layers",
        "Layers",
        text=("Every layer.",),
        tables=(TableData("Layers", columns, tuple(rows), "A note above."),),
        charts=(Bars("Error of each layer", "dB", ("alone", "in all"), names, names, errors), few),
    )


def _remarks() -> Section:
    kinds = ("applied", "declined", "note")
    rows = tuple(
        (k % 3, kinds[k % 3], layer(k % LAYERS), "Conv", f"remark {k}: its input 'x{k}' is also read by 'n{k + 1}'")
        for k in range(ROWS)
    )
    columns = (Column("step", "step"), Column("kind"), Column("node", "node"), Column("operator"), Column("message"))
    return Section("remarks", "Remarks", tables=(TableData("Remarks", columns, rows),))


def sample_payload() -> Payload:
    """The report."""
    histograms = tuple(
        HistogramData(
            f"t{k}",
            f"t{k}",
            tuple(0.5 * i - 10 for i in range(41)),
            tuple(float((i * (k + 3)) % 17) * 100 for i in range(40)),
            (("least", -8.0), ("most", 6.5), ("zero point", 0.0)),
        )
        for k in range(LAYERS)
    )
    front = Scatter(
        "Error against size",
        "bytes",
        "error",
        (
            ("front", tuple(Point(1000.0 * k, 1 / k, f"point {k}", k == 3) for k in range(1, 9)), True),
            ("tried", (Point(2500.0, 0.9, SCRIPT_NAME),), False),
        ),
        y_logarithmic=True,
    )
    summary = Section(
        "summary",
        "Summary",
        text=("What the run did.", SCRIPT_NAME),
        warnings=("output 'scores' has an SQNR of only 8.1 dB", SCRIPT_NAME),
        figures=(
            Figure("Size", "26.1 kB", "3.7 times smaller", "good"),
            Figure("Accuracy", "97.5 %", "float 97.8 %", "warning"),
            Figure("Latency", "0.42 ms", "1.9 times as slow", "bad"),
            Figure(QUOTED_NAME, LONG_NAME, UNICODE_NAME),
        ),
        commands=(("Pipeline", PIPELINE), ("Names", SCRIPT_NAME)),
    )
    return Payload(
        f"{SCRIPT_NAME} → model_int8.onnx for OpenVINO (CPU)",
        "1.2.3",
        (
            summary,
            _layers(),
            Section("calibration", "Calibration", gallery=histograms),
            Section("precision", "Precision", charts=(front,)),
            _remarks(),
        ),
        _graph(),
    )
