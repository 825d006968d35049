"""The chapter on UMAP: draws, peers, pairs, placements and claims, on small sizes."""
import numpy as np
import pytest

from vtd import lab, layouts
from vtd.chapters import umap as chapter


def meanings(words=60, dims=24, seed=0):
    """Made-up features: ten words of each of six kinds, like in kind."""
    dice = np.random.default_rng(seed)
    return (dice.standard_normal((6, dims)).repeat(words // 6, 0) + dice.standard_normal((words, dims))).astype(np.float32)


def test_each_draw_takes_six_of_every_kind():
    for seed in range(5):
        drawn = chapter.draw_kinds(seed)
        assert len(set(drawn)) == 36 and np.bincount([i // 10 for i in drawn]).tolist() == [6] * 6
    assert chapter.draw_kinds(0) != chapter.draw_kinds(1) and len(set(chapter.SIXTY)) == 60 and len(set(chapter.COMPOSED)) == len(chapter.COMPOSED)


@pytest.mark.parametrize("layout", [chapter.components, chapter.scaling, lambda x, seed: chapter.tsne(x, seed, 5), lambda x, seed: chapter.pacmap(x, seed, 5, 4)],
                         ids=["components", "scaling", "t-SNE", "PaCMAP"])
def test_peers_keep_more_than_chance_and_say_nothing(layout, capfd, request):
    if "PaCMAP" in request.node.name: pytest.importorskip("pacmap", reason="PaCMAP is measured where it is installed")
    pytest.importorskip("sklearn", reason="scikit-learn comes with umap-learn")
    x = meanings()
    page = layout(x, 0)
    assert np.shape(page) == (60, 2) and layouts.overlap(x, page) > 2 * float(layouts.chance(60))
    assert "".join(capfd.readouterr()) == ""


def test_settings_are_picked_among_the_grid_by_overlap(monkeypatch):
    monkeypatch.setattr(chapter, "GRIDS", {"a": [{"good": 0}, {"good": 1}]})
    monkeypatch.setattr(chapter, "PEERS", {"a": lambda x, seed, good: chapter.components(x, seed) if good else np.random.default_rng(0).standard_normal((len(x), 2))})
    assert chapter.tune([meanings()], 5) == {"a": {"good": 1}}


def test_comparisons_are_paired_and_named():
    out = chapter.Pages()
    scores = chapter.compare(out, "x", [meanings(seed=s) for s in range(3)], {"pca": chapter.components, "dealt": lambda x, s: np.random.default_rng(s).standard_normal((len(x), 2))}, 5)
    assert set(out.numbers) == {f"x_{m}{name}" for m in ("", "trust_", "continuity_", "global_") for name in ("pca", "dealt")}
    assert chapter.difference(scores["x_pca"], scores["x_dealt"]).low > 0 and out.numbers["x_dealt"].n == 3


def test_pairs_are_found_where_they_lie_and_not_by_chance():
    kinds, nouns = chapter.draw_pairs(0)
    assert len(kinds["concrete"]) == len(kinds["abstract"]) == 5 and len(nouns) == 8
    dice, words = np.random.default_rng(0), [*sum(kinds.values(), []), *nouns]
    places = {w: dice.standard_normal(2) for w in words}
    places |= {f"{a} {n}": places[n] + 0.01 * places[a] for ws in kinds.values() for a in ws for n in nouns}
    assert chapter.found(places, kinds, nouns, lambda a, n: n + 0.01 * a) == {"concrete": 1.0, "abstract": 1.0}
    lost = {w: dice.standard_normal(2) for w in places}
    assert max(chapter.found(lost, kinds, nouns, lambda a, n: (a + n) / 2).values()) < 0.4


def test_sums_of_features_compose_in_a_world_that_is_made_of_sums():
    dice = np.random.default_rng(0)
    single = {w: dice.standard_normal(40) for w in [*" ".join(chapter.ADJECTIVES.values()).split(), *chapter.NOUNS]}
    world = single | {w: single[w.split()[0]] + single[w.split()[1]] + 0.1 * dice.standard_normal(40) for w in chapter.COMPOSED if " " in w}
    pytest.importorskip("umap", reason="umap-learn is an extra")
    out = chapter.Pages()
    chapter.measure_composition(out, world, [0, 1])
    assert out.numbers["compose_features"].value == 1.0 and out.numbers["compose_dealt"].value < 0.3
    assert out.numbers["compose_umap"].value < out.numbers["compose_features"].value


def test_placements_give_a_page_and_places():
    x = meanings(120)
    for page, places in chapter.placements(x[20:], x[:20], 0, 5, transforms=False).values(): assert page.shape == (100, 2) and places.shape == (20, 2)


def test_a_page_laid_on_another_changes_nothing_but_how_it_is_held():
    page = np.random.default_rng(0).standard_normal((30, 2))
    turned = 5 * page @ np.array([[0.0, 1.0], [1.0, 0.0]]) + 3
    assert np.allclose(chapter.align(turned, page), page - page.mean(0), atol=1e-9)


def test_the_claims_follow_the_numbers():
    good, low = lab.Number(0.9, 0.88, 0.92, 10), lab.Number(0.1, 0.08, 0.12, 10)
    names = ["six_umap", "six_direct", "six_pca", "six_global_umap", "six_global_pca", "six_global_mds", "six_global_umap_tuned", "six_dealt", "six_global_dealt", "six_umap_tuned", "random36_umap",
             "random36_direct", "random36_umap_tuned", "random36_global_umap", "gaussian36_direct", "umap_minus_pca_global", "compose_umap", "compose_umap_concrete", "compose_umap_abstract",
             "concrete_minus_abstract", "midpoint_minus_noun_concrete", "compose_features"]
    high = chapter.Pages(numbers=dict.fromkeys(names, good) | {"chance": lab.Number(5 / 35)})
    chapter.judge(high, [36])
    assert {c: v["verdict"] for c, v in high.claims.items()} == {"C24": "holds", "C27": "refuted", "C28": "holds", "C29": "holds", "C30": "holds", "C31": "holds"}
    poor = chapter.Pages(numbers=dict.fromkeys(names, low) | {"chance": lab.Number(0.2), "midpoint_minus_noun_concrete": lab.Number(-0.1, -0.12, -0.08, 10), "umap_minus_pca_global": lab.Number(-0.1, -0.2, -0.05, 10)})
    chapter.judge(poor, [36])
    assert {c: v["verdict"] for c, v in poor.claims.items()} == {"C24": "depends", "C27": "holds", "C28": "refuted", "C29": "refuted", "C30": "refuted", "C31": "refuted"}
    assert set(poor.claims) == {c for c, row in lab.CLAIMS.items() if row.chapter == "umap"}
    assert "\n" not in "".join(v["cause"] for v in poor.claims.values())


@pytest.mark.parametrize("wrong", [{"seeds": [0]}, {"held_seeds": [0]}, {"sizes": [200]}, {"held_words": 2000}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(ValueError): chapter.run(**wrong)


def test_the_large_run_has_parameters_of_the_chapter():
    assert lab.validate("umap", lab.variant("umap", "large"))["pool"] == 10_000
