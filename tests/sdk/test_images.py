"""`load_image`: every kind of source and Pillow mode against the reference, and every fault triggered."""

from __future__ import annotations

import contextlib
import gc
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image as reference_load_image

from florence_edge.errors import FlorenceError, ImageError
from florence_edge.images import Limits, load_image

Array = np.ndarray[Any, Any]


def picture(width: int = 37, height: int = 23, channels: int = 3, seed: int = 0) -> Array:
    """A smooth random picture [height, width, channels] uint8, which survives JPEG."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 4), np.uint8), "RGBA")
    return np.array(coarse.resize((width, height), Image.Resampling.BILINEAR))[..., :channels]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference_rgb(image: Image.Image) -> Array:
    return np.asarray(convert_to_rgb(image, return_numpy=True))


def same(image: Image.Image, expected: Array) -> None:
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


PNG = encoded(Image.fromarray(picture()), "PNG")
JPEG = encoded(Image.fromarray(picture(300, 200)), "JPEG", quality=90)


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    array = picture()
    with path.open("rb") as stream:
        stream.seek(5)
        sources: list[Any] = [path, str(path), PNG, bytearray(PNG), memoryview(PNG), stream, Image.open(path), array]
        for source in sources:
            same(load_image(source), array)
        assert not stream.closed


def test_array_layouts() -> None:
    rgba = picture(channels=4)
    rgb, grey = rgba[..., :3], rgba[..., 0]
    white = reference_rgb(Image.fromarray(rgba))
    for order in (1, -1):
        bgr = order == -1
        same(load_image(rgb[..., ::order], bgr=bgr), rgb)
        same(load_image(np.dstack([rgb[..., ::order], rgba[..., 3]]), bgr=bgr), white)
        same(load_image(grey, bgr=bgr), np.dstack([grey] * 3))
        same(load_image(grey[..., None], bgr=bgr), np.dstack([grey] * 3))
    same(load_image(rgb[::-2, 1:-1:3]), rgb[::-2, 1:-1:3])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_array_is_copied(channels: int) -> None:
    array = picture(channels=channels).copy()
    image = load_image(array)
    before = np.array(image)
    array[:] = 255 - array
    same(image, before)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(picture()), kind, exif=exif)
    image = load_image(data)
    same(image, np.asarray(reference_load_image(Image.open(io.BytesIO(data)))))
    assert image.size == ((23, 37) if orientation > 4 else (37, 23))
    same(load_image(image), np.asarray(image))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_does_not_cost_the_picture() -> None:
    data = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff broken")
    same(load_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_modes_equal_the_reference(mode: str) -> None:
    rgba = Image.fromarray(picture(channels=4))
    if mode in ("PA", "La", "RGBa"):
        image = rgba.convert("LA" if mode != "RGBa" else "RGBA").convert(mode)
        reference = image.convert({"PA": "PA", "La": "LA", "RGBa": "RGBA"}[mode])
    else:
        image = reference = rgba.convert(mode)
    same(load_image(image), reference_rgb(reference))


def test_every_colour_and_transparency_equals_the_reference() -> None:
    colours, alpha = np.mgrid[0:256, 0:256].astype(np.uint8)
    image = Image.fromarray(np.dstack([colours, colours, colours, alpha]))
    same(load_image(image), reference_rgb(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    pixel = image.getpixel((3, 4))
    data = encoded(image, "PNG", transparency=pixel)
    expected = reference_rgb(Image.open(io.BytesIO(data)))
    assert tuple(expected[4, 3]) == (255, 255, 255)
    same(load_image(data), expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_deep_grey_is_scaled_not_clipped(mode: str) -> None:
    values = np.arange(65536, dtype=np.int64).reshape(256, 256)
    dtype = {"I;16B": ">u2", "I": "=i4"}.get(mode, "<u2")
    image = Image.frombytes(mode, (256, 256), values.astype(dtype).tobytes())
    same(load_image(image), np.dstack([(values // 256).astype(np.uint8)] * 3))
    clipped = np.asarray(image.convert("RGB"))
    assert (clipped == 255).mean() > 0.99, "the intended difference: the reference clips"


def test_deep_grey_files() -> None:
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        same(load_image(encoded(Image.fromarray(values), kind)), np.dstack([(values >> 8).astype(np.uint8)] * 3))


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_pictures(top: float) -> None:
    grey = picture(channels=1)
    grey[0, 0] = 255
    image = Image.fromarray((grey[..., 0] * np.float32(top / 255)).astype(np.float32))
    assert image.mode == "F"
    same(load_image(encoded(image, "TIFF")), np.dstack([grey] * 3))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        same(load_image(data), np.asarray(frames[0]))
    animation = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    animation.seek(2)
    same(load_image(animation), np.asarray(frames[2]))


def test_an_upright_rgb_image_is_not_copied_and_none_is_changed() -> None:
    image = Image.fromarray(picture())
    assert load_image(image) is image
    turned = Image.open(io.BytesIO(encoded(image, "JPEG", exif=_exif(6))))
    load_image(turned)
    assert turned.getexif()[274] == 6
    assert turned.size == (37, 23)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def nan_picture() -> Image.Image:
    return Image.fromarray(np.array([[0.0, np.nan]], np.float32))


FAULTS: dict[str, tuple[Any, str]] = {
    "text": (b"not an image at all", "not an image that Pillow can read"),
    "no bytes": (b"", "not an image that Pillow can read"),
    "text file object": (io.StringIO("text"), "cannot be opened|not an image"),
    "cut PNG": (PNG[: len(PNG) // 2], "damaged or cut short"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], "damaged or cut short"),
    "cut PNG header": (PNG[:20], "not an image|cannot be opened"),
    "bomb past Pillow's limit": (bomb(60_000, 60_000), "MAX_IMAGE_PIXELS"),
    "URL": ("https://example.org/picture.jpg", "never downloads"),
    "missing file": ("no/such/file.jpg", "there is no file 'no/such/file.jpg'"),
    "null byte": ("a\0b.jpg", "cannot be read"),
    "empty PIL image": (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
    "empty array": (np.zeros((0, 5, 3), np.uint8), r"empty array of shape \[0, 5, 3\]"),
    "float array": (np.zeros((4, 5, 3), np.float32), r"float32.*array \* 255"),
    "NaN array": (np.full((4, 5, 3), np.nan), "float64.*NaN or infinity"),
    "16-bit array": (np.zeros((4, 5), np.uint16), "array >> 8"),
    "signed array": (np.zeros((4, 5), np.int64), "int64.*scale it"),
    "CHW array": (np.zeros((3, 40, 50), np.uint8), r"\[C, H, W\].*transpose\(1, 2, 0\)"),
    "batch": (np.zeros((2, 4, 5, 3), np.uint8), "one by one"),
    "one dimension": (np.zeros(5, np.uint8), r"shape \[5\]"),
    "two channels": (np.zeros((4, 5, 2), np.uint8), r"shape \[4, 5, 2\]"),
    "NaN picture": (nan_picture(), "not finite"),
    "float out of range": (Image.fromarray(np.array([[-1.0, 300.0]], np.float32)), "-1 to 300"),
    "integer out of range": (Image.fromarray(np.array([[0, 65536]], np.int32)), "0 to 65536"),
    "tensor": (torch.zeros(3, 4, 5), r"permute\(1, 2, 0\)"),
    "None": (None, "got a NoneType"),
    "list": ([[0, 1]], "got a list"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    source, message = FAULTS[name]
    with pytest.raises(ImageError, match=message) as caught:
        load_image(source)
    assert isinstance(caught.value, FlorenceError)
    assert isinstance(caught.value, ValueError)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


def test_bgr_is_for_arrays() -> None:
    with pytest.raises(ImageError, match="only arrays can be BGR"):
        load_image(PNG, bgr=True)


@pytest.mark.parametrize("source", [PNG, Image.fromarray(picture()), picture()], ids=["bytes", "PIL", "array"])
def test_own_pixel_limit(source: Any) -> None:
    with pytest.raises(ImageError, match=r"37 x 23 = 851 pixels, but at most 850.*Limits"):
        load_image(source, limits=Limits(max_pixels=850))
    assert load_image(source, limits=Limits(max_pixels=851)).size == (37, 23)


def test_the_limit_stops_a_bomb_before_it_is_decoded() -> None:
    with pytest.raises(ImageError, match=r"8000 x 6000 = 48000000 pixels"):
        load_image(bomb(8000, 6000), limits=Limits(max_pixels=10**6))


def test_pillows_warning_made_an_error_is_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS"):
            load_image(bomb(10_000, 10_000))


def test_pillows_settings_are_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    load_image(PNG, limits=Limits(max_pixels=10**12))
    with pytest.raises(ImageError):
        load_image(bomb(60_000, 60_000), limits=Limits(max_pixels=10**12))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


@pytest.mark.parametrize(
    "content", [PNG, PNG[:60], b"no image", bomb(60_000, 60_000)], ids=["good", "cut", "text", "bomb"]
)
def test_no_file_stays_open(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        try:
            load_image(path)
        except ImageError:
            assert content is not PNG
        gc.collect()
    assert [warning for warning in caught if issubclass(warning.category, ResourceWarning)] == []
    handles = Path("/proc/self/fd")
    if handles.is_dir():
        assert str(path) not in {str(handle.resolve()) for handle in handles.iterdir()}


SEEDS = [
    encoded(Image.fromarray(picture(40, 30)), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA")
]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_an_image_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):
            assert load_image(content, limits=Limits(max_pixels=10**6)).mode == "RGB"
