"""Laws of the denoiser without tables: the table's loss and gradients, never a table in memory, a model like any other."""
import math

import pytest
import torch
from torch.nn import functional as F

from vtd.chapters.fast_grids import Largest
from vtd.code_length import page_bits
from vtd.denoiser import mix
from vtd.diffusion import GridDiffusion, build
from vtd.fused import FusedDenoiser
from vtd.recipes import Recipe
from vtd.text import Corpus, Vocabulary, little_world
from vtd.training import TrainingError, fit

SMALL = {"width": 32, "layers": 1, "fused": True}


@pytest.fixture(scope="module")
def world(): return little_world.corpus(2_000, 200)


@pytest.fixture(scope="module")
def model(world):
    torch.manual_seed(0)
    model = build(world, net=SMALL)
    torch.nn.init.normal_(model.net.head.weight, std=0.1)
    return model


def many_words(V=8_000, pages=40, length=16):
    """A made-up corpus of a large vocabulary, each of whose pages counts upwards."""
    start = torch.randint(V, (pages, 1), generator=torch.Generator().manual_seed(0))
    ids = ((start + torch.arange(length)) % V).numpy().astype("int32")
    return Corpus("counting", Vocabulary([f"w{i}" for i in range(V)], "word"), ids, ids[:8])


def test_the_training_loss_is_that_of_the_table(model, world):
    ids, seed = torch.as_tensor(world.train[:16]), 3
    g = torch.Generator().manual_seed(seed)
    levels = model._levels(ids, g)  # before the loss, which tells the schedule what it saw
    lean = model.loss(ids, torch.Generator().manual_seed(seed))
    noise = torch.randn((*ids.shape, model.codebook_signal.shape[1]), generator=g)
    noisy = torch.isfinite(levels)
    table = F.cross_entropy(model.net(mix(model.codebook_signal[ids], noise, levels), levels)[noisy], ids[noisy])
    assert abs(lean - table) < 1e-5 * table.abs()
    weights = list(model.net.parameters())
    for a, b in zip(torch.autograd.grad(lean, weights), torch.autograd.grad(table, weights), strict=True): assert torch.allclose(a, b, atol=1e-5)


def test_untrained_its_bound_is_the_entropy_of_the_frequencies(world):
    fresh, ids = build(world, net=SMALL), torch.as_tensor(world.valid)
    bound = sum(page_bits(fresh.net, fresh.schedule, ids, draws=8).values()).mean()
    plain = -fresh.net.log_prior[ids].sum(1).mean() / math.log(2)
    assert abs(bound - plain) < 0.01 * plain


def test_a_step_never_holds_a_table():
    """1,024 places of 8,000 words: the largest tensor is a weight, not places times words."""
    corpus = many_words()
    sizes = {}
    for fused in (True, False):
        made = build(corpus, net=SMALL | {"fused": fused}, chain=False)
        ids = torch.as_tensor(corpus.train).long().repeat(2, 1)[:64]
        with Largest([]) as seen: made.loss(ids, torch.Generator().manual_seed(0)).backward()
        sizes[fused] = seen.bytes
    assert sizes[False] >= 4 * 1024 * 8_000 > 5 * sizes[True], sizes


def test_it_learns_and_writes_like_any_other(world, tmp_path):
    made = build(world, net=SMALL)
    held = torch.as_tensor(world.valid[:60])
    before = made.bits(held, draws=4).bits_per_token
    fit(made, world.train, steps=60, batch=32, progress=False)
    assert made.bits(held, draws=4).bits_per_token < before - 0.5
    assert all(t.split()[0] == "the" for t in made.write(3, nfe=4, prompt="the _", seed=1))
    made.save(tmp_path / "m")
    again = GridDiffusion.load(tmp_path / "m")
    assert isinstance(again.net, FusedDenoiser) and again.write(2, nfe=3) == made.eval().write(2, nfe=3)


def test_shares_of_a_batch_make_the_same_step(world):
    weights = []
    for accumulate in (1, 4):
        made = build(world, net=SMALL)
        fit(made, world.train, steps=3, batch=16, accumulate=accumulate, progress=False)
        weights.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    assert (weights[0] - weights[1]).norm() < 1e-3 * weights[0].norm()


@pytest.mark.parametrize("options, says", [
    ({"chain": True}, "counted chain"), ({"order": 2}, "counted chain"), ({"objective": "cells"}, "objective 'cells'"), ({"net": SMALL | {"self_condition": True}}, "self_condition"),
    ({"net": SMALL | {"learn_codewords": True}}, "learn_codewords"), ({"net": SMALL | {"reread": True}}, "reread"), ({"teacher": lambda x: x}, "teacher")])
def test_what_it_does_not_have_is_told(world, options, says):
    with pytest.raises(ValueError, match=f"a fused network has no {says}"): build(world, **{"net": SMALL} | options)


def test_a_recipe_asks_for_it(world):
    assert isinstance(Recipe(fused=True).model(world).net, FusedDenoiser)
    assert Recipe(reread=True).model(world).net.reread and not Recipe().model(world).net.reread and "reread" not in Recipe().told
    assert Recipe().fingerprint == Recipe(fused=False).fingerprint != Recipe(fused=True).fingerprint
    with pytest.raises((ValueError, TrainingError), match="teacher"): Recipe(fused=True, taught=True).model(world)
