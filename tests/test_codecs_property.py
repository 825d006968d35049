"""Codecs as laws over many of them: whatever can be made trains and reads, and what cannot says why in one line."""
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vtd.codecs import Codec
from vtd.decoders import DECODERS, PATHWAYS
from vtd.grids import GridShape
from vtd.relaxations import RELAXATIONS, gumbel, perturb, straight_through
from vtd.training import fit

PAIRS = sorted(itertools.product(RELAXATIONS, DECODERS))
SOFT = ["continuous", "gumbel", "score-function", "straight-through"]  # those that pass the encoder a gradient


def room(encoder, shape):
    """Grids there are: 256 levels a cell, or one colour a place."""
    return 256 ** shape.cells if encoder == "continuous" else shape.colours ** (shape.height * shape.width)


@st.composite
def configurations(draw, encoder, decoder):
    """Settings that a codec can be made with: the vocabulary is drawn within the room of the grid."""
    shape = draw(st.builds(GridShape, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)).filter(lambda s: room(encoder, s) >= 2))
    extra = {}
    if decoder == "extreme": extra["pathways"] = draw(st.none() | st.lists(st.sampled_from([*PATHWAYS]), min_size=1, unique=True))
    if decoder == "linear": extra["negatives"] = draw(st.none() | st.integers(1, 9))
    return {"vocab_size": draw(st.integers(2, min(300, room(encoder, shape)))), "shape": str(shape), "encoder": encoder, "decoder": decoder,
            "standardise": draw(st.booleans()), "seed": draw(st.integers(0, 9)), "width": 8, "samples": draw(st.integers(2, 3)),
            "temperature": draw(st.sampled_from([1.0, (1.0, 0.5), (0.1, 2.0)])), **extra}


@pytest.mark.parametrize("encoder, decoder", PAIRS)
def test_every_pair_trains_and_reads(encoder, decoder):
    """Thirteen configurations of each of the 20 pairs, 260 in all, none of them refused."""
    @settings(max_examples=13, deadline=None, derandomize=True, database=None)
    @given(configurations(encoder, decoder), st.integers(1, 8), st.booleans())
    def holds(config, batch, paired):
        codec, generator = Codec(**config), torch.Generator().manual_seed(batch)
        ids = torch.randint(codec.vocab_size, (batch, 2) if paired else (batch,), generator=generator)
        loss = codec.loss(ids, generator)
        loss.backward()
        assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in codec.parameters())
        for source in (None, generator):
            grids = codec.encode(ids, source)
            assert grids.shape == (*ids.shape, *codec.shape) and 0 <= grids.min() and grids.max() <= 1
            total = codec.decode(grids).exp().sum(-1)
            assert torch.allclose(total, torch.ones(ids.shape), atol=1e-4)
        assert 0 <= codec.metrics()["accuracy"] <= 1 and Codec(**codec.config).config == codec.config
    holds()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(PAIRS), st.builds(GridShape, st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)), st.integers(1, 300))
def test_a_vocabulary_beyond_the_room_is_refused_in_one_line(pair, shape, beyond):
    encoder, decoder = pair
    if encoder == "continuous": shape = GridShape(1, 1, 1)  # any larger one holds 65,536 or more
    with pytest.raises(ValueError, match="different grids") as error: Codec(max(2, room(encoder, shape) + beyond), shape, encoder, decoder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoder", SOFT)
def test_the_gate_of_the_notes_is_passed(encoder):
    """Five tokens, 3x3 binary, all read back from sampled grids as well; categorical does not get there (below)."""
    for seed in range(3):
        codec = Codec(5, "3x3x2", encoder=encoder, seed=seed)
        fit(codec, torch.arange(5), steps=200, lr=0.01, batch=32, seed=seed, progress=False)
        found = codec.metrics()
        assert found["accuracy"] == found["accuracy_sampled"] == 1.0


def test_a_categorical_choice_does_not_pass_the_gate():
    reached = []
    for seed in range(3):
        codec = Codec(5, "3x3x2", encoder="categorical", seed=seed)
        fit(codec, torch.arange(5), steps=200, lr=0.01, batch=32, seed=seed, progress=False)
        reached.append(codec.metrics()["accuracy_sampled"])
    assert max(reached) < 1.0


def test_the_slopes_are_those_of_the_softmax_they_claim():
    """Straight-through: of the probabilities. Gumbel: of a softmax at its temperature, around the perturbed logits."""
    logits = torch.randn(6, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    def slope(grids): return torch.autograd.grad((weights * grids).sum(), logits)[0]
    def seeded(): return torch.Generator().manual_seed(2)
    assert torch.allclose(slope(straight_through(logits, 0.3, seeded())), slope(logits.softmax(-1)))
    for heat in (0.3, 2.0):
        soft = (perturb(logits, seeded()) / heat).softmax(-1)
        assert torch.allclose(slope(gumbel(logits, heat, seeded())), slope(soft))


def test_settling_gives_the_exact_statistics_of_sampled_grids():
    codec = Codec(6, "2x2x3", encoder="gumbel", seed=1)
    drawn = torch.cat([codec.patterns(generator=torch.Generator().manual_seed(s)) for s in range(3000)]).flatten(1)
    assert (codec.standardise.mean - drawn.mean(0)).abs().max() < 0.02 and (codec.standardise.var - drawn.var(0)).abs().max() < 0.02
    codec.encoder.fc3.weight.data.zero_()
    codec.encoder.fc3.bias.data.copy_(torch.tensor([30.0, 0.0, 0.0]).repeat(4))  # every place one colour, always
    codec.settle()
    x = codec.standardise(F.one_hot(torch.randint(3, (50, 4), generator=torch.Generator().manual_seed(0)), 3).float().flatten(1))
    assert x.isfinite().all() and x.abs().max() <= 10 + 1e-3  # the floor of the variance is 0.01


def test_the_likelihood_of_a_drawn_grid_is_what_it_is_drawn_with():
    """Its mean over grids drawn from a token is minus the entropy of that token's grid."""
    codec = Codec(4, "2x3x3", encoder="straight-through", seed=2)
    codec.encoder.fc3.weight.data.mul_(20)
    p = codec.probabilities(torch.arange(4)).detach().double()
    entropy = -(p * p.clamp(min=1e-300).log()).sum((1, 2, 3))
    ids = torch.arange(4).repeat(20_000)
    with torch.no_grad(): said = codec.log_likelihood(codec.encode(ids, torch.Generator().manual_seed(0)))
    seen = said.gather(1, ids[:, None]).view(-1, 4).double()
    assert ((seen.mean(0) + entropy).abs() < 5 * seen.std(0) / math.sqrt(len(seen)) + 1e-3).all()
