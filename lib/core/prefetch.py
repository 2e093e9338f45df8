"""Prepare batches in threads, ahead of their use and of one size."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

# More threads than this are not needed to prepare photos that are in memory.
THREADS = min(os.cpu_count() or 1, 4)
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    compute: Callable[[Item], Result], items: Iterable[Item], *, threads: int = THREADS, ahead: int = THREADS
) -> Generator[Result, None, None]:
    """Yield the results of a function for some items in their order, while threads compute the next ones.

    Close the iterator (`contextlib.closing`) if it may not be read to its end: this ends the threads.

    Args:
        compute: called in several threads.
        items: arguments of the calls.
        threads: number of threads.
        ahead: maximum number of results in memory besides the one in use.
    """
    pool, pending = ThreadPoolExecutor(threads, thread_name_prefix="prefetch"), deque[Future[Result]]()
    try:
        for item in items:
            pending.append(pool.submit(compute, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def padded(batch: "np.ndarray", size: int) -> "np.ndarray":
    """Repeat the last row of a batch until it has `size` rows, so that a network is traced for one size only.

    Args:
        batch: any dtype, of shape `(n, ...)` with `1 <= n <= size`.
        size: number of rows of the result.
    """
    import numpy as np

    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
