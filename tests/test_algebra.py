"""Laws of the algebra: binding is a ring whose unitary elements turn without stretching, and theory says what fits in a grid."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vtd import algebra as al
from vtd.codes import Codebook, add_noise

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
few = settings(deadline=None, max_examples=40)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(SHAPES, st.integers(0, 10**6))
def test_binding_commutes_associates_and_distributes(shape, seed):
    a, b, c = draw(3, *shape, seed=seed)
    assert torch.allclose(al.bind(a, b), al.bind(b, a))
    assert torch.allclose(al.bind(al.bind(a, b), c), al.bind(a, al.bind(b, c)))
    assert torch.allclose(al.bind(al.superpose(a, b), c), al.superpose(al.bind(a, c), al.bind(b, c)))
    nothing = torch.zeros(shape, dtype=torch.float64)
    nothing[0, 0, 0] = 1  # the unit: a grid that moves nothing
    assert torch.allclose(al.bind(a, nothing), a)


def test_binding_is_the_convolution_on_the_torus_that_is_written_out():
    H, W, C = shape = (3, 4, 2)
    a, b = draw(2, *shape)
    wanted = torch.zeros(shape, dtype=torch.float64)
    for y in range(H):
        for x in range(W):
            for c in range(C):
                for i in range(H):
                    for j in range(W):
                        for k in range(C): wanted[y, x, c] += a[i, j, k] * b[(y - i) % H, (x - j) % W, (c - k) % C]
    assert torch.allclose(al.bind(a, b), wanted)


@few
@given(SHAPES, st.integers(0, 10**6))
def test_unitary_grids_turn_without_stretching_and_turn_back_exactly(shape, seed):
    keys = al.unitary("x".join(map(str, shape)), 2, seed)
    a = draw(5, *shape, seed=seed + 1)
    bound = al.bind(a, keys[0])
    assert torch.allclose(bound.square().sum((1, 2, 3)), a.square().sum((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(al.unbind(bound, keys[0]), a, atol=1e-4)
    assert torch.allclose((al.forth(keys).abs()), torch.ones(1), atol=1e-4)


@few
@given(SHAPES, st.integers(0, 10**6))
def test_any_grid_without_a_hole_in_its_spectrum_can_be_unbound(shape, seed):
    a, r = draw(2, *shape, seed=seed)
    nothing = torch.zeros(shape, dtype=torch.float64)
    nothing[0, 0, 0] = 3
    r = r / r.abs().sum() + nothing  # its spectrum lies between 2 and 4
    assert torch.allclose(al.unbind(al.bind(a, r), r), a)


def test_what_a_grid_lacks_cannot_be_unbound_and_does_not_explode():
    flat = torch.ones(4, 4, 3)  # nothing but its mean
    a = draw(4, 4, 3).float()
    back = al.unbind(al.bind(a, flat), flat)
    assert torch.isfinite(back).all() and torch.allclose(back, a.mean().expand(4, 4, 3), atol=1e-5)


def test_wieners_filter_beats_plain_division_where_there_is_more_in_the_grid():
    book, keys = Codebook.gaussian(500, "8x8x3"), draw(6, 8, 8, 3, seed=3).float()
    signals = book.signal.unflatten(-1, (8, 8, 3))
    ids = torch.arange(6)
    held = al.superpose(*al.bind(signals[ids], keys))
    right = [(al.cleanup(al.unbind(held, keys, noise), book) == ids).sum() for noise in (0.0, 5.0)]
    assert right[1] > right[0]


@few
@given(SHAPES, st.integers(0, 10**6), st.integers(0, 99))
def test_permuting_is_undone_with_the_same_key_only(shape, seed, key):
    a = draw(2, *shape, seed=seed)
    mixed = al.permute(a, key)
    assert torch.equal(al.permute(mixed, key, back=True), a)
    assert torch.equal(mixed.flatten(1).sort(1).values, a.flatten(1).sort(1).values)
    if a[0].numel() > 9: assert not torch.equal(al.permute(mixed, key + 1, back=True), a)


@few
@given(SHAPES, st.integers(0, 10**6), st.floats(0, 1))
def test_a_blend_lies_between_and_a_map_of_zeros_and_ones_chooses(shape, seed, share):
    a, b = draw(2, *shape, seed=seed)
    mixed = al.blend(a, b, share)
    assert (mixed <= torch.maximum(a, b) + 1e-9).all() and (mixed >= torch.minimum(a, b) - 1e-9).all()
    for m in (al.halves("x".join(map(str, shape))), al.checkerboard("x".join(map(str, shape)))):
        chosen = al.blend(a, b, m)
        assert torch.equal(chosen[m == 1], a[m == 1]) and torch.equal(chosen[m == 0], b[m == 0])
        assert torch.allclose(al.blend(a, b, m) + al.blend(b, a, m), a + b)
    assert torch.allclose(a + al.difference(a, b), b)
    assert all(torch.equal(x, y) for x, y in zip(al.apart(al.beside(a, b), 2), (a, b), strict=True))


def books():
    features = draw(60, 40).numpy()
    return [Codebook.spherical(60, "4x4x3"), Codebook.gaussian(60, "4x4x3"), Codebook.glyph([f"w{i}" for i in range(60)]),
            Codebook.grounded(features, "4x4x3"), Codebook.one_hot(27, "3x3x3")]


@pytest.mark.parametrize("book", books(), ids=lambda b: b.name)
def test_cleaning_up_a_clean_grid_is_exact(book):
    ids = torch.arange(book.vocab_size)
    signals = book.signal.unflatten(-1, tuple(book.shape))
    assert torch.equal(al.cleanup(signals, book), ids) and torch.equal(al.cleanup(book.patterns, book), ids)
    assert torch.equal(al.cleanup(0.2 * signals - 3, book), ids)  # brightness and contrast do not matter
    assert int(al.cleanup(book.patterns[3], book)) == 3
    assert al.cleanup(signals[None, None, :5], book).shape == (1, 1, 5)


def test_patterns_bound_by_patterns_come_back():
    fillers, roles = Codebook.gaussian(200, "8x8x3", seed=1), Codebook.binary(4, "8x8x3", seed=2).patterns
    for i in range(20): assert int(al.cleanup(al.unbind(al.bind(fillers.patterns[i], roles[i % 4]), roles[i % 4]), fillers)) == i


def test_role_grids_have_nothing_in_common_with_a_codebook_of_the_same_seed():
    for seed in range(4):
        book, keys = Codebook.spherical(8, "8x8x3", seed), al.unitary("8x8x3", 8, seed)
        spectra = al.forth(book.signal.unflatten(-1, (8, 8, 3)))
        phases = (al.forth(keys).flatten(1) @ (spectra / spectra.abs()).conj().flatten(1).T).abs() / spectra[0].numel()
        assert phases.max() < 0.4  # 1 if the keys are the codewords with their moduli evened out


def test_a_sentence_gives_back_what_it_holds_and_no_order_is_lost():
    book = Codebook.spherical(300, "8x8x3")
    sentence = al.Sentence(book, ["subject", "verb", "object"], seed=4)
    ids = torch.randint(300, (3, 50), generator=torch.Generator().manual_seed(1))
    grid = sentence.write(dict(zip(sentence.roles, ids, strict=True)))
    assert grid.shape == (50, 8, 8, 3)
    for rounds in (0, 4): assert torch.equal(torch.stack(list(sentence.read_all(grid, rounds).values())), ids)
    turned = sentence.write({"object": ids[0], "verb": ids[1], "subject": ids[2]})
    assert torch.equal(sentence.read(turned, "object"), ids[0]) and torch.equal(sentence.read(turned[7], "subject"), ids[2, 7])
    part = sentence.write({"verb": 7})
    assert int(sentence.read(part, "verb")) == 7 and torch.allclose(part.square().mean(), book.signal[7].square().mean(), rtol=1e-4)
    assert torch.equal(al.Sentence(book, sentence.roles, seed=4).keys, sentence.keys)
    assert "<svg" in sentence._repr_svg_() and len(sentence.take_apart(grid[0]).patterns) == 7


def test_without_roles_the_order_is_lost():
    signals = Codebook.spherical(30, "8x8x3").signal.unflatten(-1, (8, 8, 3))
    assert torch.allclose(al.superpose(*signals[[3, 1, 4]]), al.superpose(*signals[[4, 3, 1]]), atol=1e-5)


def test_reading_together_reads_more():
    book = Codebook.spherical(200, "8x8x3")
    sentence = al.Sentence(book, range(16), seed=2)
    ids = torch.randint(200, (16, 20), generator=torch.Generator().manual_seed(1))
    grid = sentence.write(dict(zip(sentence.roles, ids, strict=True)))
    alone, joint = ((torch.stack(list(sentence.read_all(grid, rounds).values())) == ids).float().mean() for rounds in (0, 10))
    assert joint > 0.99 > 0.9 > alone
    small = al.together(sentence, grid, 10, piece=1)
    assert torch.equal(small, al.together(sentence, grid, 10))


@pytest.mark.parametrize("items, shape, vocab_size", [(3, "8x8x3", 50), (6, "4x4x3", 100), (12, "8x8x3", 1000), (48, "16x16x3", 300)])
@pytest.mark.parametrize("levels", [None, 2])
def test_theory_says_what_is_measured(items, shape, vocab_size, levels):
    book, right, n = Codebook.spherical(vocab_size, shape), 0, 0
    for seed in range(8):
        sentence = al.Sentence(book, range(items), seed)
        ids = torch.randint(vocab_size, (items, max(4, 400 // items)), generator=torch.Generator().manual_seed(seed))
        grid = sentence.write(dict(zip(sentence.roles, ids, strict=True)))
        if levels: grid = al.from_picture(al.quantise(al.to_picture(grid, items), levels), items)
        right += int((torch.stack(list(sentence.read_all(grid).values())) == ids).sum())
        n += ids.numel()
    p = al.recovery_theory(items, book.shape.cells, vocab_size, levels)
    assert abs(right / n - p) < 0.02 + 4 * math.sqrt(p * (1 - p) / n)


def test_other_words_are_gaussian_noise():
    book, generator = Codebook.spherical(100, "4x4x3"), torch.Generator().manual_seed(5)
    ids = torch.randint(100, (20_000,), generator=generator)
    noisy = add_noise(book, ids, -10 * math.log10(5), generator).unflatten(-1, (4, 4, 3))
    share = float((al.cleanup(noisy, book) == ids).float().mean())
    assert abs(share - al.recovery_theory(6, 48, 100)) < 0.02  # five others, each of power 1


def test_theory_at_its_ends():
    assert al.recovery_theory(1, 192, 1000) == 1.0
    chances = [al.recovery_theory(k, 192, 1000) for k in (1, 2, 3, 6, 12, 24, 48, 1000)]
    assert chances == sorted(chances, reverse=True) and abs(al.recovery_theory(10**6, 192, 10) - 0.1) < 0.02
    assert al.recovery_theory(12, 192, 1000) > al.recovery_theory(12, 192, 1000, 256) - 1e-3 > al.recovery_theory(12, 192, 1000, 8) > al.recovery_theory(12, 192, 1000, 2)
    assert abs(al.fidelity(2) - 2 / math.pi) < 1e-4 and al.fidelity(256) > 0.99  # Bussgang; a fine grid loses nothing
    with pytest.raises(ValueError, match="holds 1 word or more"): al.recovery_theory(0, 192, 10)


def test_pictures_go_there_and_back():
    x = draw(4, 4, 3).float()
    assert torch.allclose(al.from_picture(al.to_picture(x, 4.0), 4.0), x, atol=1e-5)
    for levels in (2, 3, 8, 256):
        q = al.quantise(al.to_picture(x), levels)
        assert len(q.unique()) <= levels and (q - al.to_picture(x)).abs().max() <= 0.5 / (levels - 1) + 1e-6
        assert torch.equal(al.quantise(q, levels), q)


def test_a_connection_net_learns_a_map_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    net = al.ConnectionNet(5, "4x4x3", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    x, wanted = draw(40, 5).float(), al.halves("4x4x3")[None, :, :, None]
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        adam.zero_grad()
        loss = (net(x, x.flip(0)) - wanted).square().mean()
        loss.backward()
        adam.step()
    m = net(x, x.flip(0))
    assert m.shape == (40, 4, 4, 1) and loss < 0.02 and al.blend(torch.zeros(40, 4, 4, 3), torch.ones(40, 4, 4, 3), m).shape == (40, 4, 4, 3)


BOOK = Codebook.spherical(5, "4x4x3")


@pytest.mark.parametrize("wrong, says", [
    (lambda: al.superpose(), "there is no grid here"),
    (lambda: al.bind(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3)), "differ in shape: 4x4x3 and 4x5x3"),
    (lambda: al.bind(torch.zeros(2, 4, 4, 3), torch.zeros(3, 4, 4, 3)), r"batches of \(2,\) and \(3,\) grids"),
    (lambda: al.superpose(torch.full((4, 4, 3), math.nan)), "holds NaN or infinity"),
    (lambda: al.unbind(torch.zeros(4, 4), torch.zeros(4, 4)), "a grid is"),
    (lambda: al.unbind(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), -1.0), "noise is a ratio"),
    (lambda: al.blend(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), torch.ones(3, 3)), "a connection map for"),
    (lambda: al.blend(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), 2.0), "lies in"),
    (lambda: al.blend(torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), math.nan), "lies in"),
    (lambda: al.apart(torch.zeros(4, 5, 3), 2), "not 2 of equal width"),
    (lambda: al.quantise(torch.zeros(4, 4, 3), 1), "2 levels or more"),
    (lambda: al.unitary("4x4x3", 0), "how many grids"),
    (lambda: al.cleanup(torch.zeros(5, 5, 3), BOOK), "has 4x4x3 grids, got 5x5x3"),
    (lambda: al.Sentence(BOOK, []), "one or more"),
    (lambda: al.Sentence(BOOK, ["a", "a"]), "names of their own"),
    (lambda: al.Sentence(BOOK, ["a", "b"]).read(torch.zeros(4, 4, 3), "c"), "no role 'c'; it has a, b"),
    (lambda: al.Sentence(BOOK, ["a"]).write({"a": 5}), r"lie in 0..4, those of 'a' in 5..5"),
    (lambda: al.Sentence(BOOK, ["a"]).write({}), "needs a filler"),
    (lambda: al.Sentence(BOOK, ["a"]).read_all(torch.zeros(4, 4, 1), 3), "has 4x4x3 grids"),
    (lambda: al.Sentence(BOOK, ["a"]).read_all(torch.zeros(4, 4, 3), -1), "1 round or more"),
    (lambda: al.ConnectionNet(3)(torch.zeros(2, 3), torch.zeros(2, 4)), "two lots of vectors"),
])
def test_what_is_wrong_is_said_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as error: wrong()
    assert "\n" not in str(error.value)
