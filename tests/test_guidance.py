"""Guidance: Bayes' rule on beliefs, checked by counting all pages."""
import itertools

import numpy as np
import pytest
import torch

from vtd.diffusion import GridDiffusion
from vtd.guidance import Topic, toward


def test_it_is_the_posterior_of_a_factorised_page():
    """Every page of three places and four tokens, weighed one by one."""
    dice = np.random.default_rng(0)
    belief, relevance = dice.dirichlet(np.ones(4), 3), np.array([0.0, 0.3, 0.8, 1.0])
    joint = np.zeros((3, 4))
    for page in itertools.product(range(4), repeat=3):
        weight = np.prod([belief[l, v] for l, v in enumerate(page)]) * (1 - np.prod(1 - relevance[list(page)]))
        for l, v in enumerate(page): joint[l, v] += weight
    expected = joint / joint.sum(1, keepdims=True)
    assert np.allclose(Topic(relevance)(torch.from_numpy(belief)[None])[0].numpy(), expected, atol=1e-9)


def test_away_takes_the_topic_out_and_strength_zero_changes_nothing():
    belief = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(5), (2, 3)))
    relevance = [0, 0, 1, 0.5, 0]
    assert Topic(relevance, away=True)(belief)[..., 2].max() < 1e-9
    for away in (False, True): assert torch.allclose(Topic(relevance, 0, away)(belief), belief)


@pytest.mark.parametrize("bad, says", [({"relevance": [[0.5]]}, "one probability"), ({"relevance": [1.5, 0]}, "one probability"),
                                       ({"relevance": [0, 1], "strength": -1}, "from 0 on"), ({"relevance": [0, 1], "strength": float("nan")}, "from 0 on")])
def test_bad_topics_are_told(bad, says):
    with pytest.raises(ValueError, match=says): Topic(**bad)


def test_a_meaning_finds_its_words_and_a_vector_must_fit():
    model = GridDiffusion.load()
    topic = toward(model.vocabulary, "sailing on the water", words=4)
    best = {model.vocabulary.tokens[i] for i in topic.relevance.argsort(descending=True)[:6].tolist()}
    assert best & {"boat", "boats", "ship", "ships", "sea", "lake", "float"}
    assert topic.relevance[model.vocabulary.pad] == 0
    with pytest.raises(ValueError, match="numbers"): toward(model.vocabulary, [1.0, 2.0])


def test_edits_keep_what_was_kept():
    model = GridDiffusion.load()
    texts = ["the small fish swims in the lake", "two sharks swim across the lake"]
    assert model.edit(texts, kept=0.995) == texts
    assert model.edit(texts, kept=0.2, seed=1) != texts
    with pytest.raises(ValueError, match=r"\[0, 1\)"): model.edit(texts, kept=1.0)
