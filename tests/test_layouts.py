"""Layouts and their measures: what they are by definition, what they must not depend on, what they refuse."""
import subprocess
import sys

import numpy as np
import pytest
import torch

from vtd import graphs, layouts


def cloud(words=60, dims=10, seed=0): return np.random.default_rng(seed).standard_normal((words, dims))


def groups(each=10, seed=0):
    """Six groups of words: a direction each, and some noise."""
    dice = np.random.default_rng(seed)
    return dice.standard_normal((6, 20)).repeat(each, 0) + 0.8 * dice.standard_normal((6 * each, 20))


def test_neighbours_are_those_of_the_plain_definition():
    x = cloud(200).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    ids, values = layouts.nearest(x, 7)
    assert np.allclose(values, -np.sort(-cosine, 1)[:, :7], atol=1e-6)
    assert np.allclose(np.take_along_axis(cosine, ids, 1), values, atol=1e-6)
    apart = np.linalg.norm(x[:, None, :2] - x[None, :, :2], axis=2) + 1e9 * np.eye(200)
    assert (layouts.page_nearest(x[:, :2], 7) == apart.argsort(1)[:, :7]).all()


def test_a_shortlist_in_coarse_numbers_finds_the_very_same_neighbours():
    draws = np.random.default_rng(3)
    close = 1 + 1e-4 * draws.standard_normal((60, 8))  # all alike to within the rounding: every row is searched in full
    for x, k in ((draws.standard_normal((500, 40)), 5), (close, 5), (draws.standard_normal((7, 3)), 5)):
        slow, quick = layouts.nearest(x, k, fast=False), layouts.nearest(x, k, fast=True)
        assert np.abs(slow[1] - quick[1]).max() < 1e-6
        assert (slow[0] == quick[0]).all() or x is close  # there, many are equally near


def test_blocks_cover_every_row_once_and_do_not_change_the_answer(monkeypatch):
    x = cloud(100)
    whole = [f(x, x[:, :2]) for f in (layouts.overlap, layouts.trustworthiness, layouts.continuity)]
    assert [i for rows in graphs.blocks(100, 700) for i in range(100)[rows]] == list(range(100))
    monkeypatch.setattr(graphs, "blocks", lambda words: (slice(i, min(i + 7, words)) for i in range(0, words, 7)))
    assert [f(x, x[:, :2]) for f in (layouts.overlap, layouts.trustworthiness, layouts.continuity)] == pytest.approx(whole)


def test_measures_agree_with_scikit_learn():
    manifold = pytest.importorskip("sklearn.manifold", reason="scikit-learn comes with umap-learn")
    x, y = cloud(80), cloud(80, 2, 1)
    assert layouts.trustworthiness(x, y, 6) == pytest.approx(manifold.trustworthiness(x, y, n_neighbors=6, metric="cosine"))
    assert layouts.continuity(x, y, 6) == pytest.approx(  # the same with the roles exchanged
        manifold.trustworthiness(y, x / np.linalg.norm(x, axis=1, keepdims=True), n_neighbors=6))


def test_ranks_are_counted_by_hand():
    near = torch.tensor([[-torch.inf, 3.0, 1.0, 2.0], [0.5, -torch.inf, 0.1, 0.9]])
    assert graphs.ranks_among(near, torch.tensor([[1, 2], [0, 3]])).tolist() == [[1, 3], [2, 1]]
    assert graphs.weigh(np.array([[1, 2]] * 10), 2, 10) == 1.0


def test_the_worst_layout_scores_nothing():
    k, V = 2, 12
    worst = np.tile(np.arange(V - k, V), (V, 1))  # the farthest k of V - 1 others, for every word
    assert graphs.weigh(worst, k, V) == pytest.approx(0)


def test_chance_is_the_hypergeometric_mean_and_random_layouts_keep_it():
    c = layouts.chance(36, 5)
    assert float(c) == 5 / 35 and c.probabilities.sum() == pytest.approx(1) and c.probabilities @ np.arange(6) == pytest.approx(25 / 35)
    dice, x = np.random.default_rng(3), cloud(36)
    kept = [layouts.overlap(x, dice.standard_normal((36, 2))) for _ in range(150)]
    assert abs(np.mean(kept) - 5 / 35) < 5 * np.std(kept) / 150**0.5
    assert layouts.chance(7, 5).probabilities[:4] == pytest.approx(0)  # of six others five are right and five are drawn: four at least


@pytest.mark.parametrize("measure", [layouts.overlap, layouts.trustworthiness, layouts.continuity, layouts.global_spearman])
def test_measures_do_not_see_how_a_page_is_held(measure):
    x, y = groups(), cloud(60, 2, 5)
    angle = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    assert measure(x, 40 * (y @ angle)[:, [1, 0]] + 7) == pytest.approx(measure(x, y), abs=1e-9)
    order = np.random.default_rng(0).permutation(60)
    assert measure(x[order], y[order]) == pytest.approx(measure(x, y), abs=1e-9)
    assert measure(3 * x, y) == pytest.approx(measure(x, y), abs=1e-4)


def test_blame_adds_up_to_overlap_and_words_on_one_spot_are_no_error():
    x, y = groups(), cloud(60, 2)
    seen = layouts.blame(x, y, 4)
    assert seen.kept.mean() == layouts.overlap(x, y, 4) and seen.true.shape == seen.drawn.shape == (60, 4)
    same = layouts.page_nearest(np.zeros((30, 2)), 5)
    assert all(i not in row for i, row in enumerate(same))


def test_placed_overlap_of_words_on_their_twins():
    x = groups().astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = layouts.direct(x, restarts=1, rounds=0, steps=100)
    near = layouts.placed_overlap(x, y, x[:9], y[:9])  # a word is then its own nearest
    assert near > layouts.placed_overlap(x, y, x[:9], y[30:39])


def test_the_fuzzy_graph_is_umaps():
    umap = pytest.importorskip("umap.umap_", reason="umap-learn is an extra")
    ids, cosines = layouts.nearest(groups(), 6)
    graph = layouts.fuzzy_graph(ids, cosines)
    ours = np.zeros((60, 60))
    ours[graph.heads, graph.tails] = graph.weights
    me = np.arange(60)[:, None]  # their lists begin with the word itself
    theirs = umap.fuzzy_simplicial_set(groups().astype(np.float32), 7, np.random.RandomState(0), "cosine", knn_indices=np.hstack([me, ids]).astype(np.int32),
                                       knn_dists=np.hstack([0 * me, 1 - cosines]).astype(np.float32))[0].toarray()
    assert ((ours > 0) == (theirs > 0)).all() and np.corrcoef(ours[ours > 0], theirs[ours > 0])[0, 1] > 0.98


def test_forces_are_gradients():
    graph = layouts.fuzzy_graph(*layouts.nearest(groups(2), 3))
    y = torch.randn(1, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    square = ((y[:, graph.heads] - y[:, graph.tails]) ** 2).sum(-1) + 1e-6
    q = 1 / (1 + layouts.A * square**layouts.B)
    (-(graph.weights * q.log()).sum()).backward()
    assert torch.allclose(layouts.pulls(y.detach(), graph), -y.grad, rtol=1e-4)


def test_the_soft_overlap_gradient_is_exact_and_the_radius_adds_up():
    x = cloud(20, 6, 2)
    true = torch.from_numpy(layouts.nearest(x, 4)[0])
    y = torch.from_numpy(cloud(20, 2, 3))
    near = layouts.gather_candidates(y[None], true, 19)
    near = layouts.Candidates(near.ids, near.true.double(), near.valid.double())
    assert near.valid.sum(1).eq(19).all()  # each other word once
    soft = lambda place: layouts.soft_overlap(place, near, torch.zeros(20, dtype=torch.float64), 0.3, 4, rounds=300)  # noqa: E731
    share, gradient, log_radius = soft(y)
    degree = torch.sigmoid((log_radius[:, None] - (y[:, None] - y[near.ids]).norm(dim=2).log()) / 0.3) * near.valid
    assert torch.allclose(degree.sum(1), torch.full((20,), 4.5, dtype=torch.float64), atol=1e-6)
    for i, axis in ((0, 0), (7, 1), (19, 0)):
        step = torch.zeros_like(y)
        step[i, axis] = 1e-5
        assert float((soft(y + step)[0] - soft(y - step)[0]).sum() * 4 / 2e-5) == pytest.approx(float(gradient[i, axis]), abs=1e-6)


def test_layouts_side_by_side_do_not_meet():
    y = torch.from_numpy(cloud(24, 2)).float().view(1, 24, 2).repeat(3, 1, 1)
    true = torch.from_numpy(layouts.nearest(groups(4), 3)[0])
    ids = layouts.gather_candidates(y, true, 6).ids
    assert (ids // 24 == torch.arange(3).repeat_interleave(24)[:, None]).all()
    together = layouts.refine(y, true.numpy(), steps=5)
    assert torch.allclose(together[0], together[2], atol=1e-4)


def test_direct_beats_its_start_and_repeats_without_touching_the_callers_dice():
    x = groups()
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    y = layouts.direct(x, restarts=3, rounds=1, steps=150)
    assert (torch.random.get_rng_state() == state[0]).all() and (np.random.get_state()[1] == state[1]).all()
    start = layouts.learned_umap(x, epochs=150)
    assert y.shape == (60, 2) and layouts.overlap(x, y) > layouts.overlap(x, start) + 0.03 > 4 * float(layouts.chance(60))
    assert (layouts.direct(x, restarts=3, rounds=1, steps=150) == y).all()
    assert layouts.overlap(x, layouts.direct(x, start=start, steps=150, rounds=0)) > layouts.overlap(x, start)


@pytest.mark.parametrize("words, k", [(7, 5), (5, 3), (4, 2), (3, 1)])
def test_the_fewest_words_can_be_laid_out(words, k):
    x = cloud(words, 4, 1)
    y = layouts.direct(x, k=k, restarts=2, rounds=0, steps=40)
    assert y.shape == (words, 2) and np.isfinite(y).all() and 0 <= layouts.overlap(x, y, k) <= 1
    model = layouts.LearnedUMAP(neighbours=k, epochs=40, steps=10).fit(x)
    assert np.isfinite(model.place(cloud(3, 4, 2))).all()


def test_new_words_land_by_their_like_and_alone_it_does_not_matter_who_else_comes():
    x = groups(30)
    new, old = np.arange(0, 180, 6), np.setdiff1d(np.arange(180), np.arange(0, 180, 6))
    model = layouts.LearnedUMAP(steps=50, epochs=120).fit(x[old])
    places = model.place(x[new])
    assert np.allclose(model.place(x[new[:4]]), places[:4], atol=1e-5)
    kept = layouts.placed_overlap(x[old] / np.linalg.norm(x[old], axis=1, keepdims=True), model.places.numpy(), x[new] / np.linalg.norm(x[new], axis=1, keepdims=True), places)
    assert kept > 5 * 5 / 150
    assert (model.place(x[new], rounds=5) == model.place(x[new], rounds=5)).all()
    again = layouts.LearnedUMAP(steps=50, epochs=120).fit(x[old])
    assert (again.place(x[new]) == places).all()


def test_new_words_climb_and_the_page_holds_still():
    x = groups(20)
    new, old = np.arange(0, 120, 4), np.setdiff1d(np.arange(120), np.arange(0, 120, 4))
    model = layouts.LearnedUMAP(steps=30, epochs=150).fit(x[old])
    before = model.places.clone()
    page = np.zeros((120, 2))
    kept = []
    for steps in (0, 150):
        page[old], page[new] = before, model.place(x[new], rounds=3, steps=steps)
        kept.append(layouts.blame(x, page).kept[new].mean())
    assert kept[1] > kept[0] + 0.05 and torch.equal(model.places, before)
    with pytest.raises(ValueError, match="the same features"): model.place(x[old[:2]], steps=5)
    still = torch.arange(120) < 60
    moved = layouts.refine(torch.from_numpy(page)[None].float(), layouts.nearest(x)[0], steps=5, fixed=still)[0]
    assert torch.equal(moved[still], torch.from_numpy(page).float()[still]) and not torch.allclose(moved[~still], torch.from_numpy(page).float()[~still])


def test_learning_to_place_raises_the_soft_overlap():
    model = layouts.LearnedUMAP(steps=80, epochs=80).fit(groups(20))
    history = model.learn()
    assert np.mean(history[-20:]) > np.mean(history[:20]) + 0.02


def test_a_placing_network_can_be_put_on_any_layout_and_its_state_is_kept():
    x = groups(12)
    y = layouts.direct(x, restarts=1, rounds=0, steps=60)
    model = layouts.LearnedUMAP(steps=20).fit(x, y)
    assert np.allclose(model.places, y, atol=1e-5)
    model.learn()
    assert {"features", "places"} <= set(model.state_dict()) and any(name.startswith("placer.") for name in model.state_dict())


def test_umap_repeats_with_a_seed_and_places_new_words():
    pytest.importorskip("umap", reason="umap-learn is an extra")
    x = groups()
    y, placed = layouts.umap(x[6:], neighbours=5, new=x[:6], n_epochs=50)
    assert y.shape == (54, 2) and placed.shape == (6, 2) and (layouts.umap(x[6:], neighbours=5, n_epochs=50) == y).all()


def test_umap_is_loaded_only_when_asked():
    script = "import sys, vtd.layouts; print([m for m in ('umap', 'sklearn', 'numba', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


BAD = {"7 words or more, got 6": cloud(6), "NaN or infinity": np.where(cloud() > 2, np.nan, cloud()), "the same for all words": np.ones((9, 3)),
       "words 2 and 11 have the same features": cloud()[[*range(11), 2]], "only zeros": np.r_[cloud(9), np.zeros((1, 10))], "an array of shape": np.zeros(9)}


@pytest.mark.parametrize("says", BAD)
@pytest.mark.parametrize("layout", [layouts.direct, layouts.learned_umap, layouts.nearest])
def test_what_has_no_neighbours_is_refused_in_one_line(layout, says):
    with pytest.raises(ValueError, match=says) as error: layout(BAD[says])
    assert "\n" not in str(error.value)


def test_other_bad_input_is_refused():
    x = cloud()
    for wrong, says in ((np.zeros((59, 2)), "layout of 60 words"), (np.full((60, 2), np.nan), "NaN")):
        with pytest.raises(ValueError, match=says): layouts.overlap(x, wrong)
    with pytest.raises(ValueError, match="1 or more"): layouts.nearest(x, 0)
    with pytest.raises(ValueError, match="7 words or more"): layouts.chance(6, 5)
    model = layouts.LearnedUMAP(epochs=20, steps=2).fit(x)
    for wrong, says in ((cloud(3, 9), "as the fitted ones"), (np.full((2, 10), np.inf), "NaN or infinity"), (np.zeros((2, 10)), "only zeros"), (np.zeros((0, 10)), "as the fitted ones")):
        with pytest.raises(ValueError, match=says): model.place(wrong)
