"""A folder of images as users have them: damaged, grey, transparent, turned, of any shape."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.store import DataConfig, open_source
from utils.errors import UserError


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture: what a resize or JPEG changes little."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def folder_of(root: Path, size: int = 32) -> DataConfig:
    return DataConfig(name="folder", root=root, image_size=size)


def test_rows_are_the_readable_images_in_path_order_in_all_subfolders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.jpg", "a.PNG"):
        picture(40, 40).save(tmp_path / name)
    source = open_source(folder_of(tmp_path))
    assert [source.path(row) for row in range(source.n_rows)] == ["a.PNG", "b/a.jpg", "z.png"]
    assert source.image_shape == (3, 32, 32)
    assert source.read().dtype == torch.uint8
    assert (source.read_truth(), source.knn_split(), source.n_classes, source.skipped) == (None, None, None, [])


def test_unreadable_files_are_named_with_their_reason_and_the_rows_close_up(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "c.png", "e.png")):
        picture(40, 40, number).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"this is no JPEG")
    (tmp_path / "d.jpg").write_bytes(b"")
    picture(400, 400).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(folder_of(tmp_path, 40))
    assert [source.path(row) for row in range(source.n_rows)] == ["a.png", "c.png", "e.png"]
    third = torch.from_numpy(np.asarray(picture(40, 40, 2)).copy()).permute(2, 0, 1)
    assert torch.equal(source.read(torch.tensor([2]))[0], third)
    reasons = dict(source.skipped)
    assert sorted(reasons) == ["b.jpg", "cut.jpg", "d.jpg", "notes.txt"]
    assert reasons["b.jpg"] == "cannot identify image file it"
    assert reasons["d.jpg"] == "the file is empty"
    assert "truncated" in reasons["cut.jpg"]
    assert ".txt" in reasons["notes.txt"]


def test_a_grey_image_has_three_equal_channels(tmp_path: Path) -> None:
    picture(40, 40).convert("L").save(tmp_path / "a.jpg")
    image = open_source(folder_of(tmp_path)).read()[0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40, dtype=np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    image = open_source(folder_of(tmp_path, 40)).read()[0]
    assert torch.equal(image[1, 0], torch.from_numpy((ramp[0] >> 8).astype(np.uint8)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (10, 200, 30, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    image.convert(mode).save(tmp_path / "a.png")
    read = open_source(folder_of(tmp_path, 40)).read()[0]
    assert read[:, 20, 30].tolist() == [255, 255, 255]
    assert read[:, 20, 10].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [(90, 40), (40, 90)])
def test_an_oblong_image_is_resized_by_its_short_side_and_cut_in_the_middle(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    picture(*size).save(tmp_path / "a.png")
    whole = picture(*size).resize((size[0] * 32 // 40, size[1] * 32 // 40), Image.Resampling.BICUBIC)
    left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), dtype=np.int64)
    read = open_source(folder_of(tmp_path)).read()[0].permute(1, 2, 0).long()
    assert (read - torch.from_numpy(expected)).abs().max() <= 1


def test_an_image_turned_by_its_exif_mark_stands_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 40), "red")
    upright.paste((0, 0, 255), (0, 0, 40, 20))  # blue above, red below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = open_source(folder_of(tmp_path)).read()[0].float()
    assert read[2, :12].mean() > 240
    assert read[0, -12:].mean() > 240


def test_a_large_jpeg_read_at_a_fraction_looks_like_the_whole(tmp_path: Path) -> None:
    large = picture(800, 600)
    large.save(tmp_path / "a.jpg", quality=95)
    read = open_source(folder_of(tmp_path)).read()[0].float()
    square = large.resize((32, 32), Image.Resampling.BICUBIC, box=(100, 0, 700, 600))
    expected = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float()
    assert (read - expected).abs().mean() < 2


def test_a_link_to_a_folder_is_named_not_followed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture(40, 40).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    source = open_source(folder_of(tmp_path / "images"))
    assert source.n_rows == 1
    assert source.skipped == [("again", "a link to a folder is not followed")]


def test_the_side_is_96_unless_given(tmp_path: Path) -> None:
    picture(40, 40).save(tmp_path / "a.png")
    assert open_source(DataConfig(name="folder", root=tmp_path)).image_shape == (3, 96, 96)


def test_a_folder_without_a_readable_image_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its 1 image files can be read \(a.jpg: the file is empty"):
        open_source(folder_of(tmp_path))


def test_a_folder_without_an_image_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(UserError, match="data.root: no image under"):
        open_source(folder_of(tmp_path))


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.root: .*nowhere' is not there"):
        open_source(folder_of(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.root: .*file' is not a folder"):
        open_source(folder_of(tmp_path / "file"))


def test_a_folder_has_no_test_part(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.split: a folder has no test part"):
        open_source(DataConfig(name="folder", root=tmp_path, split="test"))
