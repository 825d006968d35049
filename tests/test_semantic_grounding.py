"""The chapter on grounding: controls differ in the vectors only, unseen words, and the verdicts."""
import numpy as np
import pytest
import torch

from vtd.chapters import semantic_grounding as chapter
from vtd.codes import Codebook, directions
from vtd.features import Features

MEANING = np.array(directions(np.random.default_rng(0).standard_normal((300, 24))), np.float32)


def test_one_hot_is_a_linear_layer_of_one_hot_vectors():
    codec = chapter.WordCodec(None, 7, 27, seed=0)
    rows, bias = codec.encoder.rows, codec.encoder.bias
    assert torch.allclose(codec.before(torch.arange(7)), torch.eye(7) @ rows + bias)


def test_an_epoch_of_five_words_is_one_step():
    steps, codec = [], chapter.WordCodec(torch.from_numpy(MEANING[:5]), 5, 27)
    codec.register_forward_hook(lambda *_: steps.append(torch.is_grad_enabled()))
    history = chapter.learn(codec, 5, 0.01, 300, 0)
    assert history[-1] == 1 and sum(steps) == len(history) - 1


def test_large_vocabularies_are_learned_from_samples_and_counted_whole(monkeypatch):
    monkeypatch.setattr(chapter, "NEGATIVES", 16)
    x = torch.from_numpy(np.array(directions(np.random.default_rng(1).standard_normal((100, 24))), np.float32))
    codec = chapter.WordCodec(x, 100, 48)
    assert chapter.learn(codec, 100, 0.03, 200, 0)[-1] == 1
    assert torch.equal(chapter.read_all(codec, torch.arange(100)), torch.arange(100))


@pytest.mark.parametrize("how, low, high", [("pca", 0.95, 1), ("random function", 0.3, 1), ("arbitrary", 0, 0.05)])
def test_only_functions_of_the_feature_are_read_for_unseen_words(how, low, high):
    right, tried = chapter.read_unseen(MEANING, how, "6x6x3", 150, 0)
    assert tried == 150 and low <= right / tried <= high


def test_nothing_of_an_unseen_word_reaches_the_reader(monkeypatch):
    other = MEANING.copy()
    order = np.random.default_rng(0).permutation(300)
    other[order[150:]] = directions(np.random.default_rng(9).standard_normal((150, 24)))
    seen = []
    monkeypatch.setattr(chapter, "way_back", lambda s, x: seen.append((s, x)) or torch.zeros(s.shape[1] + 1, 24).index_fill(0, torch.tensor(0), 1.0))
    for x in (MEANING, other): chapter.read_unseen(x.astype(np.float32), "arbitrary", "6x6x3", 150, 0)
    assert torch.equal(seen[0][1], seen[1][1])


def test_errors_of_a_grounded_code_are_related():
    tight = np.array(directions(np.repeat(MEANING[:60], 5, 0) + 0.05 * np.random.default_rng(2).standard_normal((300, 24))), np.float32)
    grounded = chapter.wrong_words(tight, Codebook.grounded(tight, "4x4x3"), -3.0, 0)
    chance = chapter.wrong_words(tight, Codebook.spherical(300, "4x4x3"), -3.0, 0)
    assert grounded[1] > 0.5 > 0.2 > abs(chance[1]) and grounded[0] > chance[0]  # meaning has a price


def test_words_with_equal_vectors_are_left_out_everywhere(monkeypatch):
    words = ["a", "b", "c"]
    monkeypatch.setattr(chapter, "features", lambda w, s: Features([[1, 0], [0, 1], [1, 0]]) if s == "minilm" else Features(np.eye(3)))
    real = chapter.targets(words, "minilm", ["clip"], "", "")
    assert words == ["a", "b"] and {x.shape for x in real.values()} == {(2, 2), (2, 3)}


def test_human_similarities_are_read_and_refused(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("".join(f"w{i}\tw{i + 1}\t{i}\n" for i in range(20)))
    pairs, scores = chapter.human_pairs(str(file), [f"w{i}" for i in range(30)])
    assert pairs.tolist()[3] == [3, 4] and scores[3] == 3
    for text, says in (("a b\n", "WORD WORD SCORE"), ("w0\tw1\t1\n", "only 1 pairs")):
        file.write_text(text)
        with pytest.raises(ValueError, match=says): chapter.human_pairs(str(file), ["w0", "w1"])
    with pytest.raises(ValueError, match="no file of similarities"): chapter.human_pairs(str(tmp_path / "none"), [])


def test_the_whole_experiment_runs_small(tmp_path):
    names = [*chapter.FIVE, *(f"w{i}" for i in range(115))]
    np.savez(tmp_path / "f.npz", features=np.random.default_rng(5).standard_normal((120, 30)) + 1, names=names)
    out = chapter.run(source="file", features_file=str(tmp_path / "f.npz"), shape="5x5x3", vocabularies=[5, 20], notes_size=30, rates=[0.01], epochs=200,
                      seeds=[0, 1, 2], candidates=120, trained=[60], noisy_db=-3.0)
    assert set(out.claims) == {"C18", "C19", "C20", "C21", "C22"} and out.claims["C20"]["verdict"] == "refuted"
    assert out.numbers["heldout_60_pca"].value > 0.9 > 0.2 > out.numbers["heldout_60_arbitrary"].value
    assert out.numbers["random_pair_raw"].value > 0.3 > abs(out.numbers["random_pair_centred"].value)


@pytest.mark.parametrize("wrong", [{"vocabularies": [50]}, {"seeds": [0]}, {"source": "file"}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(ValueError): chapter.run(**wrong)
