"""Work shared by several processes that end with the one that started them."""

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


def parallel_map(do: Callable, todo: Sequence, workers: int, where: Path, preload: Sequence[str]) -> Iterator[object]:
    """What `do` gives for each of `todo`, as it is done, from up to `workers` processes; in this one if one is enough.

    `do` must be picklable; a process keeps it from one item to the next, so that it may remember what is dear to
    make. The modules `preload` are imported once, not by every process. Raises StoreError, naming `where`, when a
    process was killed; what `do` raises passes through.
    """
    if workers <= 1 or len(todo) <= 1:
        yield from map(do, todo)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=end_with_parent) as pool:
        packed = pickle.dumps(do)
        futures = [pool.submit(_call, packed, item) for item in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            remedy = "start again with fewer workers: it goes on where it stopped"
            raise StoreError(f"{where}: a worker process was killed, perhaps for memory; {remedy}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _call(packed: bytes, item: object) -> object:
    return _unpacked(packed)(item)


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Callable:
    return pickle.loads(packed)


def end_with_parent() -> None:
    """End this worker when the process that started it is gone, killed say: it must not write beside the next build."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
