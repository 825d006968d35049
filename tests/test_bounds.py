"""Theorems about what codes can do: exact cases, and measured random codes between the curves."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, ndtr

from vtd.bounds import cap_angle, cone_converse, log_cap, log_turn, needed_snr, random_code, shannon_limit
from vtd.codes import Codebook, symbol_error


@pytest.mark.parametrize("cells", [2, 3, 75, 192, 3072, 49_152])
def test_caps_are_the_incomplete_beta_function(cells):
    for angle in (0.3, 1.0, 1.5):
        exact = 0.5 * betainc((cells - 1) / 2, 0.5, math.sin(angle) ** 2)
        if exact > 1e-280: assert log_cap(angle, cells) == pytest.approx(math.log(exact), rel=1e-6)
        assert np.exp(log_cap(math.pi - angle, cells)) == pytest.approx(1 - exact, abs=1e-9)


@given(st.integers(2, 2000), st.floats(0.05, 3.0))
@settings(deadline=None, max_examples=30)
def test_the_angle_of_a_cap_is_found_again(cells, angle):
    log = float(log_cap(angle, cells))
    if -600 < log < -1e-9: assert float(cap_angle(log, cells)) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize("snr_db", [-20.0, -6.0, 3.0])
@pytest.mark.parametrize("words", [2, 4, 8])
def test_in_the_plane_the_converse_is_the_error_of_points_on_a_circle(words, snr_db):
    rng = np.random.default_rng(0)
    noisy = rng.standard_normal((400_000, 2)) + [math.sqrt(2 * 10 ** (snr_db / 10)), 0]
    share = (np.abs(np.arctan2(noisy[:, 1], noisy[:, 0])) > math.pi / words).mean()
    assert math.exp(cone_converse(words, 2, snr_db)) == pytest.approx(share, abs=4 * math.sqrt(share / 400_000) + 1e-5)


@pytest.mark.parametrize("cells", [2, 48, 192])
def test_two_words_reach_the_converse_when_they_are_opposite(cells):
    for snr_db in (-15.0, -5.0, 0.0):
        assert math.exp(cone_converse(2, cells, snr_db)) == pytest.approx(ndtr(-math.sqrt(cells * 10 ** (snr_db / 10))), rel=1e-6)


@given(st.integers(2, 10**6), st.integers(2, 400), st.floats(-15, 10))
@settings(deadline=None, max_examples=8)
def test_the_converse_lies_below_the_random_code_and_both_are_probabilities(words, cells, snr_db):
    low, high = cone_converse(words, cells, snr_db), random_code(words, cells, snr_db)
    assert low <= high + 1e-4 and high <= 1e-4  # the quadrature's own error
    assert cone_converse(words, cells, snr_db + 1) <= low


def test_more_words_than_a_float_can_count_are_no_trouble():
    assert shannon_limit(2**900, 192) == pytest.approx(10 * math.log10(2 ** (1800 / 192) - 1))
    assert -1e6 < cone_converse(2**900, 192, 60.0) < -1000 < -1e-3 < cone_converse(2**900, 192, 15.0) <= 1e-4
    assert math.isfinite(float(log_turn(1e-3, 192, 20.0)))


def test_measured_codes_lie_where_they_should():
    for book in (Codebook.spherical(500, "4x4x3"), Codebook.binary(500, "4x4x3")):
        for snr_db in (-4.0, -2.0):
            error = symbol_error(book, snr_db, 20_000)
            assert math.exp(cone_converse(500, 48, snr_db)) < error
            assert error == pytest.approx(math.exp(random_code(500, 48, snr_db)), rel=0.25)


def test_needed_snr_inverts_the_bound():
    snr = needed_snr(random_code, 192, 75, 0.01)
    assert math.exp(random_code(192, 75, snr)) == pytest.approx(0.01, rel=1e-2)
    with pytest.raises(ValueError, match="between 0 and guessing"): needed_snr(random_code, 4, 75, 0.9)


@pytest.mark.parametrize("words, cells", [(1, 192), (192, 1), (0, 0)])
def test_codes_without_an_angle_are_refused(words, cells):
    for bound in (lambda: shannon_limit(words, cells), lambda: cone_converse(words, cells, 0), lambda: random_code(words, cells, 0)):
        with pytest.raises(ValueError, match="2 tokens or more on 2 cells"): bound()
