"""The accuracy guard: turn the layers that lose most back to float, until the result holds what the user demands.

    compile → measure → too bad?  plan again with 1, 2, 4, 8 … of the worst layers in float → measure → holds
                                  halve back to the fewest, then give back 8 bits to each that isn't needed

Worst first is the error report's order: isolated error, weighted with how much of it reaches the outputs. With n
layers at most 2·log2(n) + 2 plans are tried, and at most 8 more to give layers back; `replanning` says what of the
first run they use again. Where that includes fitted weights, the plan found is fitted anew and measured in the end;
should it not hold then, the search goes on from it, fitting each plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.api.metrics import Judge
from graphopt.api.replanning import Compiled, Watch, compile_again, writers_before
from graphopt.backends.layer_errors import ErrorReport
from graphopt.errors import AccuracyError
from graphopt.ir import to_proto
from graphopt.ir.to_proto import value_bytes
from graphopt.pipeline import Context
from graphopt.pipeline.passes import Progress
from graphopt.report.guarding import Guarded, TurnedBack

_GIVE_BACK_TRIALS = 8


class Guard:
    """Finds a plan that holds what `judge` demands, beginning with `first`, whose run was watched by `watch`."""

    def __init__(self, first: Compiled, watch: Watch, ctx: Context, judge: Judge, progress: Progress | None) -> None:
        self.first, self.watch, self.ctx, self.judge, self.progress = first, watch, ctx, judge, progress
        self.best = first
        self.value = self.before = judge.score(to_proto(first.graph))
        self.trials = 1

    def hold(self, on_calibration_data: bool) -> tuple[Compiled, Guarded]:
        """A result that holds, and what it cost.

        Raises:
            AccuracyError: even with every layer in float it doesn't hold.
        """
        turned: list[str] = []
        errors: ErrorReport | None = None
        if not self.judge.holds(self.before):
            errors = self.watch.errors(self.first.graph, self.judge.samples, self.ctx.threads)
            turned = self.search(self.order(errors))
        return self.best, self.outcome(turned, errors, on_calibration_data)

    def search(self, order: Sequence[str]) -> list[str]:
        """The nodes to turn back; `best` is what was compiled with them.

        Raises:
            AccuracyError: even with every layer in float it doesn't hold.
        """
        turned: list[str] = []
        if self.watch.fitted:
            roughly = fewest(order, self.holds_roughly)
            if roughly is None:  # the last plan tried had everything in float: nothing fitted was in it
                raise AccuracyError(self.complaint())
            turned = without_needless(roughly, self.judge.macs(self.first.graph), self.holds_roughly)
            if self.holds(turned):
                return turned
        rest = [name for name in order if name not in turned]
        found = fewest(rest, lambda more: self.holds([*turned, *more]))
        if found is None:
            raise AccuracyError(self.complaint())
        return without_needless([*turned, *found], self.judge.macs(self.first.graph), self.holds)

    def holds_roughly(self, turned: Sequence[str]) -> bool:
        """Whether the plan with the nodes `turned` in float holds with what the first run has fitted."""
        return self.holds(turned, fit=False)

    def holds(self, turned: Sequence[str], *, fit: bool = True) -> bool:
        """Whether the plan with the nodes `turned` in float holds; the last one that does is the best."""
        if self.progress is not None:
            self.progress(f"guarding accuracy, plan {self.trials + 1}", 0, None)
        compiled = compile_again(self.first, self.watch, self.ctx, turned, fit=fit)
        value = self.judge.score(to_proto(compiled.graph))
        self.trials += 1
        if not self.judge.holds(value):
            self.value = max(self.value, value)
            return False
        self.best, self.value = compiled, value
        return True

    def order(self, errors: ErrorReport | None) -> list[str]:
        """The nodes that can be turned back, those that should help most first; those that weren't measured last.

        Behind each the nodes whose integer kernels write what it reads: while they stay, it reads integers.
        """
        planned = self.first.graph.plan.quantized_nodes
        moment = self.watch.planning
        writers = {} if moment is None else writers_before(moment.restore(), self.ctx)
        measured = [] if errors is None else [e.node for e in errors.float_first]
        found = [name for node in measured for name in (node, *writers.get(node, ()))]
        return [name for name in dict.fromkeys([*found, *planned]) if name in planned]

    def complaint(self) -> str:
        """Why it can't be held."""
        planned = len(self.first.graph.plan.quantized_nodes)
        tried = f"not even with all {planned} nodes back in float" if planned else "and nothing is in 8 bits"
        return self.judge.complaint(tried, self.value, self.ctx.elimination)

    def outcome(self, turned: Sequence[str], errors: ErrorReport | None, on_calibration_data: bool) -> Guarded:
        """What was done, said in the result's remarks and plan, too."""
        measured = {e.node: e.isolated_db for e in errors.layers} if errors is not None else {}
        macs = self.judge.macs(self.first.graph)
        nodes = {n.name: n for scope in self.best.graph.walk() for n in scope.nodes}
        back = tuple(TurnedBack(n, nodes[n].op if n in nodes else "", measured.get(n)) for n in turned)
        outcome = Guarded(
            metric=self.judge.demanded.metric,
            demand=str(self.judge.demanded),
            reference=self.judge.reference,
            before=self.before,
            after=self.value,
            data=self.judge.samples.name,
            on_calibration_data=on_calibration_data,
            turned_back=back,
            macs_share=_share(turned, macs),
            bytes_before=value_bytes(self.first.graph),
            bytes_after=value_bytes(self.best.graph),
            trials=self.trials,
        )
        remarks = self.best.remarks
        remarks.current = "accuracy-guard"
        for item in back:
            alone = "" if item.isolated_db is None else f": alone it has {item.isolated_db:.1f} dB in 8 bits"
            self.best.graph.plan.float_nodes[item.node] = "turned back by the accuracy guard"
            remarks.applied(nodes.get(item.node), f"turned back to float{alone}")
        remarks.note(None, outcome.summary)
        remarks.current = ""
        return outcome


def _share(turned: Sequence[str], macs: Mapping[str, int | None]) -> float | None:
    """The part of all multiply-accumulates that `turned` are; None where that isn't known."""
    if any(macs.get(name, 0) is None for name in turned):
        return None
    return sum(macs.get(name) or 0 for name in turned) / max(sum(count or 0 for count in macs.values()), 1)


def fewest(order: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """The shortest beginning of `order` that holds, found by doubling and halving; None where not even all do."""
    if not order:
        return None
    failing, count = 0, 1
    while not holds(order[:count]):
        if count == len(order):
            return None
        failing, count = count, min(2 * count, len(order))
    while count - failing > 1:
        middle = (failing + count) // 2
        if holds(order[:middle]):
            count = middle
        else:
            failing = middle
    return list(order[:count])


def without_needless(
    turned: Sequence[str], macs: Mapping[str, int | None], holds: Callable[[Sequence[str]], bool]
) -> list[str]:
    """`turned` without nodes that hold in 8 bits after all: the largest are tried, not the last, which is needed."""
    kept = list(turned)
    for name in sorted(turned[:-1], key=lambda n: -(macs.get(n) or 0))[:_GIVE_BACK_TRIALS]:
        rest = [n for n in kept if n != name]
        if holds(rest):
            kept = rest
    return kept
