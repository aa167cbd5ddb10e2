"""Observers in processes of their own, each with a share of the samples; merged, they give the same bits as one.

A worker is a Python that runs `main`, talked to in pickles over its standard input and output: unlike
multiprocessing's spawn it doesn't import the user's main module again, so a script needs no guard. Batches are dealt
out in turn; each worker is at most two batches behind.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from graphopt.calibration.observer import KINDS, Job, Observer, merge_all
from graphopt.calibration.rows import Batch
from graphopt.calibration.session import MAX_INLINE_BYTES, inline_bytes
from graphopt.calibration.statistics import Statistic
from graphopt.errors import CalibrationError, GraphoptError, UnsupportedError

_BEHIND = 2


class _Worker:
    """The near end of a worker process."""

    def __init__(self, job: Job) -> None:
        # What this process can import, the worker can.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-c", "from graphopt.calibration.workers import main; main()"]
        # In a session of its own, Ctrl-C doesn't reach it: it ends when its input does.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, start_new_session=True
        )
        self._waiting = 0
        self._send(job)

    def observe(self, batch: Batch) -> None:
        if self._waiting == _BEHIND:
            self._answer()
        self._send(batch)

    def result(self) -> tuple[Mapping[str, Any], str]:
        while self._waiting:
            self._answer()
        self._send(None)
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was left to send has nobody to read it
                cast(BinaryIO, pipe).close()

    def _send(self, message: object) -> None:
        try:
            pipe = cast(BinaryIO, self._process.stdin)
            pickle.dump(message, pipe, protocol=pickle.HIGHEST_PROTOCOL)
            pipe.flush()
        except OSError as error:
            while self._waiting:
                self._answer()  # raises what the worker ended with
            raise self._ended() from error
        self._waiting += 1

    def _answer(self) -> Any:
        try:
            answer = pickle.load(cast(BinaryIO, self._process.stdout))
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        self._waiting -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ended(self) -> CalibrationError:
        return CalibrationError(
            f"a calibration worker ended with status {self._process.wait()}: out of memory? use fewer workers"
        )


@dataclass
class WorkerPool:
    """Several observers; used as one. `flush` merges what they have seen into `statistics` and `declined`."""

    job: Job
    workers: int

    def __post_init__(self) -> None:
        if inline_bytes(self.job.model) > MAX_INLINE_BYTES:
            raise UnsupportedError("the model's weights are too large to be sent to workers: use one worker")
        self.statistics: dict[str, Statistic] = {}
        self.declined = ""
        self._turn = 0
        self._workers: list[_Worker] = []
        for _ in range(self.workers):
            self._workers.append(_Worker(self.job))

    def observe(self, batch: Batch) -> None:
        """Hand a batch to the worker whose turn it is.

        Raises:
            CalibrationError: one of the samples handed out can't be run or observed.
        """
        self._workers[self._turn].observe(batch)
        self._turn = (self._turn + 1) % self.workers

    def flush(self) -> None:
        """Wait for every sample, and merge."""
        merged: dict[str, Statistic] = {tensor: KINDS[self.job.kind]() for tensor in self.job.tensors}
        results = [worker.result() for worker in self._workers]
        merge_all(merged, [statistics for statistics, _ in results])
        self.declined = next((declined for _, declined in results if declined), "")
        self.statistics = merged

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


def main() -> None:
    """Serve one job: the far end of a worker."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    observer: Observer | None = None
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        answer: object = None
        try:
            if observer is None:
                observer = Observer(cast(Job, request))
            elif request is None:
                observer.flush()
                answer = observer.statistics, observer.declined
            else:
                observer.observe(cast(Batch, request))
        except GraphoptError as error:
            answer = error
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
        if isinstance(answer, GraphoptError):
            return
