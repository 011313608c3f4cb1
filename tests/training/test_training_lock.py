"""A training holds its folder: a second one there is refused and told who is at work, and follows a killed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trainee

from ethand_utils import locks
from ethand_utils.locks import BusyError
from ethand_utils.training.callbacks import TrainingError

HANGING = """
import sys, time
import trainee
from fastai.callback.core import Callback

class Hang(Callback):
    def after_batch(self):
        if self.training and self.epoch == 1:
            print("at work", flush=True)
            time.sleep(100)

trainee.run("g1", sys.argv[1], sys.argv[2], sys.argv[3], (Hang(),))
"""


@pytest.fixture
def data(dataset, pseudo_labels):
    return dataset["train"].path.parent, pseudo_labels.path


@pytest.fixture
def at_work(data, tmp_path):
    """A process in the second epoch of a training in `g1`."""
    paths = [str(Path(trainee.__file__).parent), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", HANGING, tmp_path / "g1", *data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        while "at work" not in process.stdout.readline():
            assert process.poll() is None
        yield process
        process.kill()


@pytest.mark.slow
def test_a_second_training_is_refused_names_the_first_and_leaves_its_state(at_work, data, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 1)
    checkpoint = tmp_path / "g1/state/last.pt"
    before, began = checkpoint.stat().st_mtime_ns, time.monotonic()
    with pytest.raises(
        BusyError, match=rf"g1: a training is at work here already \(host .*, process {at_work.pid}, since"
    ):
        trainee.run("g1", tmp_path / "g1", *data)
    assert time.monotonic() - began < locks.GRACE + 20
    assert checkpoint.stat().st_mtime_ns == before
    at_work.send_signal(signal.SIGKILL)
    at_work.wait()
    assert json.loads((tmp_path / "g1/.train.lock.json").read_text())["pid"] == at_work.pid
    trainee.run("g1", tmp_path / "g1", *data)
    trainee.run("g1", tmp_path / "whole", *data)
    assert (tmp_path / "g1/weights.safetensors").read_bytes() == (tmp_path / "whole/weights.safetensors").read_bytes()
    assert not [path for path in (tmp_path / "g1").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["cut off", "text", "something else", "empty"])
def test_a_damaged_checkpoint_is_named_and_stays(data, tmp_path, kind):
    file = tmp_path / "state/last.pt"
    file.parent.mkdir()
    torch.save({"weights": torch.zeros(100)}, file)
    content = {"cut off": file.read_bytes()[:-200], "text": b"no checkpoint", "empty": b""}
    file.write_bytes(content.get(kind, file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(TrainingError, match=r"state/last\.pt: not a checkpoint of a training") as caught:
        trainee.run("g1", tmp_path, *data)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before
