"""`diff`: what differs between two models, without running them."""

from __future__ import annotations

from pathlib import Path

from graphopt.ir import load
from graphopt.report.model_diff import ModelDiff, diff_models


def diff(
    before: object,
    after: object,
    *,
    titles: tuple[str, str] | None = None,
    base_dirs: tuple[str | Path | None, str | Path | None] = (None, None),
) -> ModelDiff:
    """Compare two models node by node: what is removed, added, changed; weights, scales and zero points.

    Nodes are matched by name, by the tensors that they make, and by their neighbourhood, so that models whose names all
    differ are compared, too. Old opsets are brought forward first; `ModelDiff.notes` says where.

    Args:
        before: a model, as in `optimize`.
        after: the one to compare with it.
        titles: what they are called; None: their paths.
        base_dirs: folders of the external data of models that aren't given as paths.

    Raises:
        LoadError: one of them can't be read.
        UnsupportedError: likewise.
    """
    models = before, after
    names = titles or (_title(before, "the first model"), _title(after, "the second model"))
    graphs = [load(model, base_dir=base_dir) for model, base_dir in zip(models, base_dirs, strict=True)]
    return diff_models(graphs[0], graphs[1], names)


def _title(model: object, otherwise: str) -> str:
    return str(model) if isinstance(model, (str, Path)) else otherwise
