"""Divisions of places into calls: what they cost by a model's own beliefs, and the search for a better one."""
import numpy as np
import pytest
import torch

from vtd.diffusion import Writing, build
from vtd.divisions import Division, divide
from vtd.peers import build_peer
from vtd.sampling import clock_path, ranks
from vtd.text import Corpus, Vocabulary, little_world


@pytest.fixture(scope="module")
def world(): return little_world.corpus(sentences=2_000, held_out=60)


def test_ranks_may_be_given():
    assert clock_path(3, 2, (1, 0, 1)).tolist() == [[0, 0, 0], [0, 1, 0], [1, 1, 1]]
    for wrong in ((0, 1), (0, 1, -1)):
        with pytest.raises(ValueError, match="as many ranks"): ranks(3, wrong)


@pytest.mark.parametrize("kind", ["grid", "masked"])
def test_the_cost_is_the_sum_of_its_calls_and_the_same_twice(kind, world):
    model = build(world, net={"width": 16, "layers": 1}) if kind == "grid" else build_peer(world, "masked", net={"width": 16, "layers": 1})
    cost, rank = Division(model, world.valid), np.arange(12) % 3
    parts = [cost.step(rank < k, rank == k) for k in range(3)]
    assert cost(rank.tolist()) == pytest.approx(sum(parts)) and all(p > 0 for p in parts)
    assert cost(rank) == Division(model, world.valid)(rank)


@pytest.mark.parametrize("kind", ["grid", "masked"])
def test_what_follows_for_certain_is_not_read_together(kind):
    """Pages of two letters, each followed by its capital: a A b B. The search reads a letter and its capital in different calls."""
    small = np.random.default_rng(0).integers(1, 9, (3000, 2))
    pages = np.stack([small, small + 8], -1).reshape(-1, 4)
    corpus = Corpus("capitals", Vocabulary(["<pad>", *"abcdefghABCDEFGH"], "word"), pages, pages[:200])
    model = build(corpus, net={"width": 16, "layers": 1}) if kind == "grid" else build_peer(corpus, "masked", net={"width": 16, "layers": 1})
    cost = Division(model, pages[:200])
    assert cost((0, 1, 0, 1)) < 6.5 < 11.5 < cost((0, 0, 1, 1)) < 13  # three bits a letter; and again three for its capital
    found = divide(model, pages[:200], 2)
    assert found[0] != found[1] and found[2] != found[3]
    right = []
    for order in (found, (0, 0, 1, 1)):
        ids = model.write_ids(200, Writing(2, order, 1.0, temperature=1.0)) if kind == "grid" else model.write_ids(200, nfe=2, order=order)
        right.append((ids[:, ::2] + 8 == ids[:, 1::2]).all(1).float().mean().item())
    assert right[0] > 0.95 and right[1] < 0.1


def test_the_search_is_seeded_and_bounded(world):
    model = build(world, net={"width": 16, "layers": 1})
    ids = torch.as_tensor(world.train[:20].copy())
    assert divide(model, ids, 3, tries=5, seed=1) == divide(model, ids, 3, tries=5, seed=1)
    assert divide(model, ids, 1) == (0,) * 12 and sorted(divide(model, ids, 12, tries=2)) == list(range(12))
    for calls in (0, 13):
        with pytest.raises(ValueError, match="1 to 12 calls"): divide(model, ids, calls)
