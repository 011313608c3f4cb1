"""Every image enters by one function: upright, at any depth and size, or refused in one line."""

import io
import os
import sys
import types

import numpy as np
import pytest
from damage import damaged, deadline, one_line, require_line
from PIL import Image, ImageOps

from ethand_utils.data import images
from ethand_utils.data.crops import crop_image
from ethand_utils.data.images import ImageError, grey_levels, read_image, read_photo

LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "AVIF": {"quality": 90}}
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "AVIF": "avif"}
TRIES = 300  # damaged files of each format


def picture(height=40, width=64):
    """An image uint8 [H, W, 3] without a symmetry, smooth enough for any codec."""
    rows, columns = np.indices((height, width))
    return np.stack([255 * rows // height, 255 * columns // width, (rows < height // 4) * 255], 2).astype(np.uint8)


def encoded(format, orientation=None, image=None):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation or 1
    exif[0x010F] = "maker"
    options = {"lossless": True} if format == "WEBP" else LOSSY.get(format, {})
    shape = picture() if image is None else image
    Image.fromarray(shape).save(buffer, format, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_a_photo_is_upright_whatever_its_format(format, orientation, tmp_path):
    path = tmp_path / f"photo.{FORMATS[format]}"
    path.write_bytes(encoded(format, orientation))
    turned = Image.fromarray(picture())
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned)).astype(int)
    assert read_image(path).shape == expected.shape
    assert np.abs(read_image(path) - expected).mean() <= (6 if format in LOSSY else 0)
    photo = read_photo(path, factor=2)
    assert (photo.height, photo.width) == expected.shape[:2]
    assert photo.image.shape == (*(-(-side // 2) for side in expected.shape[:2]), 3)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_levels_of_any_depth_become_those_of_8_bits(bits, tmp_path):
    levels = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = (levels >> (bits - 8)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.fromarray(levels).save(tmp_path / "grey.tif")
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "long.tif")
    for name in ("grey.png", "grey.tif", "long.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_fractions_become_grey_levels(top, tmp_path):
    values = np.linspace(0, top, 64 * 64, dtype=np.float32).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "grey.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.tif")[..., 0], np.round(values * (255 / top)))


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), np.inf, np.float32),
        np.full((4, 4), 3000, np.float32),
        np.full((4, 4), -1, np.float32),
        np.full((4, 4), -1, np.int32),
        np.full((4, 4), 70000, np.int32),
    ],
)
def test_values_that_are_no_grey_levels_are_refused(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "grey.tif")
    with pytest.raises(ImageError, match=r"grey\.tif: .*save it"):
        read_image(tmp_path / "grey.tif")
    assert grey_levels(np.zeros((2, 2), np.float32), "x").max() == 0


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_beyond_pillows_limit_is_read_reduced(format, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # far below half of what the picture has
    (tmp_path / "large").write_bytes(encoded(format))
    assert read_image(tmp_path / "large").shape == (40, 64, 3)
    photo = read_photo(tmp_path / "large", pixels=700)
    assert (photo.height, photo.width, photo.factor) == (40, 64, 2)
    assert photo.image.shape == (20, 32, 3)
    assert read_photo(tmp_path / "large", side=16).factor == 4
    assert Image.MAX_IMAGE_PIXELS == 500


def test_more_pixels_than_can_be_held_are_refused_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    (tmp_path / "large.png").write_bytes(encoded("PNG"))
    with pytest.raises(ImageError, match=r"large\.png: 64×40 px, expected at most"):
        read_photo(tmp_path / "large.png")


def test_a_crop_far_larger_than_the_image_needs_no_memory_for_its_border():
    panorama = np.full((95, 4000, 3), 200, np.uint8)
    crop = crop_image(panorama, (-8000.0, -8000.0, 20000.0), 64)  # 400 megapixels with its border
    rows, columns = np.nonzero(crop[..., 0] > 20)
    assert crop.shape == (64, 64, 3)
    assert len(rows)
    assert columns.min() in (24, 25, 26)
    assert columns.max() in (37, 38, 39)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "PPM"])
def test_damaged_images_are_read_or_refused_in_one_line(format, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, format)
    sound = encoded(format, 6) if format in FORMATS else buffer.getvalue()
    path = tmp_path / "photo"
    for name, content in damaged(sound, TRIES, seed=len(format)):
        path.write_bytes(content)
        with deadline(f"{format} {name}"):
            try:
                image = read_image(path)
                assert image.dtype == np.uint8
                assert image.ndim == 3
                assert image.shape[2] == 3
            except ImageError as error:
                require_line(error, path, name)


def test_what_is_wrong_with_a_file_is_told_apart(tmp_path):
    def reason(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert one_line(caught.value)
        return str(caught.value).removeprefix(f"{tmp_path / name}: ")

    jpeg = encoded("JPEG")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with deadline("a pipe"):
        said = {
            reason("none"),
            reason("folder"),
            reason("pipe"),
            reason("empty", b""),
            reason("cut", jpeg[: len(jpeg) // 2]),
            reason("start", jpeg[:3]),
            reason("words", b"these are words"),
            reason("noise", bytes(range(128, 256))),
            reason("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        }
    assert len(said) == 9
    assert sum("damaged or cut off" in text for text in said) == 2
    assert any("pip install pillow-heif" in text for text in said)


def test_heic_is_read_where_its_package_is_installed(tmp_path, monkeypatch):
    registered = []
    monkeypatch.setitem(
        sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=lambda: registered.append(1))
    )
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match="not a readable image"):
        read_image(tmp_path / "photo.heic")
    assert registered == [1]
