"""The catalogue of passes: name → "module:Class". Nothing is imported until a pass is asked for.

Passes of other packages come through the entry point group `graphopt.passes`; in their pyproject.toml:

    [project.entry-points."graphopt.passes"]
    my-pass = "my_package.my_pass:MyPass"

A pass that no package brings has its code for a name, "my_module:MyPass": a module of the working directory, or any
other that can be imported.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from graphopt.errors import ConfigError, nearest
from graphopt.ir.user_code import is_named
from graphopt.pipeline import Pass
from graphopt.pipeline.naming import brought_passes, import_pass
from graphopt.pipeline.options import Option, options_of

CATALOGUE: dict[str, str] = {
    "fold-batch-norm": "graphopt.passes.fold_batch_norm:FoldBatchNorm",
    "fold-channel-scale": "graphopt.passes.fold_channel_scale:FoldChannelScale",
    "remove-dead": "graphopt.passes.remove_dead:RemoveDead",
    "fold-constants": "graphopt.passes.fold_constants:FoldConstants",
    "remove-noops": "graphopt.passes.remove_noops:RemoveNoops",
    "merge-duplicates": "graphopt.passes.merge_duplicates:MergeDuplicates",
    "fold-pad": "graphopt.passes.fold_pad:FoldPad",
    "fold-gemm-factors": "graphopt.passes.fold_gemm_factors:FoldGemmFactors",
    "split-sequences": "graphopt.passes.split_sequences:SplitSequences",
    "split-sums": "graphopt.passes.split_sums:SplitSums",
    "eliminate-dead-channels": "graphopt.passes.eliminate_dead_channels:EliminateDeadChannels",
    "fuse-matmul-add": "graphopt.passes.fuse_matmul_add:FuseMatMulAdd",
    "absorb-biases": "graphopt.passes.absorb_biases:AbsorbBiases",
    "eliminate-channels": "graphopt.passes.eliminate_channels:EliminateChannels",
    "equalize-channels": "graphopt.passes.equalize_channels:EqualizeChannels",
    "smooth-activations": "graphopt.passes.smooth_activations:SmoothActivations",
    "plan-quantization": "graphopt.passes.plan_quantization:PlanQuantization",
    "calibrate": "graphopt.passes.calibrate:Calibrate",
    "assign-precision": "graphopt.passes.assign_precision:AssignPrecision",
    "correct-bias": "graphopt.passes.correct_bias:CorrectBias",
    "protect-small-values": "graphopt.passes.protect_small_values:ProtectSmallValues",
    "optimize-weight-scales": "graphopt.passes.optimize_weight_scales:OptimizeWeightScales",
    "round-adaptively": "graphopt.passes.round_adaptively:RoundAdaptively",
    "convert-float": "graphopt.passes.convert_float:ConvertFloat",
    "quantize-weights": "graphopt.passes.quantize_weights:QuantizeWeights",
    "insert-qdq": "graphopt.passes.insert_qdq:InsertQdq",
    "insert-casts": "graphopt.passes.insert_casts:InsertCasts",
    "store-float16-weights": "graphopt.passes.store_float16_weights:StoreFloat16Weights",
    "lower-integer-operators": "graphopt.passes.lower_integer_operators:LowerIntegerOperators",
    "recover-plan": "graphopt.passes.recover_plan:RecoverPlan",
}


@dataclass(frozen=True)
class PassInfo:
    """A pass as help shows it.

    Attributes:
        name: its name in pipelines.
        summary: one line of help.
        lossless: whether it promises the same outputs.
        options: its options with types and defaults.
        package: the distribution that brings it, "graphopt" for our own; the module of one that is named by its code.
        text: all that its code says of it: before → after, and when it declines.
        error: why it can't be used, for another package's pass; then the fields above say nothing.
    """

    name: str
    summary: str = ""
    lossless: bool = False
    options: tuple[Option, ...] = ()
    package: str = "graphopt"
    text: str = ""
    error: str | None = None


def find_pass(name: str) -> type[Pass]:
    """The class of the pass with this name, or that `module:Class` names.

    Raises:
        ConfigError: no such pass (the message has the nearest name); or two packages claim the name; or the package or
            module that brings it can't be imported or doesn't bring a Pass.
    """
    if is_named(name) or "<locals>" in name:
        return import_pass(name)
    others = [point for point in brought_passes() if point.name == name]
    if name in CATALOGUE:
        if others:
            raise ConfigError(f"pass '{name}' is graphopt's own, but {_origin(others[0])} brings another: remove it")
        return _own(name)
    if not others:
        known = [*CATALOGUE, *(point.name for point in brought_passes())]
        raise ConfigError(f"there is no pass '{name}': {nearest(name, known)}")
    if len(others) > 1:
        raise ConfigError(f"pass '{name}' is brought by {_origin(others[0])} and {_origin(others[1])}: remove one")
    return _load(others[0])


def pass_info(name: str) -> PassInfo:
    """What help shows of the pass that `find_pass` finds.

    Raises:
        ConfigError: it finds none.
    """
    found = find_pass(name)
    packages = {point.name: _package(point) for point in brought_passes()}
    return _info(found, "graphopt" if name in CATALOGUE else packages.get(name, name.rpartition(":")[0]))


def all_passes() -> list[PassInfo]:
    """Every pass: our own in the order of the catalogue, then other packages' by name, broken ones with their error."""
    infos = [_info(_own(name), "graphopt") for name in CATALOGUE]
    for point in brought_passes():
        try:
            infos.append(_info(find_pass(point.name), _package(point)))
        except ConfigError as error:
            infos.append(PassInfo(point.name, package=_package(point), error=str(error)))
    return infos


def _own(name: str) -> type[Pass]:
    module, _, attribute = CATALOGUE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _load(point: EntryPoint) -> type[Pass]:
    try:
        loaded = point.load()
    except Exception as error:  # another package's code: whatever its import raises is reported with its place
        raise ConfigError(
            f"pass '{point.name}' of {_origin(point)} can't be imported ({type(error).__name__}: {error}): "
            "mend or uninstall it"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
        raise ConfigError(f"pass '{point.name}' of {_origin(point)} is not a subclass of graphopt's Pass")
    if getattr(loaded, "name", None) != point.name:
        raise ConfigError(
            f"pass '{point.name}' of {_origin(point)} calls itself '{getattr(loaded, 'name', '')}': "
            "the entry point and the class must agree"
        )
    return loaded


def _info(pass_type: type[Pass], package: str) -> PassInfo:
    written_for = sys.modules[pass_type.__module__] if package == "graphopt" else pass_type
    return PassInfo(
        pass_type.name,
        pass_type.summary,
        pass_type.lossless,
        options_of(pass_type),
        package,
        text=inspect.getdoc(written_for) or "",
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _origin(point: EntryPoint) -> str:
    return f"package '{point.dist.name}' ({point.value})" if point.dist else f"'{point.value}'"
