"""The chapter on grid diffusion: small contests, verdicts that follow numbers, and the larger settings."""
from pathlib import Path

import numpy as np
import pytest

from vtd import lab
from vtd.chapters import grid_diffusion as chapter

VARIANTS = [path.stem.split(".", 1)[1] for path in sorted(Path(lab.root() / "nbs" / "chapters").glob("10_grid_diffusion.*.yaml"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("contest")


def small(folder, **more):
    return {"chain": True, "sentences": 1500, "steps": 3, "batch": 8, "width": 32, "layers": 1, "seeds": [0, 1], "windows": 12, "draws": 2, "pages": 6, "calls": [2], "workers": 1,
            "variants": ["whitened", "permuted"], "work": str(folder)} | more


def test_a_small_run_answers_every_claim_and_is_read_again(folder):
    out = chapter.run(**small(folder))
    assert {"C13", "C16", "C33", "G1", "G2", "G10"} == set(out.claims) and out.claims["C33"]["verdict"] == "refuted"
    assert all(np.isfinite(x.value) for x in out.numbers.values()) and "\n" not in "".join(v["cause"] for v in out.claims.values())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert chapter.run(**small(folder)).numbers == out.numbers
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert out.numbers["bits_grid_together"].value > out.numbers["exact"].value - 0.3


def test_one_seed_gives_numbers_and_no_verdict(folder):
    out = chapter.run(**small(folder, seeds=[0]))
    assert out.claims == {} and out.numbers["grid_together_minus_masked"].low is None


def test_verdicts_follow_the_numbers(folder):
    out, runs = chapter.run(**small(folder)), {"grid": [], "masked": [], "whitened": [], "permuted": []}
    near, far = lab.Number(0.01, 0.0, 0.015, 3), lab.Number(0.3, 0.2, 0.4, 3)
    for gap, pages, verdict in ((near, near, "holds"), (far, far, "refuted"), (near, far, "depends"), (far, near, "depends")):
        out.numbers |= {"grid_together_minus_masked": gap, "grid_together_minus_masked_over_windows": pages}
        chapter.judge_claims(out, runs)
        assert out.claims["G1"]["verdict"] == verdict
    out.numbers |= {"permuted_minus_whitened": far, "permuted_minus_whitened_over_windows": far}
    chapter.judge_claims(out, runs)
    assert out.claims["C13"]["verdict"] == "depends"  # learned, and meaning helps
    out.numbers |= {"bits_permuted_together": lab.Number(9.0, 8.9, 9.1, 3), "bits_grid_together": lab.Number(9.0, 8.9, 9.1, 3)}
    chapter.judge_claims(out, runs)
    assert out.claims["C13"]["verdict"] == "holds" and out.claims["C33"]["verdict"] == "holds"
    for gap, verdict in ((far, "holds"), (lab.Number(0.1, -0.2, 0.4, 3), "depends"), (lab.Number(-0.2, -0.3, -0.1, 3), "refuted")):
        out.numbers |= {"shared_levels_minus_grid": gap, "shared_levels_minus_grid_over_windows": gap, "bits_shared_levels_together": far}
        chapter.judge_training(out)
        assert out.claims["G4"]["verdict"] == verdict and out.claims["G4"]["ours"] == gap
    less = lab.Number(-0.1, -0.15, -0.05, 3)
    out.numbers |= {"reread_minus_grid": less, "reread_minus_grid_over_windows": less, "bits_reread_together": far}
    chapter.judge_training(out)
    assert out.claims["G5"]["verdict"] == "holds"
    best, each = "gated_mostly_known_minus_masked_gated_mostly_known", ("gated_mostly_known_minus_gated", "masked_gated_mostly_known_minus_masked_gated")
    bits = ("bits_gated_mostly_known_together", "bits_masked_gated_mostly_known_random", "bits_masked_random", "bits_grid_together")
    for gap, gains, verdicts in ((near, (less, less), ("holds", "holds")), (far, (less, near), ("refuted", "depends")), (less, (far, far), ("holds", "refuted"))):
        out.numbers |= dict.fromkeys(bits, far) | {k + end: x for k, x in ((best, gap), *zip(each, gains, strict=True)) for end in ("", "_over_windows")}
        chapter.judge_training(out)
        assert (out.claims["G8"]["verdict"], out.claims["G9"]["verdict"]) == verdicts and out.claims["G8"]["ours"] == gap


def test_each_change_is_compared_for_both(folder):
    out = chapter.run(**small(folder, entries=["grid", "masked"], variants=["gated", "gated mostly known", "masked gated", "masked gated mostly known"], pages=0, calls=[]))
    n = out.numbers
    for a, b in (("gated_mostly_known", "masked_gated_mostly_known"), ("gated", "masked_gated"), ("masked_gated", "masked"), ("masked_gated_mostly_known", "masked_gated"), ("gated_mostly_known", "gated"), ("gated", "grid")):
        bits = [n[f"bits_{x}_{'random' if 'masked' in x else 'together'}"].value for x in (a, b)]
        assert n[f"{a}_minus_{b}"].value == pytest.approx(bits[0] - bits[1]) and n[f"{a}_minus_{b}_over_windows"].low is not None
    assert {"G1", "G8", "G9"} <= set(out.claims) and n["parameters_gated"].value < 1.01 * n["parameters_grid"].value


def test_the_design_of_vtd_train_is_compared_with_the_standard_along_every_path(folder):
    out = chapter.run(**small(folder, entries=["grid", "default", "masked"], variants=[]))
    n, ways = out.numbers, ("together", "overlapping", "one_by_one", "left_to_right")
    for way in ways: assert n[f"default_{way}_minus_grid"].value == pytest.approx(n[f"bits_default_{way}"].value - n[f"bits_grid_{way}"].value)
    both = chapter.run(**small(folder, entries=["grid", "default", "masked"], variants=["masked gated mostly known"]))  # a variant writes no pages
    assert n.keys() < both.numbers.keys() and not any("known_judge" in k for k in both.numbers)
    assert n["default_minus_masked_judge_2"].value == pytest.approx(n["written_default_together_later_2_1_judge"].value - n["written_masked_spaced_2_1_judge"].value)
    less, more = lab.Number(-0.1, -0.15, -0.05, 2), lab.Number(0.1, 0.05, 0.15, 2)
    for gaps, verdict in (([less] * 4, "holds"), ([more] * 4, "refuted"), ([less, less, less, more], "depends")):
        n |= {f"default_{way}_minus_grid{end}": gap for way, gap in zip(ways, gaps, strict=True) for end in ("", "_over_windows")}
        chapter.judge_training(out)
        assert out.claims["G11"]["verdict"] == verdict and out.claims["G11"]["ours"] == gaps[0]


def test_of_a_text_it_says_what_counting_alone_gives_and_how_far_below_it_grids_end(tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on the mat and the dog sat on the log " * 200)
    out = chapter.run(**small(tmp_path / "runs", text=str(tmp_path / "t.txt"), tokens="char", length=16, variants=[], entries=["grid", "masked"], pages=0, calls=[]))
    n = out.numbers
    assert n["start"].value == pytest.approx(n["counted_5"].value) and n["counted_2"].value > n["counted_4"].value
    assert n["grid_minus_start_over_windows"].value == pytest.approx(n["grid_minus_start"].value, abs=1e-4) and n["grid_minus_start_over_windows"].low is not None
    assert n["grid_minus_start"].value == pytest.approx(n["bits_grid_together"].value - n["start"].value) and out.claims["G3"]["ours"] is n["grid_minus_start"]
    far, near = lab.Number(-0.2, -0.25, -0.15, 2), lab.Number(-0.02, -0.03, -0.01, 2)
    for gap, pages, verdict in ((far, far, "holds"), (near, near, "refuted"), (far, near, "depends")):
        n |= {"grid_minus_start": gap, "grid_minus_start_over_windows": pages}
        chapter.judge_claims(out, {})
        assert out.claims["G3"]["verdict"] == verdict


def test_few_calls_are_compared_with_the_teacher_and_with_masked_diffusion(folder):
    out = chapter.run(**small(folder, entries=["grid", "masked", "distilled", "masked distilled", "longer", "masked longer"], variants=[]))
    n = out.numbers
    for a, b in (("distilled", "masked_spaced"), ("masked_distilled_spaced", "masked_spaced"), ("longer_together_later", "grid_together_later")):
        mine = n[f"written_{a if a != 'distilled' else 'distilled_together_second_order'}_2_1_judge"].value - n[f"written_{b}_2_1_judge"].value
        assert n[f"{a.split('_spaced')[0].split('_together')[0]}_minus_{b.split('_')[0]}_judge_2"].value == pytest.approx(mine)
    assert min(n[f"time_ratio_{name}"].value for name in ("longer", "masked_longer", "distilled")) > 1
    assert n["distilled_minus_masked_longer_judge_2"].value == pytest.approx(n["written_distilled_together_second_order_2_1_judge"].value - n["written_masked_longer_spaced_2_1_judge"].value, abs=1e-6)
    for name, way in (("grid", "later"), ("grid_evenly", "second_order")):
        assert n[f"{name}_minus_masked_judge_2"].value == pytest.approx(n[f"written_grid_together_{way}_2_1_judge"].value - n["written_masked_spaced_2_1_judge"].value)
    assert n["written_grid_together_later_2_1_judge"] != n["written_grid_together_second_order_2_1_judge"]
    good, bad, none = lab.Number(-0.5, -0.6, -0.4, 3), lab.Number(0.5, 0.4, 0.6, 3), lab.Number(0.0, -0.05, 0.05, 3)
    for gap, gain, verdicts in ((good, none, ("holds", "refuted")), (bad, good, ("refuted", "holds")), (none, bad, ("holds", "refuted"))):
        n |= {"distilled_minus_masked_judge_2": gap, "masked_distilled_minus_masked_judge_2": gain, "grid_minus_masked_judge_2": gap}
        chapter.judge_calls(out, [2])
        assert (out.claims["G6"]["verdict"], out.claims["G7"]["verdict"]) == verdicts and out.claims["G10"]["verdict"] == verdicts[0] and out.claims["G10"]["ours"] == gap
    n["distilled_minus_masked_judge_4"] = bad
    n["distilled_minus_masked_judge_2"] = good
    n |= {"masked_distilled_minus_masked_judge_4": none, "distilled_minus_grid_judge_4": none}
    chapter.judge_calls(out, [2, 4])
    assert out.claims["G6"]["verdict"] == "depends"  # good in two calls, not in four
    n |= {f"grid_minus_masked_{what}_{c}": x for c, x in ((2, good), (4, bad)) for what in ("judge", "alike")}
    chapter.judge_calls(out, [2, 4])
    assert out.claims["G10"]["verdict"] == "depends" and "equal entropy" in out.claims["G10"]["claim"] and "\n" not in out.claims["G10"]["cause"]


def test_what_few_calls_cost_is_told_where_it_was_asked(folder):
    n = chapter.run(**small(folder, entries=["grid", "masked"], variants=[], pages=0, calls=[2, 4], in_calls=True)).numbers
    assert n["in_calls_grid_together_4_over"].value == pytest.approx(n["in_calls_grid_together_4"].value - n["bits_grid_together"].value)
    assert n["in_calls_grid_one_by_one_2_minus_masked"].value == pytest.approx(n["in_calls_grid_one_by_one_2"].value - n["in_calls_masked_spaced_2"].value, abs=1e-5)
    for way in ("grid_together", "grid_one_by_one", "masked_spaced", "masked_random"): assert n[f"in_calls_{way}_2"].value > n[f"in_calls_{way}_4"].value
    assert n["in_calls_masked_spaced_2"].value < n["in_calls_masked_random_2"].value  # neighbours know of one another
    assert not any(k.startswith("in_calls") for k in chapter.run(**small(folder)).numbers)


def test_pages_are_compared_at_equal_variety():
    """On the line through the other's temperatures: (9, 2.0) and (8, 1.5), so 1.75 at 8.5."""
    def page(triples, judge): return {"trigram_entropy": triples, "judge": judge}
    mine, theirs = {"written": {"a/4/1": page(8.5, 1.7)}}, {"written": {"b/4/1": page(9.0, 2.0), "b/4/0.7": page(8.0, 1.5)}}
    assert chapter.apart(mine, theirs, "a", "b", 4, (1.0, 0.7)) == pytest.approx(-0.05)
    theirs["written"]["b/4/0.7"] = page(9.0, 1.5)
    assert chapter.apart(mine, theirs, "a", "b", 4, (1.0, 0.7)) == pytest.approx(-0.3)


def test_differences_are_paired_by_seed():
    out = chapter.Standing()
    def seen(path, value): return {path: {"value": value, "texts": [value - 1, value + 1]}}
    runs = {"grid": [{"bits": seen("together", 2.0 + seed) | seen("one by one", 1.7 + seed), "parameters": 1} for seed in (0, 5, 9)],
            "masked": [{"bits": seen("random", 1.9 + seed), "parameters": 1} for seed in (0, 5, 9)]}
    chapter.note_bits(out, runs, 12)
    gap = out.numbers["grid_together_minus_masked"]
    pages = out.numbers["grid_together_minus_masked_over_windows"]
    assert gap.value == pytest.approx(0.1) == pages.value and gap.high - gap.low < 1e-9 and pages.high - pages.low < 1e-9
    assert out.numbers["grid_together_minus_one_by_one"].value == pytest.approx(0.3)  # the same weights, another path


@pytest.mark.parametrize("wrong, says", [({"entries": ["masked"]}, "grid must be"), ({"variants": ["whitend"]}, "whitend"), ({"text": "nowhere.txt"}, "no file")])
def test_what_cannot_be_run_is_refused(wrong, says, folder):
    with pytest.raises(ValueError, match=says): chapter.run(**small(folder, **wrong))


@pytest.mark.parametrize("name", VARIANTS)
def test_larger_settings_are_parameters_of_the_chapter(name):
    found = lab.validate("grid-diffusion", lab.variant("grid-diffusion", name))
    assert found["steps"] >= 400 and "grid" in found["entries"]


@pytest.mark.parametrize("wrong, says", [({"seeds": []}, "seeds is empty"), ({"calls": []}, "number of calls"), ({"temperatures": []}, "temperature"), ({"calls": [], "pages": 0, "in_calls": True}, "in_calls: false")])
def test_empty_lists_are_told(wrong, says, folder):
    with pytest.raises(ValueError, match=says): chapter.run(**small(folder, **wrong))
