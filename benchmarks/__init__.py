"""Where README's figures come from; run one as `python -m benchmarks.NAME` in the repository."""
