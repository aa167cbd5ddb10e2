"""The command line. Exit codes: 0 done, 1 the user's side, 2 usage, 70 a bug of ours, 130 interrupted."""

from graphopt.cli.app import main

__all__ = ["main"]
