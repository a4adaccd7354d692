"""Bytes to pixels: images of every kind look the same, damaged ones say why, crops are torchvision's."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from data.decode import Unreadable, decode_crops, decode_square, probe
from tests.data.pictures import cut_png, encoded, picture, with_exif
from utils import compat

COLOUR = picture(40, 40)
GREY = COLOUR.convert("L")
KINDS = {
    "JPEG": (encoded(COLOUR, "JPEG", quality=95), COLOUR),
    "progressive JPEG": (encoded(COLOUR, "JPEG", quality=95, progressive=True), COLOUR),
    "grey JPEG": (encoded(GREY, "JPEG", quality=95), GREY),
    "CMYK JPEG": (encoded(COLOUR.convert("CMYK"), "JPEG", quality=95), COLOUR),
    "PNG": (encoded(COLOUR, "PNG"), COLOUR),
    "PNG of a palette": (encoded(COLOUR.quantize(256), "PNG"), COLOUR.quantize(256)),
    "1-bit PNG": (encoded(GREY.convert("1"), "PNG"), GREY.convert("1")),
    "GIF": (encoded(COLOUR.quantize(256), "GIF"), COLOUR.quantize(256)),
    "animated GIF": (
        encoded(GREY, "GIF", save_all=True, append_images=[GREY.point(lambda value: 255 - value)]),
        GREY,
    ),
    "animated PNG": (encoded(COLOUR, "PNG", save_all=True, append_images=[picture(40, 40, 1)]), COLOUR),
    "WebP": (encoded(COLOUR, "WEBP", lossless=True), COLOUR),
    "BMP": (encoded(COLOUR, "BMP"), COLOUR),
    "TIFF": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "CMYK TIFF": (encoded(COLOUR.convert("CMYK"), "TIFF"), COLOUR),
    "PPM": (encoded(COLOUR, "PPM"), COLOUR),
    "JPEG 2000": (encoded(COLOUR, "JPEG2000"), COLOUR),
}
RAMP = np.linspace(0, 65535, 40, dtype=np.uint16)[None].repeat(40, 0)  # 16-bit grey


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_kind_looks_as_it_was_saved(kind: str) -> None:
    data, image = KINDS[kind]
    square = decode_square(data, 40, "crop")
    assert (square.shape, square.dtype, square.flags.writeable) == ((40, 40, 3), np.uint8, True)
    difference = np.abs(square.astype(int) - np.asarray(image.convert("RGB")))
    assert difference.max() <= (24 if "JPEG" in kind else 0)  # lossy
    assert probe(data) == (40, 40)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_range(kind: str) -> None:
    square = decode_square(encoded(Image.fromarray(RAMP), kind), 40, "crop")
    assert square[1, :, 1].tolist() == (RAMP[0] >> 8).tolist()


@pytest.mark.parametrize("scale", [1, 255])
def test_float_grey_from_0_to_1_or_to_255_keeps_its_range(scale: int) -> None:
    grey = Image.fromarray(RAMP.astype(np.float32) / 65535 * scale)
    square = decode_square(encoded(grey, "TIFF"), 40, "crop")
    assert np.abs(square[1, :, 1] - RAMP[0] / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (10, 200, 30, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    square = decode_square(encoded(image.convert(mode), "PNG"), 40, "crop")
    assert square[20, 30].tolist() == [255, 255, 255]
    assert square[20, 10].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [(90, 40), (40, 90)])
def test_an_oblong_image_is_resized_by_its_short_side_and_cut_in_the_middle(size: tuple[int, int]) -> None:
    whole = picture(*size).resize((size[0] * 32 // 40, size[1] * 32 // 40), Image.Resampling.BICUBIC)
    left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), dtype=int)
    assert np.abs(decode_square(encoded(picture(*size), "PNG"), 32, "crop") - expected).max() <= 1


def test_squashed_the_whole_of_an_oblong_image_is_seen() -> None:
    expected = np.asarray(picture(90, 40).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(decode_square(encoded(picture(90, 40), "PNG"), 32, "squash"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mark", range(1, 9))
def test_an_image_turned_by_its_exif_mark_stands_upright(mark: int, kind: str) -> None:
    upright = picture(60, 40)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes what the mark asks for
    stored = upright.transpose(Image.Transpose(back[mark])) if mark > 1 else upright
    data = encoded(stored, kind, exif=with_exif(mark), quality=95)
    expected = decode_square(encoded(upright, "PNG"), 40, "crop").astype(int)
    assert np.abs(decode_square(data, 40, "crop") - expected).max() <= 24
    assert np.abs(decode_square(data, 40, "crop") - expected).mean() < 2
    assert probe(data) == (40, 60)


def test_a_damaged_exif_part_is_no_reason_to_leave_a_photograph_out() -> None:
    whole = encoded(COLOUR, "JPEG", exif=with_exif(6))
    start = whole.index(b"Exif\0\0") + 6
    damaged = whole[:start] + b"\xff" * 4 + whole[start + 4 :]  # not the mark of a TIFF header
    assert np.array_equal(decode_square(damaged, 40, "crop"), decode_square(encoded(COLOUR, "JPEG"), 40, "crop"))


def test_a_large_jpeg_read_at_a_fraction_looks_like_the_whole() -> None:
    large = picture(800, 600)
    square = decode_square(encoded(large, "JPEG", quality=95), 32, "crop").astype(int)
    expected = np.asarray(large.resize((32, 32), Image.Resampling.BICUBIC, box=(100, 0, 700, 600)))
    assert np.abs(square - expected).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_crops_are_those_of_torchvision_on_a_pillow_image(kind: str) -> None:
    compat.prepare_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    data = encoded(picture(97, 71), kind)
    cuts = [((3, 5, 41, 53), False, 29), ((0, 0, 71, 97), True, 37), ((60, 80, 11, 13), True, 17)]
    opened = Image.open(io.BytesIO(data)).convert("RGB")
    for crop, (box, flipped, side) in zip(decode_crops(data, cuts), cuts, strict=True):
        expected = functional.resized_crop(opened, *box, size=[side, side], interpolation=InterpolationMode.BILINEAR)
        expected = functional.horizontal_flip(expected) if flipped else expected
        assert np.array_equal(crop, np.asarray(expected))


def test_crops_of_a_turned_jpeg_decoded_at_a_fraction_look_like_those_of_the_whole() -> None:
    upright = picture(800, 600)
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=with_exif(6))
    cuts = [((101, 203, 300, 401), False, 31), ((0, 0, 600, 800), True, 61)]
    whole = decode_crops(encoded(upright, "PNG"), cuts)
    for crop, expected in zip(decode_crops(data, cuts), whole, strict=True):
        assert np.abs(crop.astype(int) - expected).mean() < 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0" * 4096, "not an image of a known format"),
        (b"this is no JPEG", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC: convert it to JPEG or PNG"),
        (cut_png(30_011, 20_011), "too large: more than 178,956,970 pixels"),
        (cut_png(11, 13), "cannot be decoded"),
        (KINDS["JPEG"][0][:-200], "truncated"),
        (KINDS["progressive JPEG"][0][:-200], "truncated"),
        (encoded(picture(800, 600), "JPEG")[:-400], "truncated"),  # decoded at a fraction
        (KINDS["PNG"][0][:-100], "cannot be decoded"),
        (KINDS["BMP"][0][:-100], "truncated"),
        (KINDS["PPM"][0][:-100], "truncated"),
        (KINDS["WebP"][0][:-100], "cannot be decoded"),
        (KINDS["JPEG 2000"][0][: len(KINDS["JPEG 2000"][0]) // 2], "cannot be decoded"),
    ],
    ids=range(15),
)
def test_what_cannot_be_decoded_whole_says_why_to_all_who_ask(data: bytes, reason: str) -> None:
    for ask in (
        lambda: decode_square(data, 32, "crop"),
        lambda: decode_crops(data, [((0, 0, 8, 8), False, 4)]),
        lambda: probe(data),
    ):
        with pytest.raises(Unreadable, match=reason):
            ask()


def test_an_image_that_pillow_warns_of_is_read_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # it warns from here on, and refuses from twice as many
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert probe(KINDS["PNG"][0]) == (40, 40)
    assert told == []


@pytest.mark.parametrize("size", [(97, 71), (800, 601)])
def test_simplejpeg_gives_the_pixels_of_pillow(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    turned = {"exif": with_exif(6), "progressive": True}
    files = [encoded(picture(*size), "JPEG"), encoded(picture(*size).convert("L"), "JPEG", **turned)]
    cuts = [((1, 2, 70, 60), True, 29)]
    fast = [(decode_square(file, 67, "squash"), *decode_crops(file, cuts)) for file in files]
    monkeypatch.setattr("data.decode.simplejpeg", None)
    slow = [(decode_square(file, 67, "squash"), *decode_crops(file, cuts)) for file in files]
    for of_one, of_other in zip(fast, slow, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(of_one, of_other, strict=True))


def test_what_simplejpeg_refuses_pillow_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_square(KINDS["JPEG"][0], 23, "crop")

    class Refuses:
        @staticmethod
        def decode_jpeg(*arguments: object, **options: object) -> np.ndarray:
            raise ValueError("premature end of JPEG file")

    monkeypatch.setattr("data.decode.simplejpeg", Refuses)
    assert np.array_equal(decode_square(KINDS["JPEG"][0], 23, "crop"), expected)
    with pytest.raises(Unreadable, match="truncated"):
        decode_square(KINDS["JPEG"][0][:-200], 23, "crop")
