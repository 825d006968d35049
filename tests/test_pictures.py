"""Laws of pictures: what nobody damages comes back exactly, damage is seeded and keeps the size, bad input is one line."""
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtd.grids import GridShape, fit_columns, png_bytes
from vtd.pictures import DAMAGES, middle, photograph, read_picture, render, settle, survives

shapes = st.builds(GridShape, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
MILD = {"jpeg": 75, "blur": 1, "rescale": 2, "sensor_noise": 20, "photograph": 0.5}
SEVERE = {"jpeg": 5, "blur": 4, "rescale": 8, "sensor_noise": 120, "photograph": 1.5}


def levels(shape, count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


class Book:
    """Random grids, black and white, or grey about the middle; read by the nearest."""

    def __init__(self, count=50, shape=(8, 8, 3), spread=None, seed=0):
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, 2, (count, *shape)) if spread is None else rng.normal(0.5, spread, (count, *shape))
        self.patterns = np.clip(drawn, 0, 1).astype(np.float32)

    def nearest(self, seen): return ((seen[:, None] - self.patterns) ** 2).sum((2, 3, 4)).argmin(1)


class Deaf(Book):
    """Reads every grid as the first token."""

    def nearest(self, seen): return np.zeros(len(seen), int)


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(1, 7), st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 9), st.sampled_from(["scale", "columns", "both"]))
def test_a_page_survives_png_exactly(shape, count, columns, scale, told):
    sent = levels(shape, count)
    picture = np.asarray(Image.open(BytesIO(png_bytes(render(sent, scale, columns)))))
    side = fit_columns(count, shape, columns)
    known = {"scale": {"scale": scale}, "columns": {"columns": side}, "both": {"scale": scale, "columns": side}}[told]
    seen = read_picture(picture, shape, count, **known)
    assert seen.dtype == np.float32 and (np.rint(seen * 255) == sent).all() and np.abs(seen - sent / 255).max() < 1e-6


@given(shapes, st.integers(1, 9), st.integers(1, 9))
def test_the_number_of_grids_alone_tells_the_scale(shape, count, scale):
    sent = levels(shape, count)
    assert (np.rint(read_picture(render(sent, scale), shape, count) * 255) == sent).all()


@given(st.integers(1, 40))
def test_the_middle_is_at_least_half_a_cell_and_in_its_centre(scale):
    pixels = np.arange(scale)[middle(scale)]
    assert 2 * len(pixels) >= scale and pixels.sum() * 2 == (scale - 1) * len(pixels)
    assert len(pixels) < scale or scale < 4


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("colours", [1, 3])
def test_damage_keeps_the_size_is_seeded_and_leaves_its_input(name, colours):
    picture = render(levels((4, 6, colours), 5), 6)
    before, mild = picture.copy(), DAMAGES[name](picture, MILD[name], 3)
    assert mild.shape == picture.shape and mild.dtype == np.uint8 and (picture == before).all()
    assert (mild == DAMAGES[name](picture, MILD[name], 3)).all()
    random = name in ("sensor_noise", "photograph")
    assert (mild != DAMAGES[name](picture, MILD[name], 4)).any() == random
    far = [np.abs(DAMAGES[name](picture, amount[name], 3) - picture.astype(float)).mean() for amount in (MILD, SEVERE)]
    assert 0 < far[0] < far[1]


@pytest.mark.parametrize("name, amount", [("blur", 0), ("rescale", 1), ("sensor_noise", 0)])
def test_no_damage_changes_nothing(name, amount):
    picture = render(levels((4, 6, 3), 5))
    assert (DAMAGES[name](picture, amount) == picture).all()


def test_a_grey_cell_as_large_as_a_block_of_jpeg_comes_back_exactly():
    ramp = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    assert (DAMAGES["jpeg"](render(ramp, 8), 75) == render(ramp, 8)).all()  # its mean is kept in steps of one level
    assert (DAMAGES["jpeg"](render(ramp, 7), 75) != render(ramp, 7)).any()


def test_the_noise_is_as_strong_as_it_says():
    picture = np.full((200, 200, 3), 128, np.uint8)
    assert DAMAGES["sensor_noise"](picture, 20).std() == pytest.approx(20, rel=0.02)


def test_damage_leaves_the_callers_random_numbers_alone():
    np.random.seed(5)
    expected, picture = np.random.default_rng(0).random(), render(levels((4, 4, 3), 4))
    state = np.random.get_state()[1].copy()
    for name, damage in DAMAGES.items(): damage(picture, MILD[name])
    assert (np.random.get_state()[1] == state).all() and np.random.default_rng(0).random() == expected


@pytest.mark.parametrize("shape", [(8, 8, 3), (6, 6, 1)])
@pytest.mark.parametrize("name", DAMAGES)
def test_words_survive_what_pictures_usually_suffer(name, shape):
    assert survives(Book(shape=shape), name, MILD[name], n=60) == 1


@pytest.mark.parametrize("name, ruin", [("blur", 300), ("sensor_noise", 5000), ("photograph", 40)])
def test_a_ruined_page_is_not_read(name, ruin):
    assert survives(Book(), name, ruin, n=60) < 0.3
    assert survives(Deaf(), name, MILD[name], n=200) < 0.1  # right only where the first token was sent


def test_settling_takes_brightness_and_contrast_back():
    patterns = Book(40, spread=0.15).patterns
    seen = patterns * np.array([0.4, 0.7, 0.2]) + np.array([0.1, 0.2, 0.6])
    assert np.abs(settle(seen, patterns) - patterns).max() < 1e-5
    assert np.isfinite(settle(np.full((2, 8, 8, 3), 0.5), patterns)).all()
    flat = Book(60, spread=0.12)
    assert survives(flat, "photograph", 2) > survives(flat, "photograph", 2, correct=False)


def test_the_empty_places_of_a_page_do_not_darken_it():
    book = Book(60, spread=0.12)
    shares = {n: survives(book, "photograph", 1, n=n) for n in (10, 11, 13, 17, 26, 37)}  # none fills its last row
    assert set(shares.values()) == {1}


@pytest.mark.parametrize("name, amount", [("jpeg", 0), ("jpeg", 96), ("blur", -1), ("rescale", 0.5), ("sensor_noise", -1),
                                          ("photograph", -0.1)] + [(name, float("nan")) for name in DAMAGES]
                         + [(name, float("inf")) for name in DAMAGES])
def test_a_wrong_amount_is_one_line(name, amount):
    with pytest.raises(ValueError) as error: DAMAGES[name](render(levels((4, 4, 3), 4)), amount)
    assert "\n" not in str(error.value) and str(amount) in str(error.value)


@pytest.mark.parametrize("picture", [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros(8, np.uint8),
                                     np.zeros((0, 8, 3), np.uint8)])
@pytest.mark.parametrize("name", [*DAMAGES, "read"])
def test_what_is_no_picture_is_one_line(name, picture):
    with pytest.raises(ValueError, match="a picture is uint8"):
        if name == "read": read_picture(picture, "4x4x3", scale=1)
        else: DAMAGES[name](picture, MILD[name])


@pytest.mark.parametrize("change, shape, known, says", [
    (lambda p: p[:-1], "4x4x3", {"scale": 8}, "rows\\*32"), (lambda p: p[:, :-1], "4x4x3", {"scale": 8}, "columns\\*32"),
    (lambda p: p[:, :-1], "4x4x3", {"columns": 3}, "do not divide"), (lambda p: p, "4x4x3", {}, "scale"),
    (lambda p: p, "4x4x3", {"columns": 2, "scale": 8}, "wide, not 2"), (lambda p: p, "4x4x3", {"scale": 0}, "at least 1"),
    (lambda p: p, "4x4x3", {"columns": 0}, "at least 1"), (lambda p: p, "4x4x3", {"count": 0}, "at least 1"),
    (lambda p: p, "4x4x3", {"count": 10, "scale": 8}, "holds 9 grids"), (lambda p: p[:, :, 0], "4x4x3", {"scale": 8}, "rows\\*32"),
    (lambda p: p, "4x4x2", {"scale": 8}, "columns\\*64"), (lambda p: p, "4x4", {"scale": 8}, "HEIGHTxWIDTHxCOLOURS")])
def test_a_picture_that_does_not_divide_is_one_line(change, shape, known, says):
    with pytest.raises(ValueError, match=says) as error:
        read_picture(change(render(levels((4, 4, 3), 9), 8, 3)), shape, **known)
    assert "\n" not in str(error.value)


def test_other_bad_input_is_one_line():
    with pytest.raises(ValueError, match="damages are jpeg, blur"): survives(Book(), "fire", 1)
    with pytest.raises(ValueError, match="at least 1 token"): survives(Book(), "blur", 1, n=0)
    with pytest.raises(ValueError, match="at least 1 pixel"): render(levels((4, 4, 3), 4), 0)
    with pytest.raises(ValueError, match="lie in \\[0, 1\\]"): render(np.full((1, 2, 2, 3), 1.5))
    with pytest.raises(ValueError, match="none of them 0"): render(np.zeros((0, 2, 2, 3)))


def test_a_photograph_is_worse_than_its_parts():
    picture = render(levels((8, 8, 3), 6))
    off = {name: np.abs(damage(picture, MILD[name]) - picture.astype(float)).mean() for name, damage in DAMAGES.items()}
    assert off["photograph"] > max(off["jpeg"], off["blur"]) and photograph(picture, 0).shape == picture.shape


def test_pictures_need_pillow_only_when_damaged():
    code = "import sys, vtd.pictures; print([m for m in ('torch', 'PIL', 'plotly', 'IPython') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
