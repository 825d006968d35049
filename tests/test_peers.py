"""The peers of grid diffusion: their bounds' theorems, and what their writing promises."""
import math

import numpy as np
import pytest
import torch

from vtd.chains import count_chain
from vtd.code_length import chain_control, counted, world_control
from vtd.peers import ORDERS, PEERS, BayesianFlow, MaskedDiffusion, arrivals, build_peer
from vtd.text import little_world, text_corpus
from vtd.training import fit

NET = {"width": 32, "layers": 1}


@pytest.fixture(scope="module")
def world(): return little_world.corpus(3_000, 200)


@pytest.fixture(scope="module")
def pages(world): return torch.as_tensor(world.valid)


@pytest.fixture(scope="module")
def trained(world):
    models = {kind: build_peer(world, kind, net=NET) for kind in PEERS}
    for model in models.values(): fit(model, world.train, steps=60, batch=64, progress=False)
    return models


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("chain", [False, True])
def test_an_untrained_peer_has_the_bits_of_its_counted_start(kind, chain, world, pages):
    model = build_peer(world, kind, net=NET, chain=chain)
    if kind == "autoregressive":
        start = build_peer(world, "masked", net=NET, chain=chain)
        exact = counted(start.net).nats(pages).numpy() / math.log(2)
    else: exact = counted(model.net).nats(pages).numpy() / math.log(2)
    assert np.abs(model.bits(pages).per_text - exact).max() < 0.05


@pytest.mark.parametrize("kind", PEERS)
def test_no_bound_falls_below_the_exact_value(kind, trained, pages):
    excess = trained[kind].bits(pages).per_text - world_control().nats(pages).numpy() / math.log(2)
    assert excess.mean() + 2.6 * excess.std() / len(excess) ** 0.5 > 0


@pytest.mark.parametrize("kind, how", [("masked", {}), ("masked", {"order": "spaced", "draws": 4}), ("flow", {})])
def test_another_control_keeps_the_mean(kind, how, world, pages):
    """From frequencies, untrained: exact by default; counted pairs as control bring noise of their own, and no bias."""
    model, pairs = build_peer(world, kind, net=NET, chain=False), chain_control(count_chain(world))
    gap = model.bits(pages, control=pairs, **how).per_text - model.bits(pages, **how).per_text
    assert gap.std() > 0.1 and abs(gap.mean()) < 3 * gap.std() / len(gap) ** 0.5


@pytest.mark.parametrize("kind", PEERS)
def test_training_helps(kind, world, pages):
    model = build_peer(world, kind, net=NET, chain=False)
    before = model.bits(pages).bits_per_token
    fit(model, world.train, steps=60, batch=64, progress=False)
    assert model.bits(pages).bits_per_token < before - 0.3


def test_with_the_exact_posterior_every_order_gives_the_language(world, pages, monkeypatch):
    model = build_peer(world, "masked", net=NET)
    known = world_control()
    monkeypatch.setattr(MaskedDiffusion, "logits", lambda self, ids, hidden: known.belief(self.evidence(ids, hidden)))
    exact = known.nats(pages).numpy() / math.log(2)
    for order in ("spaced", "left-to-right"): assert np.abs(model.bits(pages, order=order).per_text - exact).max() < 0.01
    found = model.bits(pages, draws=24).per_text - exact
    assert abs(found.mean()) < 3 * found.std() / len(found) ** 0.5


@torch.no_grad()
def test_the_bound_is_an_objective_and_hidden_tokens_alike_another(trained, pages, monkeypatch):
    """Averaged over many numbers of hidden places, one is the bound; the other weighs pages by what they hide, where more is unknown."""
    model, said = trained["masked"], {}
    for objective in ("bound", "categorical"):
        monkeypatch.setattr(model, "objective", objective)
        said[objective] = np.mean([model.loss(pages, torch.Generator().manual_seed(seed)).item() for seed in range(40)]) / math.log(2)
    assert abs(said["bound"] / model.bits(pages, draws=40).bits_per_token - 1) < 0.02
    assert said["categorical"] > 1.05 * said["bound"]
    with pytest.raises(ValueError, match="categorical or bound"): build_peer(little_world.corpus(100), "masked", objective="cells")


def test_masked_diffusion_learns_from_pages_hidden_as_far_as_asked(pages, monkeypatch):
    model, seen = build_peer(little_world.corpus(100), "masked", net=NET, hidden=(0.2, 0.5)), []
    monkeypatch.setattr(model, "surprise", lambda ids, hidden: (seen.append(hidden.sum(1)), torch.ones(ids.shape))[1])
    for seed in range(20): model.loss(pages, torch.Generator().manual_seed(seed))
    counts = torch.cat(seen)
    assert counts.unique().tolist() == [3, 4, 5, 6]  # of twelve places
    for wrong in ((0.5, 0.2), (0.0, 1.5)):
        with pytest.raises(ValueError, match="lower one first"): build_peer(little_world.corpus(100), "masked", hidden=wrong)
    with pytest.raises(ValueError, match="every share"): build_peer(little_world.corpus(100), "masked", objective="bound", hidden=(0.2, 0.5))


def test_a_few_places_of_each_page_tell_an_orders_bits(trained, pages):
    """Right on average over seeds, and nearer than what pages differ by."""
    model = trained["masked"]
    exact = model.bits(pages, order="spaced", draws=12).per_text
    assert np.array_equal(exact, model.bits(pages, order="spaced", draws=99, seed=5).per_text)  # no place is asked twice
    off = np.array([model.bits(pages, order="spaced", draws=4, seed=seed).per_text.mean() - exact.mean() for seed in range(6)])
    assert len(set(off.tolist())) == 6 and abs(off.mean()) < 3 * off.std(ddof=1) / len(off) ** 0.5
    assert off.std() < exact.std() / len(exact) ** 0.5


def test_places_read_together_are_coded_together(trained, pages):
    """Blocks know nothing within themselves: more bits than place by place, and exactly the sum of what the network asks."""
    model, blocks = trained["masked"], (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    rank = torch.tensor(blocks)
    with torch.no_grad(): sums = sum((model.surprise(pages, (rank >= k).expand(pages.shape)) * (rank == k)).sum(1) for k in range(4)) / math.log(2)
    assert np.allclose(model.bits(pages, order=blocks).per_text, sums.numpy(), atol=1e-4)
    assert model.bits(pages, order="block-3").per_text.mean() == pytest.approx(sums.mean().item(), abs=1e-4)
    assert model.bits(pages, order="left-to-right").per_text.mean() < sums.mean() - 1


def test_flow_scores_are_the_papers_channel(world):
    model = BayesianFlow(world.vocabulary, 12, world.unigram, net=NET)
    ids, K = torch.full((4000, 1), 7), len(world.vocabulary)
    scores = model.scores(ids, torch.full((4000,), 0.5), torch.Generator().manual_seed(0))[:, 0]
    beta = model.beta / 4
    assert scores[:, 7].mean().item() == pytest.approx(beta * (K - 1), rel=0.1)
    assert scores[:, 8].var().item() == pytest.approx(beta * K, rel=0.1) and scores[:, 8].mean().item() == pytest.approx(-beta, abs=3 * (beta * K / 4000) ** 0.5)


def test_every_open_place_is_filled_in_the_calls_there_are():
    open_places = torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) < 0.7
    for order in ORDERS:
        if order == "confidence": continue
        when = arrivals(open_places, order, torch.Generator().manual_seed(1))
        assert ((when > 0) == open_places).all() and when.max() <= 1


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_known_stays_and_nothing_is_left_open(order, trained, pages):
    known = torch.where(torch.rand(pages.shape, generator=torch.Generator().manual_seed(0)) < 0.5, pages, -1)
    for nfe in (1, 5, 12):
        filled = trained["masked"].fill(known, nfe=nfe, order=order, seed=2)
        assert (filled >= 0).all() and (filled[known >= 0] == known[known >= 0]).all()
        assert torch.equal(filled, trained["masked"].fill(known, nfe=nfe, order=order, seed=2))


@pytest.mark.parametrize("kind", ["autoregressive", "flow"])
def test_the_other_peers_fill_too(kind, trained, pages):
    known = torch.where(torch.rand(pages.shape, generator=torch.Generator().manual_seed(0)) < 0.5, pages, -1)
    filled = trained[kind].fill(known, seed=2)
    assert (filled[known >= 0] == known[known >= 0]).all() and torch.equal(filled, trained[kind].fill(known, seed=2))


def test_autoregression_writes_what_it_says(trained, pages):
    """Frequencies of the first word written are those of its own belief."""
    model = trained["autoregressive"]
    belief = model.net(pages[:1])[0, 0].detach().double().softmax(-1)
    written = torch.bincount(model.write_ids(3000, seed=0)[:, 0], minlength=len(belief)) / 3000
    assert float((written - belief).abs().sum()) < 0.35


@pytest.mark.parametrize("call, says", [
    (lambda m: m["masked"].write_ids(1, order="up"), "ancestral"), (lambda m: m["masked"].write_ids(1, nfe=0), "at least 1"),
    (lambda m: m["masked"].write_ids(1, temperature=0), "above 0"), (lambda m: m["flow"].write_ids(1, nfe=0), "at least 1"),
    (lambda m: build_peer(little_world.corpus(10, 5), "gpt"), "masked, autoregressive, flow")])
def test_bad_wishes_are_told(call, says, trained):
    with pytest.raises(ValueError, match=says): call(trained)


def test_streams_of_characters_and_words(tmp_path):
    dice = np.random.default_rng(0)
    words = sorted({"".join(dice.choice(list("abcdefgh"), 4)) for _ in range(900)})
    (tmp_path / "t.txt").write_text(" ".join(words[int(i)] for i in dice.exponential(200, 20_000) if i < len(words)))
    for tokens, size in (("char", 27), ("word", 700)):
        corpus = text_corpus(str(tmp_path / "t.txt"), tokens, 8, size)
        pages = torch.as_tensor(corpus.valid[:20].copy())
        for kind in PEERS:
            model = build_peer(corpus, kind, net=NET)
            assert math.isfinite(model.bits(pages).bits_per_token) and model.write_ids(2, seed=0).shape == (2, 8)
