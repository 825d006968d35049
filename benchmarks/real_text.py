"""Train on real text and compare the bound with n-gram models: writes results/benchmarks/real-text.json.

    python benchmarks/real_text.py NAME=FILE:TOKENS ... [--minutes 15]

Each text is trained by the recipe of `vtd train --text FILE --tokens TOKENS --minutes M`; a finished one is reused.
"""
import argparse
import json
import os
from pathlib import Path

from vtd import lab
from vtd.diffusion import Writing
from vtd.recipes import Recipe, judge_bits, train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "real-text.json"
DRAWS = 16  # of the noise, a window; the counted start takes most of it out


def measure(name: str, source: str, minutes: float, steps: int | None, device: str) -> dict:
    """What one text gives: bounds by clock path, n-grams beside them, samples beside held-out text."""
    file, _, tokens = source.rpartition(":")
    recipe = Recipe(text=file, tokens=tokens, minutes=None if steps else minutes, steps=steps)
    folder = ROOT / "_runs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    model, corpus = train(recipe, folder / f"{name}.safetensors", device=device), recipe.corpus()
    if hasattr(model, "history"): lab.write_text(folder / f"{name}.seconds", f"{model.history.seconds:.0f}")  # a finished one is reused
    found = judge_bits(model, corpus, windows=300, draws=DRAWS)
    bounds = {path: {"value": b.bits_per_token, "low": b.interval[0], "high": b.interval[1], "per_char": b.bits_per_char}
              for path, b in found["bounds"].items()}
    return {"text": Path(file).name, "tokens": tokens, "vocabulary": len(corpus.vocabulary), "length": corpus.length,
            "training_tokens": len(corpus.train) + corpus.length - 1, "seed": recipe.seed,
            "steps": model.record["trained_steps"], "seconds": int((folder / f"{name}.seconds").read_text()), "cores": os.cpu_count(),
            "bits": bounds, "ngrams": found["ngrams"],
            "order": None if model.net.counted is None else model.net.counted.memory + 1, "start": found["start"],
            **{key: {path: dict(zip(("value", "low", "high"), m, strict=True)) for path, m in found[of].items()}
               for key, of in (("above_best_ngram", "margins"), ("above_start", "gains"))},
            "written": [model.vocabulary.decode(p) for p in model.write_ids(4, Writing(32), seed=0).tolist()],
            "held_out": [corpus.vocabulary.decode(p) for p in corpus.valid[:4].tolist()]}


def main() -> None:
    """Command line: each text in turn; the record is written after each, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", metavar="NAME=FILE:TOKENS")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    record = json.loads(OUT.read_text()) if OUT.exists() else {"texts": {}}
    for text in given.texts:
        name, _, source = text.partition("=")
        record["texts"][name] = measure(name, source, given.minutes, given.steps, given.device)
        record |= {"device": lab._device(), "versions": lab._versions()}
        lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        print(f"{name}: {json.dumps(record['texts'][name]['bits'])}\n{json.dumps(record['texts'][name]['ngrams'])}")


if __name__ == "__main__":
    main()
