"""Mode collapse: no code above the ceiling, fractions found by counting, the notes' penalty, effects that add up."""

import ast
import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vtd import lab
from vtd.channels import channel, entropy_bits
from vtd.chapters import mode_collapse as mc
from vtd.codecs import Codec

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "chapters" / "02_mode_collapse.ipynb"


def random_prior(vocab_size, seed):
    p = torch.rand(vocab_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3 + 1e-3
    return p / p.sum()


def test_no_random_code_is_above_the_ceiling():
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        V, grids = 2 + seed % 9, 2 + seed % 13
        prior = random_prior(V, seed)
        spread = (torch.randn(V, grids, generator=generator, dtype=torch.float64) * (1 + seed % 7)).softmax(1)
        joint = prior[:, None] * spread
        bits = float(entropy_bits(prior) + entropy_bits(joint.sum(0)) - entropy_bits(joint.flatten()))
        assert float(joint.amax(0).sum()) <= mc.ceiling_at(bits, prior) + 1e-5


def test_the_ceiling_is_reached_by_a_code():
    prior = random_prior(7, 3)
    for level in (0.02, 0.05, 0.1):
        likely = prior > level
        k, P = int(likely.sum()), float(prior[likely].sum())
        B = P / level - k + 1  # one token stands out B times above the level
        words = likely.nonzero()[:, 0]
        belief = torch.where(likely, level, prior)[None].repeat(k, 1)
        belief[torch.arange(k), words] = level * B
        weight = (prior[words] / level - 1) / (B - 1)
        assert torch.allclose(weight @ belief, prior) and torch.allclose(belief.sum(1), torch.ones(k).double())
        bits = float(entropy_bits(prior) - weight @ entropy_bits(belief))
        assert math.isclose(level * B, mc.ceiling_at(bits, prior), abs_tol=1e-5)
        assert math.isclose(mc.least_bits(level * B, prior), bits, abs_tol=1e-4)


def test_the_ceiling_begins_at_the_commonest_token_and_ends_with_all_bits():
    for vocab_size in (2, 5, 192):
        prior = mc.prior_with(0.6 if vocab_size == 2 else 0.3, vocab_size)
        bits, best = mc.accuracy_ceiling(prior)
        assert math.isclose(bits[0], 0, abs_tol=1e-9) and math.isclose(best[0], prior.max(), abs_tol=1e-9)
        assert math.isclose(bits[-1], entropy_bits(prior), abs_tol=1e-9) and math.isclose(best[-1], 1, abs_tol=1e-9)
        assert (bits.diff() >= -1e-12).all() and (best.diff() >= -1e-12).all()


def test_a_prior_has_the_share_that_was_asked_for():
    for share in (1 / 192, 0.0455, 0.5, 0.99):
        prior = mc.prior_with(share, 192)
        assert math.isclose(prior[0], share, rel_tol=1e-6) and math.isclose(prior.sum(), 1)
    with pytest.raises(ValueError, match="has a share from 0.1 to below 1, got 0.05"):
        mc.prior_with(0.05, 10)


def test_fractions_are_all_that_round_to_the_percentage():
    assert mc.fractions("4.55") == [(1, 22), (2, 44)] and mc.fractions("11.36") == [(5, 44)]
    assert (3, 13) in mc.fractions("23.08") and mc.common_size(["4.55", "11.36"]) == [44]
    for percent in ("0.00", "33.33", "52.8", "100"):
        found = mc.fractions(percent, 40)
        assert found and all(abs(100 * k / n - float(percent)) <= 0.5001 * 10.0 ** -len(percent.partition(".")[2]) for k, n in found)
    assert mc.fractions("49.44", 60) == []  # needs a larger denominator


def test_the_penalty_is_the_notes():
    grids = torch.rand(6, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    constant = torch.zeros(5).log_softmax(0).repeat(6, 1)
    kl, penalty = mc.sensitivity(lambda x: constant, grids)
    assert float(kl) == 0 and math.isclose(float(penalty), 0.1, abs_tol=1e-7)
    codec = Codec(6, "2x2x3", decoder="linear", standardise=False, seed=1)
    with torch.no_grad():
        kl, penalty = mc.sensitivity(lambda x: (30 * codec.decode(x)).log_softmax(-1), grids, torch.Generator().manual_seed(0), noise=1.0)
    assert float(kl) > 0.1 and float(penalty) == 0  # a reader that reacts pays nothing


def test_a_penalised_codec_pays_twice_the_penalty_on_top():
    plain, paid = Codec(8, "2x2x3", seed=2, standardise=False), mc.SensitiveCodec(8, "2x2x3", seed=2, standardise=False)
    ids = torch.arange(8)
    _, penalty = mc.sensitivity(plain.decode, plain.encode(ids), torch.Generator().manual_seed(5))
    both, alone, extra = (x.item() for x in (paid.loss(ids, torch.Generator().manual_seed(5)), plain.loss(ids), penalty))
    assert math.isclose(both, alone + 2 * extra, rel_tol=1e-5) and extra > 0


def test_sharper_logits_tell_more_and_none_tell_nothing():
    bits = [channel(mc.sharpen(Codec(24, "3x3x3", encoder="categorical", seed=0), scale), n=1500).bits for scale in (0.0, 1.0, 30.0)]
    assert abs(bits[0].value) < 1e-6 and bits[0].high < bits[1].low < bits[1].high < bits[2].low <= math.log2(24) + 1e-6


def test_effects_of_an_additive_table_come_back_exactly():
    table = {(o, s, x): [0.1 + 0.4 * (o == "adamw") + 0.2 * s + 0.1 * (x > 1) + 0.01 * seed for seed in range(3)]
             for o in ("sgd", "adamw") for s in (False, True) for x in (1.0, 10.0)}
    for factor, expected in enumerate((0.4, 0.2, 0.1)):
        found = mc.effect(table, factor)
        assert math.isclose(found.value, expected, abs_tol=1e-12) and found.high - found.low < 1e-9


def test_a_run_above_its_bound_is_found():
    prior = mc.prior_with(0.0455, 192)
    honest = {"bits": 0.06, "bits_high": 0.07, "bayes": 0.05, "bayes_high": 0.052, "accuracy": 0.048, "right": 98, "n": 2048}
    counted = mc.above_bound([honest, {**honest, "accuracy": 0.2, "right": 410}], prior)
    assert counted["runs_above_bound"].value == 1 == counted["runs_above_ceiling"].value
    assert mc.above_bound([honest, honest], prior)["runs_above_bound"].value == 0


def test_near_is_a_verdict_of_three_kinds():
    assert mc.near(lab.Number(0.05, 0.04, 0.06, 9), 0.045, 0.02) == "holds"
    assert mc.near(lab.Number(0.05, 0.01, 0.09, 9), 0.045, 0.02) == "depends"
    assert mc.near(lab.Number(0.5, 0.4, 0.6, 9), 0.045, 0.02) == "refuted"


def test_held_out_lines_are_apart_and_their_words_known():
    V, learn, held = mc.split_lines(3)
    assert set(torch.cat([learn, held]).tolist()) == set(range(V)) and 0 < len(held) < len(learn)
    again = mc.split_lines(3)
    assert again[0] == V and torch.equal(again[1], learn) and not torch.equal(mc.split_lines(4)[1], learn)


def test_the_run_takes_what_the_parameters_cell_says():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    declared = {line.target.id: ast.literal_eval(line.value) for line in ast.parse(source).body}
    assert declared == {k: p.default for k, p in inspect.signature(mc.run).parameters.items()}


def test_trained_readers_repeat_themselves():
    how = {"vocab_size": 24, "shape": "3x3x3", "prior": mc.prior_with(0.2, 24), "seeds": [0, 1], "steps": 4, "batch": 16, "samples": 64}
    recipes = {"drawn": mc.Recipe(encoder="categorical"), "penalised": mc.Recipe(penalty=True)}
    assert mc.read_runs(recipes, **how) == mc.read_runs(recipes, **how)


def test_a_small_run_is_whole(monkeypatch):
    monkeypatch.setattr(mc, "KINDS", ["undertrained"])
    small = {"vocab_size": 24, "share": 0.2, "shape": "3x3x3", "scales": [1.0, 30.0], "decoders": ["linear", "extreme"], "joint": ["linear"], "extreme_steps": 2, "factor_tokens": 7, "seeds": [0, 1], "steps": 3, "reader_steps": 3,
             "batch": 16, "samples": 64, "starts": 2, "vocabularies": [5, 24], "sgd_rates": [0.01], "adam_rates": [0.003], "battery": 1}
    one = mc.run(**small)
    assert all(np.isfinite(v.value) for v in one.numbers.values())
    mine = {key for key, row in lab.CLAIMS.items() if row.chapter == "mode-collapse"}
    assert set(one.claims) == mine and all(c["ours"] in one.numbers for c in one.claims.values())
    json.dumps(one.extra)


def test_the_notes_first_losses_need_a_whole_decoder():
    whole = [mc.start_of(51, "5x5x3", seed)[0] for seed in range(6)]
    mild = [mc.start_of(51, "5x5x3", seed, ["experts", "spatial"])[0] for seed in range(6)]
    assert np.mean(whole) > 1.2 * math.log(51) > np.mean(mild)


@pytest.mark.parametrize(("wrong", "says"), [({"scales": [3.0]}, "scales hold 1"), ({"decoders": ["extreme"]}, "beside the extreme"),
                                             ({"seeds": [4]}, "2 seeds or more"), ({"share": 0.001}, "has a share from")])
def test_wrong_parameters_are_refused_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as refused:
        mc.run(**wrong)
    assert "\n" not in str(refused.value)
