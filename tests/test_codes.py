"""Laws of codebooks: no two tokens share a grid, reading is exact, and files say what is wrong with them."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vtd.codes import Codebook, directions, from_signal, grounding, nearest_codeword, symbol_error
from vtd.grids import GridShape, load_png, save_png

WORDS = "a the cat sees birds naïve “ ” ’ 日本 ␣ , .".split() + [" ", "", "<pad>", "a ", " a"]
SMALL = GridShape(4, 4, 3)


MEANINGS = np.random.default_rng(0).standard_normal((40, 60))


def each():
    return [Codebook.binary(40, SMALL), Codebook.gaussian(40, SMALL), Codebook.spherical(40, SMALL), Codebook.one_hot(40, SMALL),
            Codebook.glyph(WORDS), Codebook.grounded(MEANINGS, SMALL), Codebook.hybrid(MEANINGS, 0.5, SMALL),
            Codebook.learned(40, SMALL, steps=20)]


@pytest.mark.parametrize("book", each(), ids=lambda b: b.name)
def test_every_token_reads_back_through_an_image(book, tmp_path):
    ids = torch.randint(book.vocab_size, (1000,), generator=torch.Generator().manual_seed(0))
    save_png(tmp_path / "page.png", book.patterns[ids].numpy())
    patterns, _ = load_png(tmp_path / "page.png")
    assert torch.equal(torch.from_numpy(patterns), book.patterns[ids])  # codebooks are made of 8-bit steps
    assert torch.equal(book.nearest(torch.from_numpy(patterns)), ids)


@pytest.mark.parametrize("book", each(), ids=lambda b: b.name)
def test_the_signal_is_centred_of_unit_power_and_goes_back(book):
    assert book.signal.mean(0).abs().max() < 1e-5 and abs(book.signal.square().mean() - 1) < 1e-5
    assert torch.allclose(book.to_patterns(book.signal), book.patterns, atol=1e-5)
    assert torch.allclose(book.to_signal(book.patterns), book.signal)
    assert book.to_patterns(book.signal[None] * 9).amax() <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 70), st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_nearest_is_exact_however_it_is_cut_up(V, N, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codewords, x = (torch.randn(n, 12, generator=generator) for n in (V, N))
    ids = nearest_codeword(x, codewords, rows, columns)
    distances = torch.cdist(x.double(), codewords.double()) if N else torch.zeros(0, V)
    assert ids.shape == (N,)
    if N: assert torch.allclose(distances.gather(1, ids[:, None])[:, 0], distances.amin(1), atol=1e-5)


def test_nearest_never_builds_the_whole_table(monkeypatch):
    sizes, times = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda h, a, b, **k: sizes.append(len(a) * b.shape[1]) or times(h, a, b, **k))
    nearest_codeword(torch.randn(5000, 4), torch.randn(20_000, 4))
    assert sum(sizes) >= 5000 * 20_000 and max(sizes) <= 16384 * 1024


def test_nearest_keeps_leading_dimensions():
    book = Codebook.binary(9, SMALL)
    ids = torch.arange(9).view(3, 1, 3)
    assert torch.equal(book.nearest(book.patterns[ids]), ids)
    assert book.nearest(book.patterns[4]).item() == 4


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 4, 1), torch.zeros(4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8),
                                 torch.full((4, 4, 3), torch.nan)])
def test_what_cannot_be_read_is_refused(bad):
    with pytest.raises(ValueError): Codebook.binary(9, SMALL).nearest(bad)


@given(st.integers(1, 12), st.integers(0, 5))
def test_a_full_grid_is_used_to_the_last_pattern(cells, seed):
    book = Codebook.binary(2**cells, GridShape(1, cells, 1), seed)
    assert len(book.patterns.flatten(1).unique(dim=0)) == 2**cells


@pytest.mark.parametrize("make, wanted", [
    (lambda: Codebook.binary(65, GridShape(2, 3, 1)), "3x3x1"),
    (lambda: Codebook.one_hot(193), "9x9x3"),
    (lambda: Codebook.glyph(["x" * 50, "y"], "8x8x3"), "10x10x3"),
    (lambda: Codebook.gaussian(10_000, GridShape(1, 1, 1)), "take")])
def test_a_grid_too_small_names_one_that_would_do(make, wanted):
    with pytest.raises(ValueError, match=wanted) as error: make()
    assert "\n" not in str(error.value)


def test_the_named_grids_do():
    Codebook.binary(65, "3x3x1"), Codebook.one_hot(193, "9x9x3"), Codebook.glyph(["x" * 50, "y"], "10x10x3")


def test_two_tokens_with_one_grid_are_named():
    patterns = torch.rand(5, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    patterns[3] = patterns[1] + 1e-5  # the same to eight bits
    with pytest.raises(ValueError, match="token 1 and token 3"): Codebook(patterns.clamp(0, 1))
    assert Codebook(patterns.clamp(0, 1), check=False).vocab_size == 5
    with pytest.raises(ValueError, match="'cat' and 'cat'"): Codebook.glyph(["cat", "dog", "cat"])


@pytest.mark.parametrize("patterns", [torch.zeros(1, 2, 2, 3), torch.zeros(4, 2, 2), torch.full((2, 2, 2, 3), 2.0),
                                      torch.full((2, 2, 2, 3), torch.nan)])
def test_what_is_no_codebook_is_refused(patterns):
    with pytest.raises(ValueError): Codebook(patterns, check=False)


def test_a_seed_is_a_codebook_and_another_seed_another():
    for make in (Codebook.binary, Codebook.gaussian):
        assert make(50, SMALL, 1).fingerprint == make(50, SMALL, 1).fingerprint != make(50, SMALL, 2).fingerprint


@pytest.mark.parametrize("book", [*each(), Codebook(torch.rand(5, 2, 2, 2, generator=torch.Generator().manual_seed(1)),
                                                    "learnt", 7, {"words": ["é"]})], ids=lambda b: b.name)
def test_a_saved_codebook_comes_back(book, tmp_path):
    book.save(tmp_path / "book.safetensors")
    again = Codebook.load(tmp_path / "book.safetensors")
    assert torch.equal(again.patterns, book.patterns) and again.fingerprint == book.fingerprint
    assert (again.name, again.seed, again.meta) == (book.name, book.seed, book.meta)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "foreign", "changed"])
def test_a_damaged_codebook_is_one_line(tmp_path, kind):
    path = tmp_path / "book.safetensors"
    Codebook.binary(9, SMALL).save(path)
    data = path.read_bytes()
    if kind == "missing": path.unlink()
    if kind == "empty": path.write_bytes(b"")
    if kind == "text": path.write_text("no codebook")
    if kind == "cut": path.write_bytes(data[:-5])
    if kind == "foreign": save_file({"weight": torch.zeros(3)}, path)
    if kind == "changed": path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError) as error: Codebook.load(path)
    assert "\n" not in str(error.value)


def test_noise_misleads_as_theory_says():
    """Two tokens: the error is the Gaussian tail beyond half their distance."""
    book = Codebook(torch.stack([torch.zeros(2, 2, 3), torch.ones(2, 2, 3)]))
    half = book.shape.cells**0.5  # the two signals are +1 and -1 in every cell
    for snr_db in (-15, -10, -6):
        expected = 0.5 * float(torch.erfc(torch.tensor(half * 10 ** (snr_db / 20) / 2**0.5)))
        assert symbol_error(book, snr_db, 40_000) == pytest.approx(expected, abs=4 * (expected / 40_000) ** 0.5)


def test_patterns_are_plain_numbers_for_numpy():
    assert np.asarray(Codebook.binary(9, SMALL).patterns).dtype == np.float32


@pytest.mark.parametrize("centred", [True, False])
def test_distances_of_grounded_grids_are_those_of_cosines(centred):
    rng = np.random.default_rng(1)
    features = rng.standard_normal((200, 40)) + 3 * (not centred)  # few enough numbers to fit into 48 cells whole
    book = Codebook.grounded(features, SMALL, centred=centred)
    x = features - features.mean(0) if centred else features
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    wanted, got = torch.pdist(torch.from_numpy(x).float()), torch.pdist(book.signal)
    assert np.corrcoef(wanted, got)[0, 1] > 0.9995


def test_a_grounding_fitted_on_some_words_writes_others():
    features = directions(np.random.default_rng(2).standard_normal((100, 30)))
    write = grounding(features[:60], SMALL, method="whitened")
    seen = write(features[:60])
    assert seen.shape == (60, 48) and np.allclose(seen @ seen.T, write(features)[:60] @ write(features)[:60].T, atol=1e-4)
    inside = np.linalg.svd(seen - seen.mean(0), compute_uv=False)
    assert np.allclose(inside[:29], inside[0], rtol=1e-3) and (inside[30:] < 1e-3 * inside[0]).all()  # equal power, no more directions than there are


@pytest.mark.parametrize("method", ["pca", "half-whitened", "whitened", "random"])
def test_words_with_one_meaning_are_named(method):
    twins = np.vstack([MEANINGS, MEANINGS[:1]])
    with pytest.raises(ValueError, match="'w0' and 'again'"):
        Codebook.grounded(twins, SMALL, method=method, tokens=[*(f"w{i}" for i in range(40)), "again"])


def test_a_hybrid_goes_from_chance_to_meaning():
    same = lambda book: float(torch.corrcoef(torch.stack([torch.pdist(book.signal), near]))[0, 1])  # noqa: E731
    near = torch.pdist(Codebook.grounded(MEANINGS, SMALL).signal)
    likeness = [same(Codebook.hybrid(MEANINGS, w, SMALL, method="pca")) for w in (0.0, 0.5, 1.0)]
    assert likeness[0] < 0.2 < likeness[1] < likeness[2] and likeness[2] > 0.9
    for w in (-0.1, 1.1):
        with pytest.raises(ValueError, match="share of power"): Codebook.hybrid(MEANINGS, w, SMALL)


def test_learned_codewords_are_farther_apart_than_random_ones():
    gap = lambda book: float(torch.pdist(book.signal).min())  # noqa: E731
    for words in (5, 60): assert gap(Codebook.learned(words, "3x3x3")) > gap(Codebook.spherical(words, "3x3x3")) + 0.5
    assert torch.equal(Codebook.learned(9, SMALL, seed=3).patterns, Codebook.learned(9, SMALL, seed=3).patterns)


def test_spherical_codewords_have_one_length():
    lengths = Codebook.spherical(500).signal.norm(dim=1)
    assert lengths.std() < 0.02 * lengths.mean()


@pytest.mark.parametrize("make, says", [
    (lambda: Codebook.grounded(np.ones((4, 9))), "the same for all words"),
    (lambda: Codebook.grounded(np.full((4, 9), np.nan)), "NaN"),
    (lambda: Codebook.grounded(MEANINGS, method="pea"), "pca, half-whitened, whitened or random"),
    (lambda: from_signal(torch.zeros(3, 192), "8x8x3", "x"), "all 0"),
    (lambda: from_signal(torch.randn(3, 10), "8x8x3", "x"), "192"),
    (lambda: Codebook.spherical(100, "1x1x1"), "take")])
def test_what_gives_no_codebook_is_one_line(make, says):
    with pytest.raises(ValueError, match=says) as error: make()
    assert "\n" not in str(error.value)
