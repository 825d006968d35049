"""Ways to a code that is robust and meaningful at once, side by side: writes results/benchmarks/code-search.json.

    python benchmarks/code_search.py [--words 49408] [--trials 10000]

Every candidate gives 49,408 words 192 cells. Measured on the same words and noise: decibels over the cone converse at one error in a
hundred, and at -7 dB the mean cosine of the wrong word to the right one (centred MiniLM features). The chapter on channel codes holds the
mixtures with seeds and intervals; here stand the candidates that were tried beside them and not kept. One seed.
"""
import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtd import lab
from vtd.bounds import cone_converse, needed_snr
from vtd.chapters.channel_codes import STEP, TARGET, cross, mistakes
from vtd.codebook import Codebook
from vtd.codes import add_noise, directions, even, from_signal, grounding, mixture
from vtd.features import common_words, features

OUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "code-search.json"
CELLS, NOISY, QUIET = 192, -7.0, -5.5
Reader = Callable[[Codebook, float, int, int], tuple[Tensor, Tensor]]


def neighbours(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and ids `(V, k)` of every word's most similar words, features `x (V, D)` of unit length."""
    found = [(part @ x.T).topk(k + 1, 1) for part in x.split(512)]
    return torch.cat([f.values[:, 1:] for f in found]), torch.cat([f.indices[:, 1:] for f in found])


def spread_over_graph(x: Tensor, near: tuple[Tensor, Tensor], share: float, power: float = 3.0) -> Tensor:
    """Random codewords, each the sum of its neighbours' (weights cosine to the `power`), mixed with another random code."""
    chance = torch.randn(len(x), CELLS, generator=torch.Generator().manual_seed(0))
    weights = near[0].clamp_min(0) ** power
    summed = torch.cat([chance[at : at + 1024] + torch.bmm(weights[at : at + 1024, None], chance[near[1][at : at + 1024]])[:, 0] for at in range(0, len(x), 1024)])
    other = torch.randn(len(x), CELLS, generator=torch.Generator().manual_seed(5))
    return even(math.sqrt(share) * even(summed) + math.sqrt(1 - share) * even(other))


def slope(distance: Tensor, snr_db: float) -> Tensor:
    """Derivative, up to a factor, of the chance to confuse two codewords by their squared distance."""
    sigma = 10 ** (-snr_db / 20)
    return -torch.exp(-distance.square() / (8 * sigma * sigma)) / (sigma * distance)


def push(signal: Tensor, near: tuple[Tensor, Tensor], price: float, floor: float) -> Tensor:
    """The gradient `(V, cells)` of: price times errors when it is quiet, less the worth (cosine - floor) of errors when it is noisy."""
    out = torch.empty_like(signal)
    for at in range(0, len(signal), 512):
        x, others = signal[at : at + 512], signal[near[1][at : at + 512]]
        distance = (2 * (CELLS - torch.bmm(others, x[:, :, None])[..., 0])).clamp_min(1e-2).sqrt()
        w = price * slope(distance, QUIET) + (floor - near[0][at : at + 512]) * slope(distance, NOISY)
        out[at : at + 512] = w.sum(1, keepdim=True) * x - torch.bmm(w[:, None], others)[:, 0]
    return out - (out * signal).sum(1, keepdim=True) / CELLS * signal


def move_pairs(signal: Tensor, near: tuple[Tensor, Tensor], price: float, floor: float, passes: int = 9, step: float = 0.06) -> Tensor:
    """Codewords moved along `push`, all at once, with momentum; no cell moves by more than one unit a pass."""
    momentum = torch.zeros_like(signal)
    for p in range(passes):
        momentum = 0.5 * momentum + 0.5 * push(signal, near, price, floor)
        move = momentum * (step * (1 - p / passes) / momentum.square().mean().sqrt())
        signal = even(signal - move * (1 / move.square().mean(1, keepdim=True).sqrt()).clamp_max(1))
    return signal


def with_check_cells(x: np.ndarray, checks: int, share: float) -> Tensor:
    """Syndrome cells: meaning in most of the cells, and `checks` cells of a random code that hold a share of the power."""
    grounded = even(torch.from_numpy(grounding(x, f"1x{CELLS - checks}x1", 0, "half-whitened")(x)))
    random = even(torch.randn(len(x), checks, generator=torch.Generator().manual_seed(0)))
    return torch.cat([grounded * math.sqrt(CELLS * (1 - share) / (CELLS - checks)), random * math.sqrt(CELLS * share / checks)], 1)


def least_risk(x: Tensor, top: int = 32) -> Reader:
    """A reader that names the word with the highest expected cosine under the posterior of the `top` likeliest words."""
    def read(book: Codebook, snr_db: float, trials: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(book.vocab_size, (trials,), generator=generator)
        noisy, half, named = add_noise(book, ids, snr_db, generator), book.signal.square().sum(1) / 2, []
        for part in noisy.split(256):
            values, best = ((part @ book.signal.T - half) * 10 ** (snr_db / 10)).topk(top, 1)
            worth = torch.bmm(values.softmax(1)[:, None], x[best] @ x[best].transpose(1, 2))[:, 0]
            named.append(best.gather(1, worth.argmax(1, keepdim=True))[:, 0])
        read = torch.cat(named)
        return ids[read != ids], read[read != ids]
    return read


def judge(signal: Tensor, x: Tensor, trials: int, read: Reader) -> dict[str, float]:
    """Decibels over the converse at one error in a hundred, errors and likeness at the noisy level."""
    book, converse = from_signal(signal, "8x8x3", "candidate"), needed_snr(cone_converse, len(x), CELLS, TARGET)
    ids, wrong = read(book, NOISY, trials, 0)
    points, snr = {}, round(converse / STEP) * STEP
    while snr < converse + 5 and (not points or min(points.values()) >= TARGET):
        points[snr] = len(read(book, snr, trials, 0)[0]) / trials
        snr += STEP
    at = cross(points)
    return {"decibels": None if at is None else at - converse, "errors": len(ids) / trials, "likeness": float((x[ids] * x[wrong]).sum(1).mean())}


def main() -> None:
    """Command line: every candidate in turn, one line each, and the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=49_408)
    parser.add_argument("--trials", type=int, default=10_000)
    given = parser.parse_args()
    meaning = directions(np.asarray(features(common_words(given.words), "minilm"))).astype(np.float32)
    x = torch.from_numpy(meaning)
    near = neighbours(x, 128)
    mix = lambda method, weight: mixture(meaning, weight, CELLS, 0, method)  # noqa: E731
    candidates: dict[str, tuple[Callable[[], Tensor], Reader]] = {
        "random": (lambda: mix("whitened", 0.0), mistakes), "whitened 0.9": (lambda: mix("whitened", 0.9), mistakes),
        "half-whitened 0.85": (lambda: mix("half-whitened", 0.85), mistakes), "half-whitened 0.9": (lambda: mix("half-whitened", 0.9), mistakes),
        "half-whitened 0.95": (lambda: mix("half-whitened", 0.95), mistakes), "pca 0.9": (lambda: mix("pca", 0.9), mistakes),
        "neighbour sums 0.9": (lambda: spread_over_graph(x, near, 0.9), mistakes),
        "32 syndrome cells, 0.2 of the power": (lambda: with_check_cells(meaning, 32, 0.2), mistakes),
        "pairs moved, from half-whitened 0.93": (lambda: move_pairs(mix("half-whitened", 0.93), near, 1.2, 0.3), mistakes),
        "least-risk reader of half-whitened 0.9": (lambda: mix("half-whitened", 0.9), least_risk(x))}
    found = {}
    for name, (make, read) in candidates.items():
        found[name] = judge(make(), x, given.trials, read)
        print(f"{name:42} {found[name]}", flush=True)
    record = {"command": f"python benchmarks/code_search.py --words {given.words} --trials {given.trials}", "words": given.words, "trials": given.trials,
              "noisy_db": NOISY, "candidates": found, "device": lab._device(), "versions": lab._versions()}
    lab.write_text(OUT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
