"""Laws of hidden states: learning climbs, merging keeps what matters, and a page is read exactly by what was learned."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vtd.chains import Chain, HiddenChain, NGramChain, chain_of, count_chain
from vtd.diffusion import GridDiffusion, build
from vtd.hidden import clones, expect, learn_states, merge, pairs_of
from vtd.ngrams import bigram_table
from vtd.peers import build_peer
from vtd.recipes import Recipe
from vtd.text import Corpus, Vocabulary, little_world

V = 5


def told(n=2000, seed=0):
    """Pages that say 0 or 1, always the same, at every other place, and between them 2, 3 or 4 at random: no pair knows what to say."""
    dice = np.random.default_rng(seed)
    pages = dice.integers(2, V, (n, 6))
    pages[:, ::2] = dice.integers(2, size=(n, 1))
    return pages


ENTROPY = math.log(2) + 3 * math.log(3)


@pytest.fixture(autouse=True)
def few_clones(monkeypatch): monkeypatch.setattr("vtd.chains.CLONES", 40)


@pytest.fixture(scope="module")
def chain(): return HiddenChain(learn_states(told(), V, states=16, each=8, progress=False), V)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_never_makes_the_text_less_likely(seed):
    pages = torch.as_tensor(told(300, seed))
    pairs, where = pairs_of(pages, V)
    arcs, nats = clones(pages, pairs, where, V, 3, seed), []
    for _ in range(30):
        likelihood, *found = expect(*arcs.blocks(0.0), pages, where)
        arcs.weight = arcs.pool(*found)
        nats.append(likelihood)
    assert all(b > a - 0.05 for a, b in zip(nats, nats[1:], strict=False)) and nats[-1] > nats[0] + 1
    assert abs(float(found[0].sum()) - 300 * 5) < 1 and abs(float(found[1].sum()) - 300) < 1, "every step of every page is somebody's"


def test_the_likelihood_is_that_of_all_ways_added_up():
    pages = torch.as_tensor(told(50))
    pairs, where = pairs_of(pages, V)
    arcs = clones(pages, pairs, where, V, 2, 0)
    p = arcs.table(arcs.probability())
    total = 0.0
    for page in pages:
        ways = torch.cartesian_prod(*[torch.arange(2)] * 6)
        state, weight = torch.zeros(len(ways), dtype=torch.long), torch.ones(len(ways))
        for t, token in enumerate(page): weight, state = weight * p[state, token, ways[:, t]], arcs.goal[token, ways[:, t]]
        total += float(weight.sum().log())
    assert abs(expect(*arcs.blocks(), pages, where)[0] - total) < 1e-2


def test_what_no_ngram_can_know_is_learned(chain):
    held = torch.as_tensor(told(1000, seed=1))
    corpus = Corpus("told", Vocabulary([f"w{i}" for i in range(V)], "word"), told(), told(100, 1))
    pairs = Chain(*bigram_table(corpus))
    assert float(chain.nats(held).mean()) < 1.02 * ENTROPY < float(pairs.nats(held).mean()) - 0.3
    assert len(chain.step) <= 17, "sixteen states and the beginning"


def test_merging_keeps_what_a_page_costs():
    pages = torch.as_tensor(told())
    pairs, where = pairs_of(pages, V)
    arcs = clones(pages, pairs, where, V, 8, 0)
    for _ in range(60): arcs.weight = arcs.pool(*expect(*arcs.blocks(0.0), pages, where)[1:])
    before = expect(*arcs.blocks(), pages, where)[0] / len(pages)
    many, few = (merge(arcs, states, 0) for states in (16, 1))
    after = [expect(*m.blocks(), pages, where)[0] / len(pages) for m in (many, few)]
    assert abs(after[0] - before) < 0.05 and after[1] < before - 0.3, "one state remembers nothing"
    assert many.states <= 17 and few.states == 2
    assert float(many.weight.sum()) == pytest.approx(float(arcs.weight.sum()), rel=1e-4)


def test_tables_leave_nothing_impossible():
    tables = learn_states(told(), V + 2, states=6, each=4, progress=False)  # two tokens that never occur
    assert set(tables["token"]) == set(range(V + 2)) and (tables["step"] > 0).all()
    assert np.allclose(tables["step"].sum(1), 1, atol=1e-5) and tables["goal"].max() < len(tables["step"])
    assert torch.isfinite(HiddenChain(tables, V + 2).nats(torch.tensor([[6, 5, 0, 6, 1, 5]]))).all()


def test_the_same_seed_learns_the_same():
    one, two, other = (learn_states(told(500), V, states=6, each=3, seed=s, progress=False) for s in (0, 0, 1))
    assert all((one[name] == two[name]).all() for name in one)
    assert one["step"].shape != other["step"].shape or not np.allclose(one["step"], other["step"])


@pytest.mark.parametrize("strength", [0.0, 1.0, 6.0, 30.0])
def test_it_is_exact(chain, strength):
    evidence = strength * torch.randn(2, 5, V, generator=torch.Generator().manual_seed(1))
    pages = torch.cartesian_prod(*[torch.arange(V)] * 5)
    weight = (evidence[:, torch.arange(5), pages].sum(-1) - chain.nats(pages)).double().softmax(-1).float()
    exact = torch.stack([weight @ F.one_hot(pages[:, t], V).float() for t in range(5)], 1)
    assert abs(float(chain.nats(pages).neg().exp().sum()) - 1) < 1e-4
    assert torch.allclose((chain.context(evidence) + evidence).softmax(-1), exact, atol=2e-5)


def test_rows_are_probabilities_and_certain_places_are_read_by_them(chain):
    ids = torch.as_tensor(told(5))
    rows = chain.rows(chain.states(ids))
    assert rows.shape == (5, 7, V) and torch.allclose(rows.sum(-1), torch.ones(5, 7), atol=1e-5)
    assert torch.allclose(rows[:, 0], chain.first.expand(5, -1), atol=1e-6)
    evidence = 60.0 * (F.one_hot(ids, V).float() - 1)
    evidence[:, -1] = 0
    assert torch.allclose(chain.context(evidence)[:, -1].exp(), rows[:, -2], atol=1e-5)
    assert chain.context(300 * torch.randn(1, 300, V)).isfinite().all(), "clashing evidence"


@pytest.mark.parametrize("path", [{}, {"order": "spaced", "overlap": 3.0}, {"order": "left-to-right"}])
def test_untrained_the_bound_is_what_the_text_costs_along_every_path(path):
    corpus = Corpus("told", Vocabulary([f"w{i}" for i in range(V)], "word"), told(), told(200, 1))
    model, held = build(corpus, net={"width": 16, "layers": 1}, states=16), torch.as_tensor(corpus.valid)
    cost = float(model.net.counted.nats(held).sum()) / math.log(2) / held.numel()
    bound = model.bits(held, draws=12, **path)
    assert abs(bound.bits_per_token - cost) < 0.02 + np.diff(bound.interval)[0] / 2
    teller = build_peer(corpus, "autoregressive", net={"width": 16, "layers": 1}, states=16)
    assert abs(teller.bits(held).bits_per_token - cost) < 1e-4
    assert teller.write_ids(3, seed=0).shape == (3, 6)
    assert build_peer(corpus, "masked", net={"width": 16, "layers": 1}, states=16).write_ids(3, nfe=3, seed=0).shape == (3, 6)


def test_a_model_keeps_its_states_in_its_file(tmp_path):
    corpus = Corpus("told", Vocabulary([f"w{i}" for i in range(V)], "word"), told(), told(200, 1))
    model = build(corpus, net={"width": 16, "layers": 1}, states=16)
    model.loss(torch.as_tensor(corpus.train[:16]), torch.Generator().manual_seed(0)).backward()
    model.save(tmp_path / "m")
    again = GridDiffusion.load(tmp_path / "m")
    assert type(again.net.counted) is HiddenChain and again.write(2, nfe=3) == model.eval().write(2, nfe=3)
    assert type(chain_of(again.net.counted.state_dict())) is HiddenChain


def test_a_stream_of_letters_is_learned_page_by_page():
    ids = np.random.default_rng(0).integers(0, V, 4000).cumsum() % V
    rows = np.lib.stride_tricks.sliding_window_view(ids, 12)
    corpus = Corpus("letters", Vocabulary(list("abcd "), "char"), rows, rows[:40])
    assert type(count_chain(corpus, states=4)) is HiddenChain and type(count_chain(corpus)) is NGramChain
    assert set(corpus.__dict__["learned"]) == {4}, "learned once"


def test_of_the_little_world_it_knows_more_than_pairs(monkeypatch):
    monkeypatch.undo()
    corpus = little_world.corpus(10_000, 200)
    held = torch.as_tensor(corpus.valid).long()
    pairs, hidden = count_chain(corpus), count_chain(corpus, states=60)
    assert float(hidden.nats(held).mean()) < float(pairs.nats(held).mean()) - 1.0


def test_what_cannot_be_is_said():
    corpus = little_world.corpus(200, 20)
    for bad in ({"chain": False}, {"order": 3}): assert pytest.raises(ValueError, count_chain, corpus, states=5, **bad).match("say one of these")
    with pytest.raises(ValueError, match="2 or more, not 1 and 4"): learn_states(told(), V, states=1, each=4)
    with pytest.raises(ValueError, match="99 pages of 6 tokens are too few"): learn_states(told(99), V)
    with pytest.raises(ValueError, match="fewer clones"): learn_states(told(), 20_000, each=4)
    assert Recipe(states=5).fingerprint != Recipe().fingerprint and "states" not in Recipe().told


def test_a_stopped_training_does_not_learn_its_states_anew(tmp_path, monkeypatch):
    from vtd import recipes

    recipe, out, whole = Recipe(sentences=600, states=12, steps=3, batch=8, width=16, layers=1), tmp_path / "m", recipes.fit

    def stopped(*args, **options): raise KeyboardInterrupt
    monkeypatch.setattr(recipes, "fit", stopped)
    with pytest.raises(KeyboardInterrupt): recipes.train(recipe, out, progress=False, say=lambda *_: None)
    assert [path.suffix for path in tmp_path.iterdir()] == [".states"]
    monkeypatch.setattr(recipes, "fit", whole)
    monkeypatch.setattr("vtd.chains.learn_states", stopped)
    model = recipes.train(recipe, out, progress=False, say=lambda *_: None)
    assert type(model.net.counted) is HiddenChain and [path.name for path in tmp_path.iterdir()] == ["m"]
    with pytest.raises(KeyboardInterrupt): Recipe(sentences=600, states=12, steps=3).model(little_world.corpus(600))
