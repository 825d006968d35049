"""Laws of the learnt codes: shapes, seeds, and the difference that standardising makes."""
import pytest
import torch

from vtd.codecs import Codec


def train(codec, make, steps=60):
    optimiser, ids = make(codec.parameters()), torch.arange(codec.vocab_size)
    for _ in range(steps):
        optimiser.zero_grad()
        codec.loss(ids, torch.Generator().manual_seed(0)).backward()
        optimiser.step()
    return codec.metrics()["accuracy"]


@pytest.mark.parametrize("standardise", [True, False])
def test_signatures(standardise):
    codec = Codec(19, "3x4x2", standardise=standardise)
    ids = torch.randint(19, (2, 5))
    patterns = codec.encode(ids)
    assert patterns.shape == (2, 5, 3, 4, 2) and 0 <= patterns.min() and patterns.max() <= 1
    log_probabilities = codec.decode(patterns)
    assert log_probabilities.shape == (2, 5, 19)
    assert torch.allclose(log_probabilities.exp().sum(-1), torch.ones(2, 5), atol=1e-5)
    assert codec.loss(ids.flatten()).shape == ()


def test_the_same_seed_is_the_same_codec_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = Codec(9, seed=1), Codec(9, seed=1), Codec(9, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.patterns(), other.patterns())


def test_192_tokens_on_5x5x3_are_learnt():
    assert train(Codec(192, "5x5x3"), lambda p: torch.optim.Adam(p, 3e-3)) == 1.0


def test_plain_descent_needs_standardising():
    """The collapse of the notes, and what lifts it: same seed, same optimiser, same steps."""
    def make(parameters): return torch.optim.SGD(parameters, 0.1)
    assert train(Codec(192, "5x5x3", standardise=False), make) < 0.05
    assert train(Codec(192, "5x5x3"), make) > 0.9


def test_the_decoder_is_given_unit_variance_however_small_the_ripple():
    codec = Codec(64)
    x = codec.standardise(codec.patterns().flatten(1))
    assert codec.metrics()["pattern_sd"] < 0.05
    assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 0.05


def test_reading_never_changes_the_codec():
    codec = Codec(9)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    codec.decode(torch.rand(1, 5, 5, 3))
    codec.metrics()
    assert all(torch.equal(before[name], value) for name, value in codec.state_dict().items())


def test_one_token_at_a_time_can_be_trained():
    codec = Codec(9)
    loss = codec.loss(torch.tensor([3]))
    loss.backward()
    assert loss.isfinite() and codec.encoder.fc3.weight.grad.abs().sum() > 0


def test_a_trained_codec_travels_by_its_weights():
    codec = Codec(20, "3x3x3", seed=3)
    assert train(codec, lambda p: torch.optim.Adam(p, 3e-3)) == 1.0
    again = Codec(**codec.config)
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.patterns(), codec.patterns()) and again.metrics() == codec.metrics()


@pytest.mark.parametrize("call, says", [
    (lambda: Codec(9, encoder="gumbel"), "known: continuous"),
    (lambda: Codec(9, decoder="cnn"), "known: linear"),
    (lambda: Codec(1), "2 tokens"),
    (lambda: Codec(9, "5x5"), "8x8x3"),
    (lambda: Codec(9).encode(torch.tensor([9])), "0..8"),
    (lambda: Codec(9).encode(torch.tensor([-1])), "0..8"),
    (lambda: Codec(9).decode(torch.rand(5, 5, 1)), "5x5x3")])
def test_bad_input_is_one_line(call, says):
    with pytest.raises(ValueError, match=says) as error: call()
    assert "\n" not in str(error.value)
