"""Laws of the counted start: a beam as wide as the vocabulary is the exact forward-backward pass, a narrow one comes near it."""
import pytest
import torch

from vtd.denoiser import beam_weights, chain_context, neighbour_context
from vtd.diffusion import GridDiffusion, build
from vtd.text import Corpus, Vocabulary

NONE = {"keys": torch.tensor([10**9]), "starts": torch.tensor([0, 0]), "tokens": torch.zeros(0, dtype=torch.long), "values": torch.zeros(0),
        "backs": torch.ones(1)}  # no triples


def chain(V=40, pages=6, length=9, seed=0, strength=1.5):
    """A chain that prefers few successors, and half-known evidence of its pages."""
    g = torch.Generator().manual_seed(seed)
    step = (3 * torch.randn(V, V, generator=g)).softmax(-1)
    prior = torch.full((V,), 1 / V)
    for _ in range(50): prior = prior @ step
    ids = torch.zeros(pages, length, dtype=torch.long)
    ids[:, 0] = torch.multinomial(prior, pages, True, generator=g)
    for t in range(1, length): ids[:, t] = torch.multinomial(step[ids[:, t - 1]], 1, generator=g)[:, 0]
    evidence = strength * torch.randn(pages, length, V, generator=g) + 2 * strength * torch.nn.functional.one_hot(ids, V)
    return prior, step, evidence, (prior.log() + evidence).softmax(-1)


def apart(found, true):
    """Bits by which a belief misses another, a place."""
    return float((true.exp() * (true - found)).sum(-1).mean() / 0.6931)


def test_a_beam_of_all_tokens_is_the_exact_pass():
    prior, step, evidence, belief = chain()
    assert torch.allclose(neighbour_context(belief, prior, step, NONE, beam=40), chain_context(evidence, prior, step), atol=1e-4)


def test_a_wider_beam_comes_nearer():
    prior, step, evidence, belief = chain(V=200)
    exact = chain_context(evidence, prior, step)
    missed = [apart(neighbour_context(belief, prior, step, NONE, beam), exact) for beam in (1, 4, 16, 64, 200)]
    assert missed == sorted(missed, reverse=True) and missed[2] < 0.5 * missed[0] and missed[-1] < 1e-4, missed


def test_what_is_believed_of_the_beam_and_of_the_others_sums_to_one():
    prior, step, _, belief = chain()
    sure, token = belief.topk(5)
    for weights in beam_weights(sure, token, prior, step): assert (weights >= 0).all() and (weights.sum(-1) <= 1 + 1e-5).all()
    certain = torch.zeros_like(sure)
    certain[..., 0] = 1.0  # a known token stays known, whatever its neighbours say
    for weights in beam_weights(certain, token, prior, step): assert torch.allclose(weights, certain, atol=1e-5)


def test_one_place_has_no_neighbours():
    prior, step, _, belief = chain(length=1)
    for beam in (1, 8): assert torch.allclose(neighbour_context(belief, prior, step, NONE, beam), prior.log().expand_as(belief), atol=1e-5)


@pytest.mark.parametrize("beam", [1, 8])
def test_a_model_with_a_beam_learns_saves_and_writes(beam, tmp_path):
    V, g = 600, torch.Generator().manual_seed(0)  # from 513 tokens on, triples are counted
    start = torch.randint(V, (300, 1), generator=g)
    ids = ((start + torch.arange(8)) % V).numpy()
    corpus = Corpus("counting", Vocabulary([f"w{i}" for i in range(V)], "word"), ids, ids[:20])
    model = build(corpus, net={"width": 16, "layers": 1, "beam": beam})
    assert model.net.triple_keys is not None
    model.loss(torch.as_tensor(ids[:16]), g).backward()
    model.save(tmp_path / "m")
    again = GridDiffusion.load(tmp_path / "m")
    assert again.net.beam == beam and again.write(2, nfe=3) == model.eval().write(2, nfe=3)
