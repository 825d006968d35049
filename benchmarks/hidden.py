"""How much hidden states know, beside counting: writes results/benchmarks/hidden.json.

    python benchmarks/hidden.py [NAME=FILE:TOKENS ...] [--sentences 20000,200000] [--states 100,400]

Of the little world: bits a held-out sentence above the language's own, for each number of sentences to learn from and of states.
Of texts: bits a token on held-out windows, which nothing is read before. No network; what a chain costs is its bound along every clock path.
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from vtd import lab
from vtd.automata import log2_probability
from vtd.chains import count_chain
from vtd.recipes import Recipe
from vtd.text import little_world

OUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "hidden.json"


def interval(each: np.ndarray) -> dict:
    """Mean with its 95 % interval over pages."""
    half = 1.96 * each.std(ddof=1) / len(each) ** 0.5
    return {"value": float(each.mean()), "low": float(each.mean() - half), "high": float(each.mean() + half), "n": len(each)}


def bits(chain, pages: torch.Tensor) -> np.ndarray: return chain.nats(pages).double().numpy() / math.log(2)


def learn(corpus, states: int) -> tuple:
    """The chain of hidden states, and the seconds that it took."""
    begun = time.monotonic()
    return count_chain(corpus, states=states), time.monotonic() - begun


def world(sentences: int, states: list[int], held: int) -> dict:
    """Bits a sentence above the little world's own: of counted pairs and triples, and of hidden states."""
    corpus = little_world.corpus(sentences)
    pages = torch.as_tensor(corpus.valid[:held].copy()).long()
    exact = -log2_probability(little_world.automaton, pages.numpy())
    found = {"sentences": sentences, "counted": {str(n): interval(bits(count_chain(corpus, order=n), pages) - exact) for n in (2, 3)}, "states": {}}
    for n in states:
        chain, seconds = learn(corpus, n)
        found["states"][str(n)] = interval(bits(chain, pages) - exact) | {"seconds": round(seconds), "arcs": len(chain.goal), "used": int((chain.step > 1e-4).sum())}
        print(f"{sentences:,} sentences, {n} states: {found['states'][str(n)]}", flush=True)
    return found


def text(source: str, states: list[int], held: int) -> dict:
    """Bits a token of a text: of its usual counted chain, and of hidden states; differences are paired by window."""
    file, _, tokens = source.rpartition(":")
    corpus = Recipe(text=file, tokens=tokens).corpus()
    pages = torch.as_tensor(corpus.valid[:held].copy()).long()
    counted = bits(count_chain(corpus), pages) / corpus.length
    found = {"text": Path(file).name, "tokens": tokens, "length": corpus.length, "counted": interval(counted), "states": {}}
    for n in states:
        chain, seconds = learn(corpus, n)
        own = bits(chain, pages) / corpus.length
        found["states"][str(n)] = interval(own) | {"above_counted": interval(own - counted), "seconds": round(seconds), "arcs": len(chain.goal)}
        print(f"{found['text']}, {n} states: {found['states'][str(n)]}, counted {found['counted']}", flush=True)
    return found


def numbers(said: str) -> list[int]: return [int(n) for n in said.split(",")]


def main() -> None:
    """Command line: each case in turn; the record is written after each, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", metavar="NAME=FILE:TOKENS")
    parser.add_argument("--sentences", type=numbers, default=[20_000, 200_000])
    parser.add_argument("--states", type=numbers, default=[100, 400])
    parser.add_argument("--held-out", type=int, default=2000)
    given = parser.parse_args()
    record = json.loads(OUT.read_text()) if OUT.exists() else {"world": {}, "texts": {}}
    jobs = [("world", str(n), lambda n=n: world(n, given.states, given.held_out)) for n in given.sentences]
    jobs += [("texts", name, lambda source=source: text(source, given.states, 300)) for name, _, source in (t.partition("=") for t in given.texts)]
    for part, name, measure in jobs:
        record[part][name] = measure()
        record |= {"device": lab._device(), "versions": lab._versions()}
        lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
