"""The chapter on continuous patterns: what its measures must be, and that its verdicts follow from its numbers."""
import ast
import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vtd import lab
from vtd.chapters import continuous_patterns as chapter
from vtd.codecs import Codec
from vtd.codes import Codebook, nearest_codeword
from vtd.grids import GridShape

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "chapters" / "03_continuous_patterns.ipynb"
TINY = {"vocabularies": [5, 20], "shapes": ["5x5x3", "3x3x1"], "grids": ["3x3x1"], "untrained": [20], "seeds": [0, 1], "budget": 60,
        "gate_seeds": 2, "gate_budget": 20, "costed": [20], "repeats": 2}


@pytest.fixture(scope="module")
def tiny():
    return chapter.run(**TINY)


@pytest.mark.parametrize("cells", [3, 9, 75])
def test_no_noise_no_error_and_equal_lengths_need_no_bias(cells):
    points = torch.randn(700, cells, generator=torch.Generator().manual_seed(cells)).double()
    ids = torch.arange(700)
    assert torch.equal(nearest_codeword(points, points), ids)
    assert torch.equal(chapter.dot_reading(F.normalize(points), F.normalize(points)), ids)


def test_decibels_of_a_known_ripple():
    ripple = torch.randn(5000, 10, generator=torch.Generator().manual_seed(0)) * 0.1
    assert chapter.decibels(ripple + 1) == pytest.approx(10 * math.log10(0.01 / 1.01), abs=0.1)
    assert chapter.decibels(ripple - ripple.mean(0)) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("sd", [0.005, 0.08, 0.3])
def test_the_ripple_is_scaled_and_nothing_else(sd):
    before, codec = Codec(60, "4x4x3", seed=1), Codec(60, "4x4x3", seed=1)
    chapter.scale_ripple(codec, sd)
    old, new = (c.logits(torch.arange(60)).detach().flatten(1) for c in (before, codec))
    assert codec.metrics()["pattern_sd"] == pytest.approx(sd, rel=1e-3)
    assert torch.allclose(old.mean(0), new.mean(0), atol=1e-4)
    ratio = (new - new.mean(0)).norm() / (old - old.mean(0)).norm()
    assert torch.allclose(new - new.mean(0), ratio * (old - old.mean(0)), atol=1e-3 * float(new.abs().max()))
    assert not any(p.requires_grad for p in codec.encoder.parameters()) and all(p.requires_grad for p in codec.decoder.parameters())


@pytest.mark.parametrize("sd", [0.0, 0.5, -1.0, math.nan])
def test_an_impossible_ripple_is_told(sd):
    with pytest.raises(ValueError, match="between 0 and 0.5"): chapter.scale_ripple(Codec(5, "3x3x1"), sd)


def test_standardised_reading_does_not_see_the_size_of_a_ripple():
    small, large = (chapter.learn_to_read(sd, "AdamW, standardised", 0, 30, vocab_size=60) for sd in (0.005, 0.04))
    assert small == pytest.approx(large, abs=2 / 60) and small > 0.9
    assert chapter.learn_to_read(0.005, "AdamW, raw", 0, 30, vocab_size=60) < 0.2


def test_noise_leaves_more_of_a_larger_ripple():
    small, large = (chapter.noise_leaves(sd, 0, vocab_size=60) for sd in (0.02, 0.08))
    assert small["read"] < large["read"] and small["bits"] < large["bits"] <= math.log2(60) + 1e-6


def test_seventy_five_is_the_limit_of_one_code_only():
    n = chapter.count_grids("5x5x3")
    assert n["one_cell_lit"] == 75 and n["one_colour_a_place"] == pytest.approx(25 * math.log10(3)) and n["on_or_off"] == pytest.approx(75 * math.log10(2))
    assert Codebook.one_hot(75, "5x5x3").vocab_size == 75
    with pytest.raises(ValueError): Codebook.one_hot(76, "5x5x3")


def test_a_course_remembers_when():
    course = chapter.Course((10, 20, 25), (0.1, 0.6, 1.0), (0.1, 0.2), 1.0)
    assert course.reached == 25 and course.after(20) == 0.6 and course.after(25) == course.after(90) == 1.0
    assert chapter.Course((10,), (0.9,), (0.1, 0.2), 1.0).reached is None


def test_memory_is_what_a_step_holds():
    ids = torch.arange(40)
    for tied in (True, False):
        table = chapter.Table(50, width=8, tied=tied)
        weights = sum(p.numel() for p in table.parameters())
        assert weights == (50 * 8 + 50 if tied else 2 * 50 * 8 + 50)
        held = chapter.memory(table, ids) - 4 * 4 * weights
        # the embedded tokens, the log-probabilities, one number for the weights of the mean, and at most two copies of the ids
        assert 4 * (40 * 8 + 40 * 50) <= held <= 4 * (40 * 8 + 40 * 50) + 4 + 2 * 8 * 40


def test_a_transformer_takes_either_kind_of_token():
    ids = torch.randint(30, (64,), generator=torch.Generator().manual_seed(0))
    for tokens in (chapter.Table(30), Codec(30, "8x8x3")):
        loss = chapter.Transformer(tokens).loss(ids)
        loss.backward()
        assert torch.isfinite(loss) and all(p.grad is not None for p in tokens.parameters())


def test_only_categorical_sampling_keeps_its_encoder():
    moved = {name: chapter.gate(name, 3, 20)["moved"] for name in (*chapter.RELAXATIONS, "categorical")}
    assert {name for name, m in moved.items() if m == 0} == {"categorical"}


def test_the_numbers_carry_the_verdicts(tiny):
    assert set(tiny.claims) == {"C7", "C8", "C9", "C16", "C17"}
    n = tiny.numbers
    assert n["untrained_20_5x5x3"].value == 1 and n["reached_20_5x5x3_adamw_standardised"].value == 1
    failed = [n[f"gate_failures_{chapter.key(r)}"].value for r in chapter.RELAXATIONS]
    assert tiny.claims["C17"]["verdict"] == ("holds" if not any(failed) else "refuted" if all(failed) else "depends")
    bars = {k: {"time": 10, "memory": 5}[k.split("_")[0]] for k in n if k.startswith(("time_ratio", "memory_ratio"))}
    assert tiny.claims["C16"]["verdict"] == lab.combine(*(lab.verdict(n[k], above=bar) for k, bar in bars.items()))
    assert all(claim["ours"] in n for claim in tiny.claims.values())


def test_what_is_no_time_is_the_same_twice(tiny):
    again = chapter.run(**TINY)
    assert {k: v for k, v in again.numbers.items() if not k.startswith("time_")} == {k: v for k, v in tiny.numbers.items() if not k.startswith("time_")}
    assert again.extra == tiny.extra


@pytest.mark.parametrize("wrong, says", [({"recipes": ["Adagrad"]}, "no recipe 'Adagrad'"), ({"seeds": [1]}, "two seeds"), ({"early": 500}, "steps; got 500")])
def test_bad_settings_are_told_before_anything_runs(wrong, says):
    with pytest.raises(ValueError, match=says): chapter.run(**wrong)


def test_what_is_trained():
    some = chapter.settings([5, 192, 1000], [5000], "5x5x3", ["8x8x5"], ["a", "b"])
    assert (192, "8x8x5", "b") in some and (1000, "5x5x3", "a") in some and (5000, "5x5x3", "a") in some
    assert (5000, "5x5x3", "b") not in some and (1000, "8x8x5", "a") not in some and len(some) == len(set(some)) == 9
    assert max(some, key=lambda s: GridShape.parse(s[1]).cells)[0] == 192


def test_parameters_are_those_of_run_and_nothing_overwrites_them():
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    (tagged,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    given = {line.target.id: ast.literal_eval(line.value) for line in ast.parse(tagged).body}
    assert given == {k: p.default for k, p in inspect.signature(chapter.run).parameters.items()}
    for cell in cells:
        source = "".join(cell["source"])
        if source == tagged or source.startswith("#| export"): continue
        names = {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        assert not names & set(given), f"a cell overwrites {names & set(given)}"
