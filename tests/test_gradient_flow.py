"""Gradients through a grid: counted exactly, estimators against the count, codecs that arrive, verdicts that are computed."""

import ast
import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vtd import lab
from vtd.chapters import gradient_flow as gf
from vtd.codecs import Codec
from vtd.relaxations import RELAXATIONS, log_probability, one_hot

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "chapters" / "01_gradient_flow.ipynb"
QUICK = {"vocabulary": 24, "steps": 160, "lr": 0.01, "batch": 48}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 2, 2), (1, 3, 4)])
def test_all_grids_are_there_once_and_their_probabilities_sum_to_one(shape):
    grids = gf.all_grids(*shape)
    assert len(grids) == len(grids.unique(dim=0)) == shape[2] ** (shape[0] * shape[1])
    assert ((grids == 0) | (grids == 1)).all() and (grids.sum(-1) == 1).all()
    logits = torch.randn(*shape, generator=generator(), dtype=torch.float64)
    assert math.isclose(float(log_probability(grids, logits.expand_as(grids)).exp().sum()), 1, abs_tol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_gradient_is_that_of_finite_differences(seed):
    logits, loss = gf.random_problem(seed)
    grids, exact = gf.all_grids(), gf.exact_gradient(logits, loss)

    def expected(at):
        return float((log_probability(grids, at.expand_as(grids)).exp() * loss(grids)).sum())

    for i in range(12):
        bump = torch.zeros(12, dtype=torch.float64)
        bump[i] = 1e-5
        slope = (expected(logits + bump.view_as(logits)) - expected(logits - bump.view_as(logits))) / 2e-5
        assert math.isclose(slope, float(exact.flatten()[i]), abs_tol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_score_function_is_unbiased_over_all_pairs_and_straight_through_is_not(seed):
    logits, loss = gf.random_problem(seed)
    exact = gf.exact_gradient(logits, loss)
    assert (gf.mean_over_all_pairs(logits, loss) - exact).abs().max() < 1e-10
    assert (gf.straight_through_mean(logits, loss) - exact).norm() > 0.02 * exact.norm()


def test_straight_through_is_unbiased_where_the_loss_is_linear():
    weights = torch.randn(2, 2, 3, generator=generator(1), dtype=torch.float64)
    logits = gf.random_problem(0)[0]
    linear = lambda grids: (grids * weights).sum((-1, -2, -3))  # noqa: E731
    assert torch.allclose(gf.straight_through_mean(logits, linear), gf.exact_gradient(logits, linear), atol=1e-12)


def test_drawn_estimates_have_the_enumerated_means():
    logits, loss = gf.random_problem(0)
    for name, mean in (("straight-through", gf.straight_through_mean), ("score-function", gf.exact_gradient)):
        found = gf.estimates(name, logits, loss, 20_000, generator(2))
        z = (found.mean(0) - mean(logits, loss)) / (found.std(0) / len(found) ** 0.5)
        assert z.abs().max() < 4.5, name


def test_categorical_is_silent_and_hard_gumbel_exactly_one_hot():
    logits, loss = gf.random_problem(0)
    assert not gf.estimates("categorical", logits, loss, 50, generator()).any()
    leaf = logits.expand(500, 2, 2, 3).clone().requires_grad_()
    for temperature in (0.05, 1.0, 20.0):
        grids = RELAXATIONS["gumbel"](leaf, temperature, generator(3))
        assert grids.requires_grad and torch.equal(grids, one_hot(grids.detach()))


def test_an_unbiased_error_falls_as_one_over_the_root():
    logits, loss = gf.random_problem(0)
    exact = gf.exact_gradient(logits, loss)
    slopes = []
    for seed in range(5):
        found = gf.estimates("score-function", logits, loss, 4096, generator(seed), samples=4)
        slopes.append(gf.slope([4, 16, 64, 256], gf.error_by_count(found, exact, 4, [4, 16, 64, 256])))
    assert abs(np.mean(slopes) + 0.5) < 0.03
    biased = gf.estimates("straight-through", logits, loss, 8192, generator(9))
    errors = gf.error_by_count(biased, exact, 1, [4, 1024])
    assert errors[1] > 0.9 * float((gf.straight_through_mean(logits, loss) - exact).norm() / exact.norm())


def test_bias_and_variance_of_known_estimates():
    exact = torch.ones(3, dtype=torch.float64)
    noise = torch.randn(200_000, 3, generator=generator(4), dtype=torch.float64)
    square, variance = gf.bias_variance(1.5 * exact + 2 * noise, exact)
    assert math.isclose(square, 0.25, abs_tol=0.02) and math.isclose(variance, 4, rel_tol=0.02)


@pytest.mark.parametrize("relaxation", ["gumbel", "straight-through", "continuous"])
def test_a_codec_arrives_and_the_run_it_is_judged_by_is_the_codec(relaxation):
    found = gf.reach(relaxation, "linear", "3x3x3", 0, **QUICK)
    assert found["steps"] and found["steps"] < QUICK["steps"] and found["accuracy"] == 1 and found["fresh"] > 0.95
    again = gf.reach(relaxation, "linear", "3x3x3", 0, **QUICK)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_a_codec_that_gets_no_gradient_does_not_arrive():
    found = gf.reach("categorical", "linear", "3x3x3", 0, **QUICK)
    assert found["steps"] is None and found["fresh"] < 0.5


@pytest.mark.parametrize("decoder", ["linear", "dense", "cnn", "extreme"])
def test_only_categorical_cuts_the_encoder_off(decoder):
    assert gf.encoder_gradients("categorical", decoder, 0, 20, "5x5x3") == [0.0] * 4
    for relaxation in ("gumbel", "straight-through", "score-function", "continuous"):
        assert min(gf.encoder_gradients(relaxation, decoder, 0, 20, "5x5x3")) > 0


def test_watching_shows_the_same_layers_at_every_step():
    flows = gf.watch("gumbel", vocabulary=20, grid="3x3x3", seed=0, steps=6, lr=0.01, batch=16, frames=3)
    assert list(flows) == [0, 2, 4, 6] and len({tuple(row["layer"] for row in rows) for rows in flows.values()}) == 1


def test_sharper_logits_put_more_bits_into_the_same_encoders_grids():
    codec = gf.sharpened(Codec(20, "5x5x3", "categorical", "linear", False, 0), 30.0)
    plain = Codec(20, "5x5x3", "categorical", "linear", False, 0)
    assert torch.allclose(codec.logits(torch.arange(20)), 30 * plain.logits(torch.arange(20)), atol=1e-4)
    assert gf.channel(codec, n=500).bits.value > 10 * gf.channel(plain, n=500).bits.value


def test_constancy_counts():
    found = gf.constancy(torch.tensor([3] * 19 + [1]), torch.tensor([3] * 10 + [0] * 9 + [1]))
    assert found == {"dominant": 0.95, "collapsed": 1.0, "right": 0.55}


def planted(**numbers):
    out = gf.Measured()
    out.numbers = {name: lab.Number(*v) if isinstance(v, tuple) else lab.Number(v) for name, v in numbers.items()}
    return out


def test_verdicts_follow_the_numbers():
    for cut, least, verdict in ((0.0, 1e-6, "holds"), (0.1, 1e-6, "depends"), (0.1, 0.0, "refuted")):
        out = planted(cut_gradient=cut, least_gradient_gumbel=least)
        gf.judge_flow(out)
        assert out.claims["C2"]["verdict"] == verdict
    for sgd, adam, verdict in ((1.0, 0.99, "holds"), (1.0, 0.4, "depends")):
        shares = {f"dominant_{way}": adam if way.startswith("adam") else sgd for way in gf.WAYS}
        out = planted(commonest_word=0.2, **shares, **{f"gradient_{way}": 1e-3 for way in gf.WAYS})
        gf.judge_phase_one(out)
        assert out.claims["C3"]["verdict"] == verdict
    for init, sharp, verdict in ((1.0, 0.95, "holds"), (1.0, 0.3, "depends"), (0.3, 0.3, "refuted")):
        numbers = {f"{what}_{who}_{source}": 0.5 for what in ("dominant", "right", "bits") for who in ("cnn", "dense", "ideal")
                   for source in ("init", "sharp")}
        out = planted(**numbers | {"dominant_cnn_init": init, "dominant_cnn_sharp": sharp})
        gf.judge_phase_two(out)
        assert out.claims["C4"]["verdict"] == verdict


def test_run_has_the_parameters_of_the_notebook():
    cells = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if "parameters" in c["metadata"].get("tags", [])]
    body = ast.parse("".join(cells[0]["source"])).body
    assert {node.target.id: ast.literal_eval(node.value) for node in body} == {
        name: p.default for name, p in inspect.signature(gf.run).parameters.items()}
    assert len(cells) == 1
