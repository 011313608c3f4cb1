"""Batches for a GPU: each is made on a thread and a stream of its own while the one before it is trained on."""

import threading
from collections.abc import Iterator

import torch


def runs_ahead(device: torch.device) -> bool:
    """Return whether a device, such as a GPU, queues its work, so that reading one of its numbers waits."""
    return device.type == "cuda"


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy values of the CPU to a device; to a GPU from pinned memory, so that the program need not wait for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def prefetched(batches: Iterator[tuple[torch.Tensor, ...]], device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the batches of an iterator on a `device`, each made while the one before it is in use.

    They are the iterator's in its order, as long as they depend on nothing that their user changes. An error in making
    one is raised here. Each has a thread of its own, which ends with it: none is left whenever the user stops.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    upcoming = _Upcoming(batches, stream)
    try:
        while (batch := upcoming.result()) is not None:
            upcoming = _Upcoming(batches, stream)
            yield batch
    finally:
        upcoming.join()


class _Upcoming(threading.Thread):
    """The next batch of an iterator, made on this thread, and on a stream of a GPU if one is given."""

    def __init__(self, batches: Iterator[tuple[torch.Tensor, ...]], stream: torch.cuda.Stream | None):
        super().__init__(name="next batch", daemon=True)
        self.batches, self.stream, self.batch, self.error = batches, stream, None, None
        self.steps = None if stream is None else torch.cuda.current_stream(stream.device).record_event()
        self.start()

    def run(self):
        try:
            if self.stream is None:
                self.batch = next(self.batches, None)
                return
            # Without this, a program that never waits for the GPU would fill its memory with batches.
            self.steps.synchronize()
            with torch.cuda.stream(self.stream):
                self.batch = next(self.batches, None)
        except BaseException as error:  # whatever it is, it is raised where the batch is asked for
            self.error = error

    def result(self) -> tuple[torch.Tensor, ...] | None:
        """Wait for the batch and return it, None after the last; raises what making it raised."""
        self.join()
        if self.error is not None:
            raise self.error
        if self.stream is not None and self.batch is not None:
            current = torch.cuda.current_stream(self.stream.device)
            current.wait_stream(self.stream)
            for values in self.batch:
                values.record_stream(current)  # its memory is not given to a later batch before the step has ended
        return self.batch
