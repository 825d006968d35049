"""The chapter on composition: readers, sums and roles, capacity, maps and analogies, on small sizes."""
import zlib

import numpy as np
import pytest
import torch

from vtd import lab
from vtd.algebra import Sentence, recovery_theory, superpose
from vtd.chapters import composition as chapter
from vtd.codes import Codebook
from vtd.grids import GridShape

SHAPE = GridShape.parse("4x4x3")


def words(size=12, seed=0): return Codebook.spherical(size, SHAPE, seed).signal.unflatten(-1, tuple(SHAPE))


def triples(size, count, seed=0): return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)).argsort(1)[:, :3]


def test_quality_counts_one_word_and_both():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 0, 2, 1], [0, 1, 2, 3]])
    assert chapter.quality(scores, torch.tensor([[0, 1], [0, 1], [0, 1]])) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_all_pairs_are_all_pairs():
    assert len(chapter.all_pairs(36)) == 630 and len(set(map(tuple, chapter.all_pairs(36).tolist()))) == 630


def test_the_notes_experiment_repeats_and_learns_single_words():
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    found = chapter.notes_experiment(x, SHAPE, 60, 3)
    assert found == chapter.notes_experiment(x, SHAPE, 60, 3) and (torch.random.get_rng_state() == state).all()
    assert found["single words"][0] == found["embedding single words"][0] == 1.0
    assert found != chapter.notes_experiment(x, SHAPE, 60, 4)


def test_no_reader_of_a_sum_finds_the_order_and_roles_do():
    x, ids = words(), triples(12, 900)
    assert torch.allclose(superpose(*x[ids[0]]), superpose(*x[ids[0].roll(1)]), atol=1e-6)
    assert float(chapter.read_sum(x, ids, torch.Generator().manual_seed(0)).double().mean()) == pytest.approx(1 / 6, abs=0.05)
    for roles in (chapter.bound, chapter.permuted): assert chapter.read_roles(x, ids, roles(x, 0)).double().mean() > 0.9


def test_noise_makes_pairs_harder_and_none_makes_them_certain():
    pairs = chapter.all_pairs(12)
    share = [float(chapter.near_pairs(words().flatten(1), pairs, db, torch.Generator().manual_seed(0)).double().mean()) for db in (np.inf, -3, -15)]
    assert share[0] == 1.0 > share[1] > share[2]


def test_recovered_words_follow_the_theory():
    runs = [chapter.recovered(Codebook.spherical(200, "8x8x3", seed), 12, 240, seed, [2], 4) for seed in range(4)]
    assert abs(np.mean([r[""] for r in runs]) - recovery_theory(12, 192, 200)) < 0.04
    assert abs(np.mean([r["levels 2"] for r in runs]) - recovery_theory(12, 192, 200, 2)) < 0.06
    assert np.mean([r["together"] for r in runs]) > np.mean([r[""] for r in runs]) > np.mean([r["levels 2"] for r in runs])


@pytest.mark.parametrize("code", chapter.CODES)
def test_every_code_gives_triples_back(code):
    x = np.random.default_rng(0).standard_normal((40, 60)).astype(np.float32)
    book, ids = chapter.codebook(code, x, GridShape.parse("8x8x3"), 0), triples(40, 60)
    told = Sentence(book, ["a", "b", "c"])
    grid = chapter.as_seen(told.write(dict(zip(told.roles, ids.unbind(1), strict=True))), 3)
    assert (torch.stack(list(told.read_all(grid).values()), 1) == ids).all(1).double().mean() > 0.95


def test_blind_guesses_are_right_at_most_one_time_in_six():
    signals = Codebook.spherical(30, "8x8x3").signal
    right = chapter.guess_roles(signals, triples(30, 1200), torch.Generator().manual_seed(1))
    assert float(right.double().mean()) == pytest.approx(1 / 6, abs=0.04)


def test_a_map_in_halves_keeps_order_and_a_mean_does_not():
    x = words(8)
    share = {name: chapter.learn_map(torch.zeros(8, 1), x, m, 40, 10.0, 0) for name, m in (("mean", 0.5), ("halves", chapter.halves(SHAPE)))}
    assert share["mean"] < 0.7 < 0.9 < share["halves"]
    assert chapter.beside_pairs(8, SHAPE, 10.0, 0, "placed") > 0.9 < chapter.beside_pairs(8, GridShape.parse("8x8x3"), 10.0, 0, "bound")


def test_analogies_of_a_world_of_shifts():
    dice = torch.Generator().manual_seed(0)
    base, turn = torch.randn(16, 24, generator=dice), torch.randn(2, 24, generator=dice)
    x = torch.cat([base, base[:8] + turn[0], base[8:] + turn[1]])
    given = torch.tensor([[r * 8 + i, 16 + r * 8 + i, r * 8 + j] for r in range(2) for i in range(8) for j in range(8) if i != j])
    wanted = given[:, 2] + 16
    left_out, kept = chapter.answer_with(chapter.offset(x, given), x, given, wanted)
    assert left_out.all() and kept.all()
    neighbour, not_left_out = chapter.answer_with(x[given[:, 2]], x, given, wanted)
    assert not not_left_out.any() and neighbour.double().mean() > 0.9  # the third word is its own nearest, and arithmetic is not needed here


def test_a_learned_operator_never_sees_the_section_it_is_asked_about():
    dice = torch.Generator().manual_seed(0)
    x, given = torch.randn(30, 12, generator=dice), torch.randint(30, (60, 3), generator=dice)
    wanted, section = torch.randint(30, (60,), generator=dice), torch.arange(60) // 20
    first = chapter.learned(x, given, wanted, section)
    changed = wanted.clone()
    changed[section == 0] = (changed[section == 0] + 7) % 30  # other answers in section 0 ...
    second = chapter.learned(x, given, changed, section)
    assert torch.allclose(first[section == 0], second[section == 0], atol=1e-5)  # ... do not change what it says there
    assert not torch.allclose(first[section == 1], second[section == 1], atol=1e-3)


def test_files_of_analogies_are_read_and_refused(tmp_path):
    good = tmp_path / "a.txt"
    good.write_text(": one\nParis France Rome Italy\n\n: two\nbig bigger old older\n", encoding="utf-8")
    assert chapter.read_questions(str(good)) == {"one": [("paris", "france", "rome", "italy")], "two": [("big", "bigger", "old", "older")]}
    for text, says in (("a b c d\n", "line 1"), (": one\na b c\n", "line 2"), (": one\na b c d\n", "fewer than two")):
        good.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=says) as error: chapter.read_questions(str(good))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no file of analogies"): chapter.read_questions(str(tmp_path / "none.txt"))
    assert sum(map(len, chapter.questions_of(chapter.RELATIONS).values())) == 6 * 8 * 7


def small(**changes):
    return {"seeds": [0, 1], "notes_steps": [5, 8], "vocabularies": [36], "triples": 20, "items": [3, 12], "grids": ["8x8x3", "12x12x3"], "items_vocabulary": 60, "reads": 24, "levels": [2],
            "rounds": 2, "map_steps": 3, "candidates": 60} | changes


@pytest.fixture
def world(monkeypatch):
    """Made-up features, so that the chapter runs where there are none."""
    def features(names, source): return np.stack([np.random.default_rng(zlib.crc32(w.encode())).standard_normal(210) for w in names]).astype(np.float32)
    monkeypatch.setattr(chapter, "features", features)
    monkeypatch.setattr(chapter, "common_words", lambda count: [f"w{i}" for i in range(count)])


def test_a_small_run_judges_every_claim_of_the_chapter_and_repeats(world):
    out = chapter.run(**small())
    assert set(out.claims) == {c for c, row in lab.CLAIMS.items() if row.chapter == "composition"}
    assert all(np.isfinite(x.value) for x in out.numbers.values()) and "\n" not in "".join(v["cause"] for v in out.claims.values())
    assert out.claims["C35"]["verdict"] in ("holds", "depends") and out.numbers["order_grid_bound"].value == 1.0
    assert chapter.run(**small()).numbers == out.numbers


def test_claims_follow_the_numbers(world):
    out = chapter.run(**small())
    low, high = lab.Number(0.2, 0.18, 0.22, 9), lab.Number(1.0, 1.0, 1.0, 9)
    verdicts = lambda: {c: v["verdict"] for c, v in out.claims.items()}  # noqa: E731
    out.numbers |= {"ratio_cnn": low, "ratio_random_cnn": low, "notes_matched_both": low}
    chapter.judge_sums(out, [5, 8])
    assert verdicts()["C25"] == "holds" and verdicts()["C26"] == "holds"
    out.numbers |= {"ratio_random_cnn": high, "notes_matched_both": high}
    chapter.judge_sums(out, [5, 8])
    assert verdicts()["C25"] == "depends" and verdicts()["C26"] == "refuted"
    out.numbers |= {name: low for name in out.numbers if name.startswith("triples")} | {name: lab.Number(-0.1, -0.2, -0.05, 6) for name in out.numbers if name.startswith("analogy_gain")}
    chapter.judge_structure(out, [36])
    assert verdicts()["C34"] == "refuted" and verdicts()["C35"] == "refuted"


@pytest.mark.parametrize("wrong, says", [({"seeds": [0]}, "two seeds"), ({"vocabularies": [10]}, "36"), ({"triples": 1}, "at least one a seed"), ({"rounds": 0}, "1 or more"), ({"shape": "7x7x3"}, "even width"),
                                         ({"notes_steps": []}, "notes_steps"), ({"analogies_file": "nowhere.txt"}, "no file of analogies")])
def test_what_cannot_be_judged_is_refused(wrong, says, world):
    with pytest.raises(ValueError, match=says): chapter.run(**small(**wrong))


def test_the_large_run_has_parameters_of_the_chapter():
    assert lab.validate("composition", lab.variant("composition", "large"))["triples"] == 10_000
