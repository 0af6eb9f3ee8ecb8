"""Raw and compressed ROS images against OpenCV's `cvtColor`, which is what nodes that use cv_bridge see."""

from __future__ import annotations

import array
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence_edge.errors import ImageError
from florence_edge.geometry import AnyArray
from florence_edge.ros.encodings import LAYOUTS, RawImage, decode_compressed, decode_raw, octets

cv2 = pytest.importorskip("cv2")

# What cv_bridge calls for each encoding (its conversion table).
CONVERSIONS = {
    "bgr8": "COLOR_BGR2RGB",
    "8UC3": "COLOR_BGR2RGB",
    "rgba8": "COLOR_RGBA2RGB",
    "bgra8": "COLOR_BGRA2RGB",
    "mono8": "COLOR_GRAY2RGB",
    "bgr16": "COLOR_BGR2RGB",
    "rgba16": "COLOR_RGBA2RGB",
    "bgra16": "COLOR_BGRA2RGB",
    "mono16": "COLOR_GRAY2RGB",
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2",
    "yuyv": "COLOR_YUV2RGB_YUY2",
    "nv12": "COLOR_YUV2RGB_NV12",
    "nv21": "COLOR_YUV2RGB_NV21",
    **{
        f"bayer_{pattern}{bits}": f"COLOR_Bayer{opencv}2RGB"
        for bits in (8, 16)
        for pattern, opencv in {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}.items()
    },
}


def samples_of(encoding: str, width: int, height: int, seed: int) -> AnyArray:
    """Random samples [rows, width, samples] of an image."""
    layout = LAYOUTS[encoding.lower()]
    kind = np.dtype(layout.sample)
    rows = round(height * layout.planes)
    noise = np.random.default_rng(seed).integers(0, 256, (rows, width, layout.samples, kind.itemsize), dtype=np.uint8)
    return noise.reshape(rows, width, -1).view(kind)


def message(
    samples: AnyArray, encoding: str, height: int, *, padding: int = 0, bigendian: bool = False, fill: int = 77
) -> RawImage:
    """The image message of samples, its rows padded with rubbish."""
    ordered = samples.astype(samples.dtype.newbyteorder(">" if bigendian else "<"))
    rows = ordered.reshape(len(samples), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=fill)
    return RawImage(samples.shape[1], height, encoding, padded.shape[1], padded.reshape(-1), bigendian)


@pytest.mark.parametrize("encoding", CONVERSIONS)
@given(
    width=st.integers(2, 24).map(lambda half: 2 * half),
    height=st.integers(2, 24).map(lambda half: 2 * half),
    padding=st.integers(0, 9),
    bigendian=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=12, deadline=None)
def test_every_encoding_is_opencvs_bit_for_bit_whatever_the_padding(
    encoding: str, width: int, height: int, padding: int, bigendian: bool, seed: int
) -> None:
    samples = samples_of(encoding, width, height, seed)
    expected = cv2.cvtColor(samples, getattr(cv2, CONVERSIONS[encoding]))
    if expected.dtype == np.uint16:
        expected = (expected >> 8).astype(np.uint8)
    decoded = decode_raw(message(samples, encoding, height, padding=padding, bigendian=bigendian))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_rgb_is_itself_and_keeps_the_high_byte_of_16_bits() -> None:
    samples = samples_of("rgb8", 7, 5, 1)
    np.testing.assert_array_equal(decode_raw(message(samples, "rgb8", 5, padding=3)), samples)
    deep = samples_of("rgb16", 7, 5, 1)
    np.testing.assert_array_equal(decode_raw(message(deep, "rgb16", 5, bigendian=True)), deep >> 8)


def test_nv24_is_nv12_whose_chroma_is_doubled() -> None:
    half = samples_of("nv12", 12, 8, 3)[:, :, 0]
    luma, chroma = half[:8], half[8:].reshape(4, 6, 2)
    full = chroma.repeat(2, axis=0).repeat(2, axis=1).reshape(16, 12)
    samples = np.concatenate([luma, full])[:, :, None]
    expected = cv2.cvtColor(half, cv2.COLOR_YUV2RGB_NV12)
    np.testing.assert_array_equal(decode_raw(message(samples, "nv24", 8)), expected)


def test_chroma_rows_may_be_counted_as_rows_of_the_image() -> None:
    samples = samples_of("nv21", 12, 8, 3)
    np.testing.assert_array_equal(
        decode_raw(message(samples, "nv21", 12)), cv2.cvtColor(samples, cv2.COLOR_YUV2RGB_NV21)
    )


def test_depth_is_scaled_to_its_largest_finite_value() -> None:
    depth = np.array([[0.0, 2.0], [np.nan, np.inf]], dtype=np.float32)[:, :, None]
    grey = decode_raw(message(depth, "32FC1", 2))
    np.testing.assert_array_equal(grey[:, :, 0], [[0, 255], [0, 0]])
    millimetres = np.array([[0, 500], [1000, 250]], dtype=np.uint16)[:, :, None]
    np.testing.assert_array_equal(decode_raw(message(millimetres, "16UC1", 2))[:, :, 1], [[0, 128], [255, 64]])
    assert not decode_raw(message(np.zeros((2, 2, 1), np.uint16), "16UC1", 2)).any()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (RawImage(2, 2, "rgb9", 6, np.zeros(12, np.uint8)), "unknown image encoding 'rgb9'; known are: rgb8, bgr8"),
        (RawImage(2, 2, "rgb8", 5, np.zeros(12, np.uint8)), "a row takes 6 bytes, more than its step"),
        (RawImage(2, 2, "rgb8", 6, np.zeros(11, np.uint8)), "12 bytes are needed; the message was cut short"),
        (RawImage(0, 2, "rgb8", 0, np.zeros(0, np.uint8)), "both sides must be 1 or more"),
        (RawImage(3, 2, "yuyv", 6, np.zeros(12, np.uint8)), "the width must be even"),
        (RawImage(4, 3, "nv12", 4, np.zeros(20, np.uint8)), "width and height must be even"),
        (RawImage(2, 2, "bayer_rggb8", 2, np.zeros(4, np.uint8)), "both sides must be 3 or more"),
        (RawImage(2, 2, "nv24", 2, np.zeros(4, np.uint8)), "twice as many bytes"),
    ],
)
def test_what_does_not_fit_is_said(image: RawImage, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        decode_raw(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("format", ["", "jpeg", "rgb8; jpeg compressed bgr8", "mono8; png compressed "])
def test_compressed_images_are_what_opencv_decodes(kind: str, format: str) -> None:
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :, 0], picture[:, 12:, 2] = 200, 120
    file = BytesIO()
    Image.fromarray(picture).save(file, format=kind)
    data = np.frombuffer(file.getvalue(), np.uint8)
    expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    decoded = decode_compressed(data, format)
    assert np.abs(decoded.astype(int) - expected).max() <= 3  # two JPEG decoders need not agree to the bit
    assert np.abs(decoded.astype(int) - picture).mean() < 6  # red stays red


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_corrupt_jpeg_is_an_image_error(cut: int) -> None:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(file, format="JPEG")
    with pytest.raises(ImageError):
        decode_compressed(np.frombuffer(file.getvalue()[:cut], np.uint8), "jpeg")


def test_compressed_depth_is_refused_with_what_to_do() -> None:
    with pytest.raises(ImageError, match="choose a topic with colour or grey images"):
        decode_compressed(np.zeros(40, np.uint8), "16UC1; compressedDepth png")


@pytest.mark.parametrize(
    "field", [np.arange(4, dtype=np.uint8), array.array("B", range(4)), bytes(range(4)), [0, 1, 2, 3], bytearray(4)]
)
def test_bytes_of_every_client_library_are_read(field: object) -> None:
    read = octets(field)
    assert read.dtype == np.uint8
    assert read.tolist() == list(field)  # type: ignore[call-overload]  # every one of them is iterable
