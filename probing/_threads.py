"""Work spread over threads so that no bit of a result depends on how many there are."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, every product of matrices runs on one thread: sums are then taken in one order, whatever the machine's
    number of cores and OMP_NUM_THREADS."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def spread(work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None) -> Iterator[Result]:
    """`work(item)` in the order of `items`, several at a time, each on one thread.

    Args:
        workers: How many at a time; None for as many as there are cores.
    """
    items = list(items)
    n = max(1, min(workers or n_cores(), len(items)))
    with single_threaded():
        if n == 1:
            yield from map(work, items)
            return
        # torch's number of threads belongs to the thread that asks
        with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting = deque(pool.submit(work, item) for item in items)
            try:
                while waiting:
                    yield waiting.popleft().result()
            finally:  # the caller stopped, or a piece of work failed: what has not begun is left
                for future in waiting:
                    future.cancel()
