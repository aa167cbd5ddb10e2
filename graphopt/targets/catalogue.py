"""The targets that come with graphopt."""

from graphopt.targets.onnxruntime import ONNXRUNTIME
from graphopt.targets.openvino import OPENVINO
from graphopt.targets.spec import Target
from graphopt.targets.tensorrt import TENSORRT
from graphopt.targets.tflite import TFLITE

TARGETS: dict[str, Target] = {t.name: t for t in (ONNXRUNTIME, OPENVINO, TENSORRT, TFLITE)}
