"""The little world is what it says; text that cannot be used is refused in one line; counting is proper."""
import numpy as np
import pytest

from vtd.automata import log2_probability, sample_ids
from vtd.ngrams import NGram, best_ngram
from vtd.text import (
    TextError,
    Vocabulary,
    clip_bpe,
    little_world,
    split_words,
    text_corpus,
    vocabulary_of,
    windows,
)


def test_the_world_is_large_and_exact():
    world = little_world.automaton
    assert 150 <= len(world.symbols) - 1 <= 250 and world.count > 1_000_000
    ids = sample_ids(world, 4000, seed=3)
    lengths = (ids > 0).sum(1)
    assert lengths.min() >= 4 and lengths.max() <= 12
    surprise = -log2_probability(world, ids)
    assert abs(surprise.mean() - world.entropy_bits) < 4 * surprise.std() / len(surprise) ** 0.5


def test_thirty_six_words_of_the_notes_kind():
    words = set(little_world.vocabulary.tokens)
    assert words >= set("cat dog horse bird fish lion run walk jump fly swim dance red blue green yellow black white "
                        "big small tall short huge tiny car tree house book ball chair happy sad angry calm excited scared".split())


@pytest.mark.parametrize("good, bad", [
    ("the small fish swims in the lake", "the small stone swims in the lake"),
    ("these birds near the house sing quietly", "these birds near the house sings quietly"),
    ("an old tree grows slowly", "a old tree grows slowly"), ("the girl reads the book", "the lion reads the book"),
    ("the brown lion sleeps quietly", "the blue lion sleeps quietly"), ("the old car stops quickly", "the sad car stops quickly")])
def test_agreement_and_sense(good, bad): assert little_world.accepts(good) and not little_world.accepts(bad)


def test_words_that_cannot_stand_together_have_a_posterior():
    """A sampler may have written them."""
    ids = np.random.default_rng(0).integers(1, len(little_world.vocabulary), (64, 12))
    seen = np.full((*ids.shape, len(little_world.vocabulary)), -1e4)
    np.put_along_axis(seen, ids[..., None], 0.0, -1)
    belief = little_world.posterior(seen)
    assert np.isfinite(belief).all() and np.allclose(belief.sum(-1), 1)


def test_posterior_at_any_clock_is_calibrated():
    """Held to half-known evidence at mixed strengths, the posterior's mean log-score is that of a calibrated belief."""
    rng, ids = np.random.default_rng(0), sample_ids(little_world.automaton, 300, seed=9)
    strength = rng.choice([0.0, 1.0, 3.0, 30.0], ids.shape)[..., None]
    truth = np.eye(len(little_world.vocabulary))[ids]
    loglik = strength * (truth + rng.normal(0, 1, truth.shape) / np.sqrt(np.maximum(strength, 1e-9)))
    belief = little_world.posterior(loglik)
    assert np.allclose(belief.sum(-1), 1)
    expected = (belief * np.log(np.maximum(belief, 1e-300))).sum(-1)           # what it expects to score ...
    got = np.log(np.take_along_axis(belief, ids[..., None], -1)[..., 0])        # ... and what it scores
    gap = (got - expected).mean(1)
    assert abs(gap.mean()) < 3 * gap.std() / len(gap) ** 0.5


def write(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("data, says", [
    (b"", "is empty"), (b"  \n ", "is empty"), (b"PNG\0\0\1", "binary"), ("größe".encode("latin-1") * 50, "not UTF-8"),
    (b"too short a text", "need at least")])
def test_unusable_text_is_told_in_one_line(tmp_path, data, says):
    with pytest.raises(TextError) as error: text_corpus(write(tmp_path / "a.txt", data))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(TextError): text_corpus(str(path))


def test_held_out_text_does_not_choose_the_vocabulary(tmp_path):
    text = "one two three four " * 200 + "strange " * 60
    corpus = text_corpus(write(tmp_path / "a.txt", text.encode()), length=8)
    assert "strange" not in corpus.vocabulary.index and (corpus.valid == corpus.vocabulary.index["<unk>"]).any()


def test_windows_do_not_overlap_across_the_split():
    train, valid = windows(np.arange(1000), 10)
    assert train.max() < valid.min()


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_encode_decode_round_trip(kind):
    if kind == "bpe": pytest.importorskip("open_clip", reason="CLIP's merge table comes with the clip extra")
    text = "the small fish swims, quickly" if kind != "char" else "the small fish swims"
    vocabulary = vocabulary_of(text, kind)
    assert vocabulary.decode(vocabulary.encode(text)).replace(" ,", ",") == text


def test_clip_bpe_is_clips_own():
    open_clip = pytest.importorskip("open_clip", reason="CLIP's tokenizer comes with the clip extra")
    theirs = open_clip.SimpleTokenizer()
    for text in ("A photo of a cat!", "naïve café, isn't it?", "the year 2026", "hello_world  &  co"):
        assert clip_bpe().encode(text).ids == theirs.encode(text), text
    assert clip_bpe().get_vocab_size() == 49_408


def test_strict_encoding_names_near_words():
    with pytest.raises(TextError, match="fish"): Vocabulary(split_words("the fish swims")).encode("the fihs", strict=True)


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
def test_ngram_probabilities_sum_to_one(smoothing):
    ids = np.random.default_rng(0).integers(0, 5, 400)
    for order in (1, 2, 3):
        model = NGram(ids, 5, order, smoothing)
        total = sum(2 ** -model.bits(np.array([3, 1, c]))[-1] for c in range(5))
        assert abs(total - 1) < 1e-9


def test_more_context_helps_in_the_world():
    found = best_ngram(little_world.corpus(5_000, 500))
    assert found["3-gram kneser-ney"] < found["2-gram kneser-ney"] < found["1-gram kneser-ney"]
