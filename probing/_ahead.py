"""Several forward passes at once, each computed by one thread, so that the bits do not depend on how many there are.

Within one operation torch divides the work among its threads, and where it cuts changes the last bits (seen in
Llama's SiLU with 1, 2 and 3 threads). Here whole batches are divided instead, which is also faster for small models.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item],
             n: int) -> Generator[Result, None, None]:
    """`call(item)` of every item, in their order, at most `n` + 1 ahead of whoever asks; n = 0 calls when asked.

    Each of the `n` threads makes a `call` of its own with `make()`, and runs torch with a single thread. The first
    error, in the order of the items, is raised when its turn comes; nothing runs on after the iterator is closed.
    """
    if not n:
        yield from map(make(), items)
        return
    calls: deque[Callable[[Item], Result]] = deque()
    threads, flying = torch.get_num_threads(), deque[Future[Result]]()

    def one(item: Item) -> Result:
        try:
            call = calls.pop()  # as many are made as run at once, whichever thread takes them
        except IndexError:
            call = make()
        try:
            return call(item)
        finally:
            calls.append(call)

    pool = ThreadPoolExecutor(n, "reading", initializer=partial(torch.set_num_threads, 1))
    try:
        for item in items:
            flying.append(pool.submit(one, item))
            if len(flying) > n:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # threads to come would otherwise start with one
