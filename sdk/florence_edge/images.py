"""Turns whatever a caller has into an upright RGB picture, or says clearly why it cannot.

The reference is `transformers` 5: `load_image` (EXIF orientation) followed by the image processor's `convert_to_rgb`
(transparency composited over white). It differs in three places, all on purpose: 16-bit and 32-bit grey is scaled to
8 bits instead of clipped to white, paths are treated like every other source (`load_image` drops their transparency),
and nothing is ever downloaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import ImageError
from .geometry import UInt8Array

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | UInt8Array

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""What counts as an image inside a folder or an archive; a file named by itself is taken whatever its name."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (TIFF 6.0, tag 274) to the operation that turns the stored picture upright; 1 needs none."""

_ORIENTATION = 274
_SIDEWAYS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))

_RAW_MODES = {(1, False): "L", (3, False): "RGB", (3, True): "BGR", (4, False): "RGBA", (4, True): "BGRA"}
"""Channels of an array and `bgr` to the order of its bytes, in Pillow's words."""

_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
"""The A of mode LAB is a colour."""

_PROGRAMS = ("EPS",)
"""Formats that Pillow hands to another program (Ghostscript), which is nothing to do with a picture from anywhere."""


@dataclass(frozen=True)
class Limits:
    """How much a picture may hold.

    `max_pixels` is width times height. The default is where Pillow itself refuses a picture as a decompression bomb; to
    go past it, raise `PIL.Image.MAX_IMAGE_PIXELS` as well, which is Pillow's own setting for the whole process.
    """

    max_pixels: int = 178_956_970


def load_image(source: ImageSource, *, bgr: bool = False, limits: Limits = Limits()) -> Image.Image:
    """The picture as an upright RGB `PIL.Image`, whose size is what every result's coordinates refer to.

    `source` is one of
      - a path, the bytes of an image file, or a binary file object (read from its beginning, left open);
      - a PIL image; an RGB one that is upright is returned itself, not copied;
      - a uint8 array [H, W, 3] or [H, W, 4] (RGB or RGBA; BGR or BGRA, as OpenCV has it, with `bgr=True`), or grey
        [H, W] or [H, W, 1].

    EXIF orientation is applied. Transparency is composited over white. 16-bit grey keeps its high byte (0..65535 is
    black to white, also for Pillow's 32-bit mode I); float pictures (mode F) run from 0 to 1 if no value exceeds 1,
    else from 0 to 255. Of an animated file the first frame is taken, of a PIL image the current one.

    Raises `ImageError` for everything else: no such file, not an image, damaged or cut short, more pixels than `limits`
    allows, empty, values not finite or out of range, an array of another dtype or shape, a torch tensor, a URL.
    """
    if isinstance(source, np.ndarray):
        image, given = _from_array(source, bgr, limits), f"an array of shape {list(source.shape)}"
    elif bgr:
        raise ImageError(
            f"bgr=True was given with {_kind(source)}; only arrays can be BGR, files and PIL images know their order"
        )
    elif isinstance(source, Image.Image):
        image, given = source, f"a PIL image of mode {source.mode}"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _decode(BytesIO(data), f"an image of {len(data)} bytes", limits)
    elif isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source), limits)
    elif hasattr(source, "read"):
        return _decode(source, f"the file object {getattr(source, 'name', '')!r}", limits)
    else:
        raise ImageError(_unusable(source))
    return _finish(image, given, limits)


def is_sideways(image: Image.Image) -> bool:
    """Whether `load_image` exchanges width and height of an opened image to turn it upright."""
    return _turn(image) in _SIDEWAYS


def _from_path(path: str, limits: Limits) -> Image.Image:
    """Opens a file, reads the picture whole and closes the file again."""
    if path.startswith(("http://", "https://", "data:")):
        raise ImageError(
            f"{path[:80]!r} is a URL; florence-edge never downloads: fetch it and pass the bytes or a path"
        )
    if os.path.isdir(path):
        raise ImageError(f"{path!r} is a folder; give the path of one image file")
    try:
        with open(path, "rb") as stream:
            return _decode(stream, repr(path), limits)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {path!r} (working folder: {os.getcwd()!r})") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path!r} cannot be read: {error}") from error


def _decode(stream: IO[bytes], given: str, limits: Limits) -> Image.Image:
    """Identifies an image file and reads it whole."""
    try:
        image = Image.open(stream)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{given} has more pixels than Pillow reads ({error}); make it smaller, or if you trust it raise both "
            "PIL.Image.MAX_IMAGE_PIXELS and Limits(max_pixels=...)"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{given} is not an image that Pillow can read; give a JPEG, PNG, WebP, BMP or TIFF"
        ) from error
    except Exception as error:  # a damaged header makes Pillow's readers raise anything, from struct.error to KeyError
        raise ImageError(f"{given} cannot be opened as an image: {error}") from error
    if image.format in _PROGRAMS:
        raise ImageError(
            f"{given} is a program in PostScript, which would have to be run; give a JPEG, PNG, WebP, BMP or TIFF"
        )
    return _finish(image, given, limits)


def _finish(image: Image.Image, given: str, limits: Limits) -> Image.Image:
    """Checks the size before anything is decoded, decodes, converts and turns upright."""
    _check_size(image.size, given, limits)
    try:
        image.load()
    except Exception as error:  # see _decode: the decoders are as inventive as the header readers
        raise ImageError(f"{given} is damaged or cut short: {error}; copy or export it again") from error
    try:
        rgb = _to_rgb(image, given)
    except ImageError:
        raise
    except Exception as error:  # a transparency that does not belong to the mode, among others
        raise ImageError(f"{given} cannot be turned into RGB: {error}; copy or export it again") from error
    operation = _turn(image)
    if operation is None:
        return rgb
    upright = rgb.transpose(operation)
    upright.info = {}  # the orientation tag was copied along; left there, it would turn the picture once more
    return upright


def _check_size(size: tuple[int, int], given: str, limits: Limits) -> None:
    """Raises `ImageError` for a picture that is empty or too large."""
    width, height = size
    if width == 0 or height == 0:
        raise ImageError(f"{given} is empty: {width} x {height} pixels; both sides must be 1 or more")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{given} has {width} x {height} = {width * height} pixels, but at most {limits.max_pixels} are allowed; "
            "make it smaller, or raise Limits(max_pixels=...) if you trust it"
        )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the picture upright; None where nothing is needed, or where its EXIF block is unreadable."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # SyntaxError, struct.error and others; the picture itself has been read and is good
        return None


def _to_rgb(image: Image.Image, given: str) -> Image.Image:
    """Any Pillow mode as RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image, given).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    rgb = Image.new("RGB", image.size, "white")
    rgb.paste(rgba, mask=rgba)
    return rgb


def _deep_grey(image: Image.Image, given: str) -> Image.Image:
    """Grey of more than 8 bits (modes I;16, I;16B, I and F) as mode L."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise ImageError(f"{given} holds values that are not finite; replace NaN and infinity before passing it")
    top = 65535.0 if image.mode != "F" else 1.0 if high <= 1.0 else 255.0
    if low < 0.0 or high > top:
        raise ImageError(
            f"{given} holds values from {low:g} to {high:g}; allowed are 0..65535 for integers and 0..1 or 0..255 for "
            "floats: scale it first"
        )
    if image.mode == "F":
        return Image.fromarray(np.rint(values * np.float32(255.0 / top)).astype(np.uint8))
    grey = (values >> 8).astype(np.uint8)
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)


def _from_array(array: UInt8Array, bgr: bool, limits: Limits) -> Image.Image:
    """A uint8 array as a PIL image of mode L, RGB or RGBA."""
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise ImageError(
            f"got an array of dtype {array.dtype} and shape {shape}, but pixels are uint8, 0..255: {_advice(array)}"
        )
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 3, 4):
        planar = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        remedy = "; it looks like [C, H, W]: use array.transpose(1, 2, 0)" if planar else ""
        batch = "; pass the images of a batch one by one" if array.ndim == 4 else ""
        raise ImageError(
            f"got an array of shape {shape}; allowed are [H, W], [H, W, 1], [H, W, 3] and [H, W, 4]{remedy}{batch}"
        )
    if 0 in shape:
        raise ImageError(f"got an empty array of shape {shape}; both sides must be 1 or more")
    size = (shape[1], shape[0])
    _check_size(size, f"an array of shape {shape}", limits)  # before it is copied: a broadcast one may be of any size
    raw_mode = _RAW_MODES[channels, bgr and channels > 1]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return Image.frombuffer(mode, size, np.ascontiguousarray(array), "raw", raw_mode, 0, 1)


def _advice(array: np.ndarray[Any, Any]) -> str:
    """How to make uint8 of an array of another dtype."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "it also holds NaN or infinity, so replace those, scale to 0..255 and use .astype(np.uint8)"
    if array.dtype.kind == "f":
        return "use (array * 255).astype(np.uint8) if it runs from 0 to 1, array.astype(np.uint8) if it runs to 255"
    if array.dtype == np.uint16:
        return "use (array >> 8).astype(np.uint8) if it uses all 16 bits"
    return "scale it to 0..255 and use .astype(np.uint8)"


def _kind(source: object) -> str:
    """What was given, in words."""
    return f"a {type(source).__module__}.{type(source).__qualname__}".replace("builtins.", "")


def _unusable(source: object) -> str:
    """The message for a source of an unknown type."""
    remedy = ""
    if type(source).__module__.partition(".")[0] == "torch":
        remedy = "; for a tensor [3, H, W] that runs from 0 to 1: tensor.mul(255).byte().permute(1, 2, 0).cpu().numpy()"
    allowed = "an image is a path, bytes, a binary file object, a PIL image or a uint8 array [H, W, 3]"
    return f"got {_kind(source)}; {allowed}{remedy}"
