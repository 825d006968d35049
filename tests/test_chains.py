"""Laws of counted chains: exact, whatever is known of a page; one model in all that it says; kept and given back."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vtd import chains
from vtd.chains import Chain, NGramChain, chain_of, count_chain
from vtd.diffusion import GridDiffusion, build
from vtd.ngrams import NGram, back_off, bigram_table, probability
from vtd.peers import build_peer
from vtd.text import Corpus, Vocabulary, little_world

V = 5


def stream(size=3000, seed=0):
    """A text in which three tokens before matter, and some never follow one another."""
    dice = np.random.default_rng(seed)
    table, ids = dice.dirichlet(np.full(V, 0.15), (V, V, V)), [0, 1, 2]
    for _ in range(size): ids.append(int(dice.choice(V, p=table[tuple(ids[-3:])])))
    return np.array(ids)


def chain(order, at_least=2): return NGramChain(np.full(V, 1 / V), back_off(NGram(stream(), V, order), at_least))


def brute(found, evidence):
    """What all pages, weighed one by one, say of each place; and the pages."""
    L = evidence.shape[1]
    pages = torch.cartesian_prod(*[torch.arange(V)] * L)
    weight = (evidence[0, torch.arange(L), pages].sum(-1) - found.nats(pages)).double().softmax(0).float()
    return torch.stack([weight @ F.one_hot(pages[:, t], V).float() for t in range(L)]), pages


@pytest.mark.parametrize("strength", [0.0, 1.0, 6.0, 30.0])
@pytest.mark.parametrize("order, at_least", [(2, 2), (3, 1), (4, 2), (5, 3)])
def test_it_is_exact(order, at_least, strength):
    found, evidence = chain(order, at_least), strength * torch.randn(1, 6, V, generator=torch.Generator().manual_seed(order))
    exact, pages = brute(found, evidence)
    assert abs(float(found.nats(pages).neg().exp().sum()) - 1) < 1e-4, "a page costs what it should"
    assert torch.allclose((found.context(evidence) + evidence).softmax(-1)[0], exact, atol=2e-5)


def test_of_two_tokens_it_is_the_matrix():
    ids = stream()
    corpus = Corpus("s", Vocabulary([f"w{i}" for i in range(V)], "word"), np.lib.stride_tricks.sliding_window_view(ids, 8), ids[:80].reshape(-1, 8))
    dense, sparse = Chain(*bigram_table(corpus)), NGramChain(corpus.unigram, back_off(NGram(ids, V, 2)))
    evidence = torch.randn(3, 8, V, generator=torch.Generator().manual_seed(0))
    apart = (dense.context(evidence).exp() - sparse.context(evidence).exp()).abs().max()
    assert apart < 2e-2, "two ways to smooth the same pairs"
    assert torch.allclose(dense.rows(dense.states(torch.tensor([[0, 1]])))[0, 0], dense.first)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_rows_are_probabilities_and_certain_places_are_read_by_them(order):
    found, ids = chain(order), torch.as_tensor(stream(seed=1)[:60].reshape(5, 12))
    rows = found.rows(found.states(ids))
    assert torch.allclose(rows.sum(-1), torch.ones(5, 13), atol=1e-5) and (rows >= 0).all()
    evidence = 60.0 * (F.one_hot(ids, V).float() - 1)
    evidence[:, -1] = 0
    assert torch.allclose(found.context(evidence)[:, -1].exp(), rows[:, -2], atol=1e-5)


def test_a_long_page_of_faint_or_clashing_evidence_stays_finite():
    found = chain(4)
    for evidence in (torch.zeros(1, 400, V), 300 * torch.randn(1, 400, V, generator=torch.Generator().manual_seed(3)), torch.full((1, 1, V), -80.0)):
        assert found.context(evidence).isfinite().all()
    nothing = found.context(torch.zeros(1, 3, V)).exp()
    assert torch.allclose(nothing[0, 0], found.first, atol=1e-5), "of a first place, no evidence says what is counted"


@pytest.mark.parametrize("strength", [40.0, 100.0])
def test_strong_evidence_leaves_no_denormal_numbers_behind(strength):  # on some processors they cost ten times the time
    found, ids = chain(4), torch.as_tensor(stream(seed=2)[:64].reshape(1, 64))
    noise = torch.randn(1, 64, V, generator=torch.Generator().manual_seed(4))
    found.context(strength * F.one_hot(ids, V) + strength**0.5 * noise)
    ahead = chains._HELD.memory[: 64 * len(found.keys)]
    assert (ahead > 0).any() and not ((ahead > 0) & (ahead < torch.finfo(torch.float32).tiny)).any()


def test_leaving_out_what_is_rare_keeps_a_context_that_others_begin_with():
    tables = back_off(NGram(stream(), V, 5), 4)
    known = {(m, k) for m, k in zip(tables["lengths"].tolist(), tables["keys"].tolist(), strict=True)}
    assert all((m - 1, k // V) in known for m, k in known if m)
    assert len(tables["keys"]) < len(back_off(NGram(stream(), V, 5), 1)["keys"])
    state, token = np.divmod(np.arange(len(tables["keys"]) * V), V)
    assert np.allclose(probability(tables, V, state, token).reshape(-1, V).sum(1), 1)
    with pytest.raises(ValueError, match="not witten-bell"): back_off(NGram(stream(), V, 2, "witten-bell"))


def letters():
    ids = stream()
    rows = np.lib.stride_tricks.sliding_window_view(ids[:-300], 12)
    return Corpus("letters", Vocabulary(list("abcd "), "char"), rows, ids[-300:].reshape(-1, 12))


@pytest.mark.parametrize("path", [{}, {"order": "spaced", "overlap": 4.0}, {"order": "left-to-right"}])
def test_untrained_the_bound_is_what_the_text_costs_the_chain_on_every_clock_path(path):
    corpus = letters()
    model, held = build(corpus, net={"width": 16, "layers": 1}), torch.as_tensor(corpus.valid.copy())
    cost = float(model.net.counted.nats(held).sum()) / math.log(2) / held.numel()
    bound = model.bits(held, draws=16, **path)
    assert model.net.counted.memory == 4 and abs(bound.bits_per_token - cost) < 0.02 + np.diff(bound.interval)[0] / 2
    teller = build_peer(corpus, "autoregressive", net={"width": 16, "layers": 1})
    assert abs(teller.bits(held).bits_per_token - cost) < 1e-4


def test_a_model_with_long_contexts_learns_saves_and_writes(tmp_path):
    corpus = letters()
    model = build(corpus, net={"width": 16, "layers": 1}, order=3)
    assert model.net.counted.memory == 2
    model.loss(torch.as_tensor(corpus.train[:16].copy()), torch.Generator().manual_seed(0)).backward()
    model.save(tmp_path / "m")
    again = GridDiffusion.load(tmp_path / "m")
    assert again.net.counted.memory == 2 and again.write(2, nfe=3) == model.eval().write(2, nfe=3)
    assert chain_of({}) is None


def test_which_chain_for_which_text():
    world, text = little_world.corpus(200, 20), letters()
    assert type(count_chain(world)) is Chain and count_chain(text).memory == 4 and count_chain(text, False) is None
    many = Corpus("many", Vocabulary([f"w{i}" for i in range(9000)], "word"), np.arange(9000)[:, None] + np.zeros((1, 4), int), np.zeros((1, 4), int))
    assert count_chain(many) is None and count_chain(many, order=2).memory == 1
    ids = np.random.default_rng(0).integers(0, 300, 60_000)
    wild = Corpus("wild", Vocabulary([f"w{i}" for i in range(300)], "word"), np.lib.stride_tricks.sliding_window_view(np.concatenate([ids, ids]), 8), ids[:80].reshape(-1, 8))
    assert len(count_chain(wild).keys) <= 32_768 < len(back_off(NGram(wild.train[:, 0], 300, 3))["keys"]), "no more contexts than a page can afford"
    with pytest.raises(ValueError, match="leave out the order, 3"): count_chain(text, False, 3)
    for order in (1, 9): assert pytest.raises(ValueError, count_chain, many, order=order).match("depend on one another")
