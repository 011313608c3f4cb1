"""Files at fault, made from sound ones by a seed, and a limit on the time that reading one may take."""

import contextlib
import signal

import numpy as np

SECONDS = 20  # a reader that takes longer hangs


@contextlib.contextmanager
def deadline(what: str, seconds: float = SECONDS):
    """Fail when the block takes too long."""

    def late(*_):
        raise AssertionError(f"{what}: takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cut_off(sound: bytes, rng: np.random.Generator) -> bytes:
    return sound[: rng.integers(1, len(sound))]


def flip_bits(sound: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(sound)
    first = len(sound) if rng.random() < 0.5 else min(len(sound), 400)  # headers are where it hurts
    for place in rng.integers(first, size=rng.integers(1, 9)):
        damaged[place] ^= 1 << rng.integers(8)
    return bytes(damaged)


def splice(sound: bytes, rng: np.random.Generator) -> bytes:
    start, length = rng.integers(len(sound)), rng.integers(1, 200)
    return sound[:start] + rng.bytes(length) + sound[start + length :]


def noise(sound: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(rng.integers(1, 3000))


def text(sound: bytes, rng: np.random.Generator) -> bytes:
    return "Not what was expected: ä".encode(rng.choice(["utf-8", "utf-16", "latin-1"]))


DAMAGES = (cut_off, flip_bits, splice, noise, text)


def damaged(sound: bytes, tries: int, seed: int = 0):
    """Yield (name, bytes): an empty file, then `tries` seeded damages of a sound file's bytes."""
    rng = np.random.default_rng(seed)
    yield "empty", b""
    for number in range(tries):
        damage = DAMAGES[number % len(DAMAGES)]
        yield f"{damage.__name__} {number}", damage(sound, rng)


def one_line(error: Exception) -> bool:
    return len(str(error).splitlines()) == 1


def require_line(error: Exception, path, name: str) -> None:
    """Fail unless an error is one line that names a file."""
    assert str(path) in str(error), f"{name}: {error}"
    assert one_line(error), f"{name}: {error}"
