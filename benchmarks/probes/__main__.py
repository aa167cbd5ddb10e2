"""Print what each engine makes of each probe, as Markdown.

    python -m benchmarks.probes [--engine NAME …] [--op OP …] [--probe TEXT …] [--layers]

"int8": every operator asked about runs in 8 bits; "mixed": some; "float": none; "folded": no layer goes by their
name any more, they are part of another or taken apart; "refused": the engine can't run the model. WRONG: the result
is more than two steps of the last scale from that of onnx's reference, and no nearer to the unrounded one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.probes import PROBES
from benchmarks.probes.engines import ENGINES, judge


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--op", nargs="+", help="only probes of these operators")
    parser.add_argument("--probe", nargs="+", metavar="TEXT", help="only probes whose name contains one of these")
    parser.add_argument("--layers", action="store_true", help="print what each operator became")
    options = parser.parse_args(arguments)
    print("| probe | operator | " + " | ".join(options.engine) + " |")
    print("|---" * (len(options.engine) + 2) + "|")
    for probe in PROBES.values():
        if options.op and probe.op not in options.op:
            continue
        if options.probe and not any(text in probe.name for text in options.probe):
            continue
        verdicts = [judge(probe, engine) for engine in options.engine]
        cells = [f"{v} [{', '.join(v.layers)}]" if options.layers and v.layers else str(v) for v in verdicts]
        print(f"| {probe.name} | {probe.op} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
