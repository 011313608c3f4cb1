"""A parallel map over worker processes that end with the process that started them."""

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

from ethand_utils.data.store import StoreError


def parallel_map(
    function: Callable, items: Sequence, workers: int, folder: Path, preload: Sequence[str]
) -> Iterator[object]:
    """Yield `function(item)` for each of `items` in the order of completion, from up to `workers` processes.

    A single worker or item needs no other process. `function` must be picklable; a process keeps it from one item to
    the next, so that it can cache expensive objects. The modules `preload` are imported once, not by every process.
    Raises StoreError, naming `folder`, when a process was killed; what `function` raises passes through.
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=end_with_parent) as pool:
        pickled = pickle.dumps(function)
        futures = [pool.submit(_call, pickled, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            remedy = "start again with fewer workers: it goes on where it stopped"
            raise StoreError(f"{folder}: a worker process was killed, perhaps for memory; {remedy}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _call(pickled: bytes, item: object) -> object:
    return _unpickled(pickled)(item)


@lru_cache(maxsize=1)
def _unpickled(pickled: bytes) -> Callable:
    return pickle.loads(pickled)


def end_with_parent() -> None:
    """End this worker when its parent process ends, even killed: it must not write beside the next build."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
