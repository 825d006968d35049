"""Token files: the same tokens as in memory, whole or not at all, and hardly any memory."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vtd.codecs import Codec
from vtd.recipes import Recipe, train
from vtd.text import TextError, Vocabulary, little_world, split_words, text_corpus, vocabulary_of
from vtd.tokens import TokenFile, count_words, stream_corpus, text_pieces, write_tokens
from vtd.training import fit

TEXT = "\ufeff" + "\n".join(little_world.sample(300)) + "\nΣΊΣΥΦΟΣ rolls, 3 × größer!\t“Why?” — it's   so\r\n(def) ghi\n" * 40
MARKED = TEXT.encode()


@pytest.mark.parametrize("kind", ["word", "char"])
@pytest.mark.parametrize("piece", [7, 64, 1000, 1 << 20])
def test_cut_in_pieces_is_cut_the_same(tmp_path, kind, piece):
    """Wherever the pieces end: within a letter of two bytes, between blanks, in the mark at the start."""
    (tmp_path / "a.txt").write_bytes(MARKED)
    vocabulary = vocabulary_of(TEXT, kind, 60)
    count = write_tokens(tmp_path / "a.tokens", text_pieces(tmp_path / "a.txt", piece), vocabulary)
    file = TokenFile(tmp_path / "a.tokens", 5)
    assert np.array_equal(file.stream, vocabulary.encode(TEXT.lstrip("\ufeff"))) and len(file) == count - 4
    assert file.vocabulary.tokens == vocabulary.tokens and file.vocabulary.kind == kind


def test_windows_are_those_of_the_stream_and_the_file_is_safetensors(tmp_path):
    words = [f"w{n}" for n in range(70_000)]  # more than two bytes can number
    write_tokens(tmp_path / "t", [" ".join(words)], Vocabulary(words))
    file = TokenFile(tmp_path / "t", 4, first=10, last=69_000)
    assert file.stream.dtype == np.uint32 and file.shape == (68_987, 4)
    assert np.array_equal(file[[0, 500]], [range(10, 14), range(510, 514)]) and file[-1].tolist() == list(range(68_996, 69_000))
    with safe_open(tmp_path / "t", "np") as found: assert np.array_equal(found.get_tensor("tokens"), np.arange(70_000))


def test_nothing_is_left_half_written(tmp_path):
    """Ctrl-C or an unknown token in the middle: no file, or the old one."""
    vocabulary = Vocabulary(split_words("the cat sees"))

    def broken(error):
        yield "the cat"
        raise error
    for error in (KeyboardInterrupt(), OSError("gone")):
        with pytest.raises(type(error)): write_tokens(tmp_path / "t", broken(error), vocabulary)
        assert list(tmp_path.iterdir()) == []
    write_tokens(tmp_path / "t", ["the cat sees"], vocabulary)
    before = (tmp_path / "t").read_bytes()
    for texts, says in ((["the dog"], "dog"), (["", " "], "no token")):
        with pytest.raises(TextError, match=says): write_tokens(tmp_path / "t", texts, vocabulary)
    assert (tmp_path / "t").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t"]


def test_other_files_are_told(tmp_path):
    write_tokens(tmp_path / "t", ["the cat sees"], Vocabulary(split_words("the cat sees")))
    (tmp_path / "short").write_bytes((tmp_path / "t").read_bytes()[:-1])
    (tmp_path / "text").write_text("some plain words, no more")
    for name, length, says in (("none", 2, "no token file"), ("short", 2, "truncated"), ("text", 2, "is no token file"), ("t", 4, "windows need 4")):
        with pytest.raises(TextError, match=says): TokenFile(tmp_path / name, length)
    for data, says in ((b"PNG\0\0", "binary"), ("größe ".encode("latin-1") * 9, "not UTF-8"), ("so groß".encode()[:-1], "not UTF-8")):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(TextError, match=says): list(text_pieces(tmp_path / "bad"))


def test_a_streamed_corpus_is_the_corpus_in_memory(tmp_path):
    """The same vocabulary, training windows and held-out windows where nine tenths of the bytes hold the words of nine tenths of the tokens."""
    (tmp_path / "a.txt").write_text("\n".join(little_world.sample(3000)))
    whole = text_corpus(str(tmp_path / "a.txt"), length=9)
    corpus, file = stream_corpus(str(tmp_path / "a.txt"), tmp_path / "a.tokens", length=9)
    assert set(corpus.vocabulary.tokens) == set(whole.vocabulary.tokens)
    same = [whole.vocabulary.index[t] for t in corpus.vocabulary.tokens]
    assert np.array_equal(np.array(same)[file[:]], whole.train) and np.array_equal(np.array(same)[corpus.valid], whole.valid)
    assert np.allclose(corpus.unigram, whole.unigram[same])


def test_a_run_on_a_token_file_is_the_run_on_its_windows(tmp_path):
    words = [f"w{n}" for n in range(20)]
    write_tokens(tmp_path / "t", [" ".join(words * 5)], Vocabulary(words))
    pairs, ends = TokenFile(tmp_path / "t", 2), []
    for data in (pairs, pairs[:]):
        ends.append(Codec(20, "3x4x3"))
        fit(ends[-1], data, steps=12, batch=8, progress=False)
    assert all(torch.equal(v, ends[1].state_dict()[k]) for k, v in ends[0].state_dict().items())


def test_a_hub_data_set_streams_from_disk(tmp_path):
    """The real library on a local data set; a column that is not there is told."""
    datasets = pytest.importorskip("datasets")
    rows = little_world.sample(400)
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "set" / "train.parquet")
    corpus, file = stream_corpus(f"hf:{tmp_path / 'set'}", tmp_path / "t", length=8)
    assert np.array_equal(file.stream, np.array(corpus.vocabulary.encode("\n".join(rows)))[: len(file.stream)])
    assert set(corpus.vocabulary.tokens) == set(count_words(rows[:360]).tokens)


def test_the_recipe_streams_by_request(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(little_world.sample(500)))
    recipe = Recipe(text=str(tmp_path / "a.txt"), length=8, width=16, layers=1, steps=3, batch=4, chain=False, stream=True)
    said = []
    model = train(recipe, tmp_path / "m.st", device="cpu", progress=False, say=said.append)
    assert "TokenFile" in said[0] and model.length == 8 and not (tmp_path / "m.st.checkpoint").exists()
    assert recipe.fingerprint != Recipe(**{**recipe.told, "stream": False}).fingerprint


MEASURE = """
import resource, sys
import numpy as np
from vtd.text import vocabulary_of
from vtd.tokens import TokenFile, text_pieces, write_tokens
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_tokens("big.tokens", text_pieces("big.txt"), vocabulary_of("", "char"))
file = TokenFile("big.tokens", 64)
rows = np.random.default_rng(0).integers(len(file), size=(100, 16))
print(sum(int(file[r].sum()) for r in rows) > 0, len(file.stream), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """24 MB of text: in memory its characters would take some hundred MB as strings and ids."""
    line = " ".join(little_world.sample(1000)).encode() + b"\n"
    with open(tmp_path / "big.txt", "wb") as file:
        for _ in range(24_000_000 // len(line)): file.write(line)
    env = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[1]))}
    found = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True" and int(found[1]) > 20_000_000
    assert int(found[2]) < 200_000  # kB, pages of the mapped file included; ids alone would take 160 MB, a list of them twice that
