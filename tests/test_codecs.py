"""Laws of the learnt codes: shapes, seeds, and the difference that standardising makes."""
import math

import pytest
import torch
from torch.nn import functional as F

from vtd.codecs import Codec
from vtd.decoders import DECODERS, PATHWAYS
from vtd.relaxations import RELAXATIONS, leave_one_out, log_probability
from vtd.training import fit


def train(codec, make, steps=60):
    optimiser, ids = make(codec.parameters()), torch.arange(codec.vocab_size)
    for _ in range(steps):
        optimiser.zero_grad()
        codec.loss(ids, torch.Generator().manual_seed(0)).backward()
        optimiser.step()
    return codec.metrics()["accuracy"]


@pytest.mark.parametrize("standardise", [True, False])
def test_signatures(standardise):
    codec = Codec(19, "3x4x2", standardise=standardise)
    ids = torch.randint(19, (2, 5))
    patterns = codec.encode(ids)
    assert patterns.shape == (2, 5, 3, 4, 2) and 0 <= patterns.min() and patterns.max() <= 1
    log_probabilities = codec.decode(patterns)
    assert log_probabilities.shape == (2, 5, 19)
    assert torch.allclose(log_probabilities.exp().sum(-1), torch.ones(2, 5), atol=1e-5)
    assert codec.loss(ids.flatten()).shape == ()


def test_the_same_seed_is_the_same_codec_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = Codec(9, seed=1), Codec(9, seed=1), Codec(9, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.patterns(), other.patterns())


def test_192_tokens_on_5x5x3_are_learnt():
    assert train(Codec(192, "5x5x3"), lambda p: torch.optim.Adam(p, 3e-3)) == 1.0


def test_plain_descent_needs_standardising():
    """The collapse of the notes, and what lifts it: same seed, same optimiser, same steps."""
    def make(parameters): return torch.optim.SGD(parameters, 0.1)
    assert train(Codec(192, "5x5x3", standardise=False), make) < 0.05
    assert train(Codec(192, "5x5x3"), make) > 0.9


def test_the_decoder_is_given_unit_variance_however_small_the_ripple():
    codec = Codec(64)
    x = codec.standardise(codec.patterns().flatten(1))
    assert codec.metrics()["pattern_sd"] < 0.05
    assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 0.05


def test_reading_never_changes_the_codec():
    codec = Codec(9)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    codec.decode(torch.rand(1, 5, 5, 3))
    codec.metrics()
    assert all(torch.equal(before[name], value) for name, value in codec.state_dict().items())


def test_one_token_at_a_time_can_be_trained():
    codec = Codec(9)
    loss = codec.loss(torch.tensor([3]))
    loss.backward()
    assert loss.isfinite() and codec.encoder.fc3.weight.grad.abs().sum() > 0


def test_a_trained_codec_travels_by_its_weights():
    codec = Codec(20, "3x3x3", seed=3)
    assert train(codec, lambda p: torch.optim.Adam(p, 3e-3)) == 1.0
    again = Codec(**codec.config)
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.patterns(), codec.patterns()) and again.metrics() == codec.metrics()


@pytest.mark.parametrize("call, says", [
    (lambda: Codec(9, encoder="vq"), "known: categorical, continuous"),
    (lambda: Codec(9, decoder="rnn"), "known: cnn"),
    (lambda: Codec(1), "2 tokens"),
    (lambda: Codec(9, "5x5"), "8x8x3"),
    (lambda: Codec(9).encode(torch.tensor([9])), "0..8"),
    (lambda: Codec(9).encode(torch.tensor([-1])), "0..8"),
    (lambda: Codec(9).decode(torch.rand(5, 5, 1)), "5x5x3")])
def test_bad_input_is_one_line(call, says):
    with pytest.raises(ValueError, match=says) as error: call()
    assert "\n" not in str(error.value)


ONE_HOT = [name for name in RELAXATIONS if name != "continuous"]


def test_a_categorical_choice_gives_the_encoder_no_gradient_at_all():
    codec = Codec(30, "4x4x3", encoder="categorical")
    codec.loss(torch.arange(30), torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is None or not p.grad.any() for p in codec.encoder.parameters())
    assert codec.decoder.scores.weight.grad.any()


@pytest.mark.parametrize("encoder", ONE_HOT)
def test_one_hot_grids_are_exact_and_the_same_for_the_same_generator(encoder):
    codec, ids = Codec(30, "4x4x3", encoder=encoder), torch.arange(30)
    grids = codec.encode(ids, torch.Generator().manual_seed(1))
    assert grids.unique().tolist() == [0, 1] and (grids.sum(-1) == 1).all()
    assert torch.equal(grids, Codec(30, "4x4x3", encoder="categorical").encode(ids, torch.Generator().manual_seed(1)))
    assert torch.equal(codec.encode(ids), codec.encode(ids))


def test_the_score_function_is_unbiased_and_its_error_falls_as_one_over_root_n():
    def cost(grids): return (grids.flatten(-3) @ torch.linspace(-1, 2, 12, dtype=torch.float64)).square()
    start = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    every = F.one_hot(torch.cartesian_prod(*[torch.arange(3)] * 4), 3).double().view(81, 2, 2, 3)
    whole = start.clone().requires_grad_()
    (log_probability(every, whole).exp() * cost(every)).sum().backward()

    def error(n, seed):
        said = start.expand(n, 2, 2, 3).clone().requires_grad_()
        g = torch.Generator().manual_seed(seed)
        draws = torch.stack([RELAXATIONS["score-function"](said, 1.0, g) for _ in range(4)])
        leave_one_out(cost(draws), log_probability(draws, said)).backward()
        return float((said.grad.sum(0) - whole.grad).norm() / whole.grad.norm())
    few, many = (sum(error(n, s) for s in range(10)) / 10 for n in (300, 30_000))
    assert many < 0.02 and 5 < few / many < 20  # a hundred times the samples: ten times closer


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ["straight-through", "gumbel", "continuous"])
def test_every_decoder_learns_every_code(encoder, decoder):
    codec = Codec(40, "5x5x3", encoder=encoder, decoder=decoder)
    fit(codec, torch.arange(40), steps=150, lr=0.01, batch=80, progress=False)
    assert codec.metrics()["accuracy"] == 1.0


def test_the_extreme_decoder_begins_far_above_a_uniform_guess():
    losses = [Codec(192, "8x8x5", decoder="extreme", standardise=False, seed=s).loss(torch.arange(192)).item() for s in range(5)]
    assert min(losses) > 1.5 * math.log(192)


def test_a_pathway_can_be_left_out_and_the_others_stay_as_they_were():
    whole = Codec(20, decoder="extreme")
    for name in PATHWAYS:
        part = Codec(20, decoder="extreme", pathways=[p for p in PATHWAYS if p != name])
        assert set(part.decoder.paths) == set(PATHWAYS) - {name} and not part.decoder.noisy
        other = next(iter(part.decoder.paths))
        assert all(torch.equal(a, b) for a, b in zip(part.decoder.paths[other].parameters(), whole.decoder.paths[other].parameters(), strict=True))


def test_sampled_softmax_over_all_tokens_is_the_softmax():
    ids, full, part = torch.arange(60), Codec(60), Codec(60, negatives=5)
    part.load_state_dict(full.state_dict())
    losses = [codec.loss(ids, torch.Generator().manual_seed(0)) for codec in (full, part)]
    assert torch.allclose(*losses)
    grads = [torch.autograd.grad(loss, codec.decoder.scores.weight)[0] for loss, codec in zip(losses, (full, part), strict=True)]
    assert torch.allclose(*grads, atol=1e-7)


def test_a_large_vocabulary_is_learnt_with_negatives():
    codec = Codec(3000, "8x8x3", negatives=500)
    fit(codec, torch.arange(3000), steps=150, lr=0.01, batch=500, progress=False)
    assert codec.metrics()["accuracy"] == 1.0


def test_a_likelihood_is_a_distribution():
    codec, every = Codec(3, "1x2x3", encoder="gumbel"), F.one_hot(torch.cartesian_prod(torch.arange(3), torch.arange(3)), 3).float()
    assert torch.allclose(codec.log_likelihood(every[:, None]).exp().sum(0), torch.ones(3))
    cells = torch.linspace(-3, 4, 2001)[:, None, None, None]
    smooth = Codec(3, "1x1x1").log_likelihood(cells, noise=0.2).exp().sum(0) * 7 / 2000
    assert torch.allclose(smooth, torch.ones(3), atol=1e-3)


def test_pairs_say_what_should_be_read():
    codec, turn = Codec(20, "5x5x3"), torch.arange(20).roll(1)
    fit(codec, torch.stack([torch.arange(20), turn], 1), steps=150, lr=0.01, progress=False)
    assert torch.equal(codec.read(codec.patterns()), turn)


def test_the_temperature_anneals_with_the_run():
    codec = Codec(20, "5x5x3", encoder="gumbel", temperature=(1.0, 0.25))
    assert codec.heat == 1.0
    codec.set_progress(0.5)
    assert abs(codec.heat - 0.5) < 1e-9
    fit(codec, torch.arange(20), steps=10, progress=False)
    assert abs(codec.heat - 0.25 ** 0.9) < 1e-9


def test_after_training_the_averages_belong_to_the_weights():
    codec = Codec(20, "5x5x3")
    fit(codec, torch.arange(20), steps=60, lr=0.01, progress=False)
    x = codec.standardise(codec.patterns().flatten(1))
    assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 1e-2


@pytest.mark.parametrize("call, says", [
    (lambda: Codec(192, "2x2x3", encoder="gumbel"), "has 81 different grids"), (lambda: Codec(300, "1x1x1"), "256 different"),
    (lambda: Codec(9, temperature=0.0), "above 0"), (lambda: Codec(9, temperature=(1.0, -1.0)), "above 0"), (lambda: Codec(9, samples=1), "2 or more"),
    (lambda: Codec(9, "0x5x3"), "at least 1"), (lambda: Codec(9, decoder="extreme", pathways=["magic"]), "known: gaussian"),
    (lambda: Codec(9, pathways=["hash"]), "only the extreme"), (lambda: Codec(9, decoder="cnn", negatives=3), "linear decoder only"),
    (lambda: Codec(9, decoder="extreme", pathways=["noise"]), "scores tokens"), (lambda: Codec(9).log_likelihood(torch.rand(2, 5, 5, 3)), "above 0"),
    (lambda: Codec(9).decode(torch.full((5, 5, 3), math.nan)), "NaN"), (lambda: Codec(9).loss(torch.tensor([[1, 9]])), "0..8"),
    (lambda: fit(Codec(9), torch.arange(9), steps=1, optimiser="lion", progress=False), "adamw or sgd")])
def test_more_bad_input_is_one_line(call, says):
    with pytest.raises(ValueError, match=says) as error: call()
    assert "\n" not in str(error.value)
