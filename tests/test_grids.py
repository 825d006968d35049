"""Laws of grids and pages: nothing is lost on the way to an image and back, and bad input is one clear line."""
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vtd.grids import GridShape, Page, atomic_write, load_png, mosaic, save_png, split, to_rgb, visible

shapes = st.builds(GridShape, st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))


def random_levels(shape, count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.float32) / np.float32(255)


@given(shapes)
def test_a_shape_reads_back_what_it_writes(shape):
    assert GridShape.parse(str(shape)) == shape == GridShape(*shape)
    assert shape.cells == shape.height * shape.width * shape.colours


@pytest.mark.parametrize("text", ["8x8", "8x8x3x1", "8x-8x3", "axbxc", "", "8x8x0", "8.0x8x3", "²x8x3"])
def test_a_wrong_shape_is_one_line(text):
    with pytest.raises(ValueError) as error: GridShape.parse(text)
    assert "\n" not in str(error.value)


@given(shapes, st.integers(2, 4))
def test_capacity_multiplies_cell_by_cell(shape, levels):
    assert shape.capacity(levels) == levels**shape.cells
    assert shape.capacity_bits(levels) == pytest.approx(np.log2(float(levels)) * shape.cells)


@given(st.integers(1, 10**12), st.integers(2, 256), st.integers(1, 5))
def test_the_smallest_grid_is_enough_and_one_smaller_is_not(vocab_size, levels, colours):
    shape = GridShape.smallest(vocab_size, levels, colours)
    assert shape.height == shape.width and shape.capacity(levels) >= vocab_size
    if shape.height > 1:
        assert GridShape(shape.height - 1, shape.width - 1, colours).capacity(levels) < vocab_size


@given(shapes, st.integers(1, 13), st.one_of(st.none(), st.integers(1, 15)), st.integers(0, 9))
def test_a_page_taken_apart_is_the_grids_it_was_made_of(shape, count, columns, seed):
    patterns = random_levels(shape, count, seed)
    assert (split(mosaic(patterns, columns), shape, count) == patterns).all()


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(1, 13), st.one_of(st.none(), st.integers(1, 15)), st.text(max_size=9))
def test_a_png_page_is_exact_to_eight_bits(tmp_path_factory, shape, count, columns, text):
    path = tmp_path_factory.mktemp("png") / "page.png"
    patterns = random_levels(shape, count, count)
    save_png(path, patterns, columns=columns, meta={"text": text})
    back, note = load_png(path)
    assert back.dtype == np.float32 and (back == patterns).all() and note["text"] == text
    assert note["shape"] == str(shape) and note["count"] == count
    assert os.listdir(path.parent) == ["page.png"]


def test_a_page_from_elsewhere_needs_its_shape(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "page.png")
    with pytest.raises(ValueError, match="pass a shape"): load_png(tmp_path / "page.png")
    grids, note = load_png(tmp_path / "page.png", GridShape(8, 8, 3))
    assert grids.shape == (6, 8, 8, 3) and note == {}
    assert (mosaic(np.rint(grids * 255).astype(np.uint8), columns=3) == levels).all()
    with pytest.raises(ValueError, match="rows\\*7"): load_png(tmp_path / "page.png", GridShape(7, 8, 3))


def damaged(path, kind):
    save_png(path, random_levels(GridShape(8, 8, 3), 6, 0))
    data = path.read_bytes()
    if kind == "missing": path.unlink()
    if kind == "empty": path.write_bytes(b"")
    if kind == "text": path.write_text("not an image")
    if kind == "cut": path.write_bytes(data[: len(data) // 2])
    if kind == "folder": path.unlink(); path.mkdir()
    if kind == "resized": Image.open(path).resize((25, 17)).save(path, pnginfo=note({"shape": "8x8x3"}))
    if kind == "other note": Image.open(path).save(path, pnginfo=note([1]))
    if kind == "no json": Image.open(path).save(path, pnginfo=note(None, "{"))
    if kind == "too many": Image.open(path).save(path, pnginfo=note({"shape": "8x8x3", "count": 7}))
    if kind == "bad count": Image.open(path).save(path, pnginfo=note({"shape": "8x8x3", "count": "six"}))
    if kind == "bad shape": Image.open(path).save(path, pnginfo=note({"shape": {}}))


def note(value, text=None):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("vtd", text or json.dumps(value))
    return info


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "folder", "resized", "other note", "no json",
                                  "too many", "bad count", "bad shape"])
def test_a_damaged_page_is_one_line(tmp_path, kind):
    path = tmp_path / "page.png"
    damaged(path, kind)
    with pytest.raises(ValueError) as error: load_png(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("patterns", [np.full((1, 2, 2, 3), np.nan), np.full((1, 2, 2, 3), 1.5), np.zeros((2, 2, 3)),
                                      np.zeros((0, 2, 2, 3))])
def test_what_is_no_page_is_not_saved(tmp_path, patterns):
    with pytest.raises(ValueError): save_png(tmp_path / "page.png", patterns)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    atomic_write(tmp_path / "page", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): atomic_write(tmp_path / "page", b"new")
    assert os.listdir(tmp_path) == ["page"] and (tmp_path / "page").read_bytes() == b"old"


def test_the_note_cannot_lie_about_the_page(tmp_path):
    with pytest.raises(ValueError, match="count"):
        save_png(tmp_path / "page.png", random_levels(GridShape(2, 2, 3), 4, 0), meta={"count": 3})


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML, and the text in it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes): self.tags |= {tag, *(f"{tag}.{name}" for name, _ in attributes)}

    def handle_data(self, data): self.text.append(data)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=9))
def test_words_are_shown_and_never_act(words):
    words = [*words, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x00\x1b[31m"]
    page = Page(np.zeros((len(words), 2, 2, 3)), words)
    tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(page._repr_svg_()).iter()}  # well-formed
    assert tags <= {"svg", "image", "rect", "text", "title"}
    found = Tags(page._repr_html_())
    assert {tag for tag in found.tags if "." not in tag} == {"div", "img", "span"}
    assert not any(".on" in tag for tag in found.tags) and found.text == [visible(w) for w in words if w]


@given(st.text(min_size=1, max_size=20))
def test_no_word_is_invisible(word):
    assert visible(word).strip() and visible("  " + word) != visible(word)


def test_spaces_are_seen_where_they_belong_to_the_token():
    assert [visible(w) for w in ("  ", " the", "of the ", "a b")] == ["␣␣", "␣the", "of the␣", "a b"]


@given(st.integers(1, 12))
def test_every_number_of_colours_has_a_picture(colours):
    picture = to_rgb(np.random.default_rng(colours).random((2, 3, 4, colours)))
    assert picture.shape == (2, 3, 4, 3) and picture.dtype == np.uint8 and picture.max() > 0


def test_grids_need_no_torch():
    code = "import sys, vtd.grids; print([m for m in ('torch', 'PIL', 'plotly', 'IPython') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
