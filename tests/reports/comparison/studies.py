"""Made-up studies to draw: what 'weft compare' leaves in its folder, without training anything."""

from __future__ import annotations

import json
import math
import random

# architecture -> pattern, bits per byte at the best rate, best rate, training and generation tokens per second,
# bytes of state that stay and that come with each token of context up to a memory
ARCHITECTURES = {
    "hybrid": ("qf qf af qf", 1.877, 4e-3, 3071, 210, 9_000, 640, 256),
    "par": ("afffffff", 1.921, 4e-3, 2890, 262, 0, 640, 256),
    "transformer": ("(af)4", 2.019, 2e-3, 2031, 158, 0, 2560, 256),
    "transformer-xl": ("(af)4", 2.044, 1e-3, 1904, 149, 0, 2560, 256),
    "attn-qrnn": ("x8", 1.934, 4e-3, 1710, 131, 12_000, 5120, 256),
    "sha-qrnn": ("(qf)2 qaf qf", 1.889, 4e-3, 2954, 204, 9_500, 128, 256),
    "qrnn": ("q6", 1.962, 4e-3, 3555, 331, 14_000, 0, 0),
    "llama": ("", 1.997, 1e-3, 2110, 88, 0, 2560, 10**9),
}
RATES = (1e-3, 2e-3, 4e-3)
CONTEXTS = (1024, 16384, 65536)
MINUTES = 5.0


def row(name, seed=0, **changes):
    """Return a row of results.json for an architecture at its best learning rate."""
    pattern, bits, rate, training, generation, fixed, each, memory = ARCHITECTURES[name]
    noise = random.Random(f"{name}{seed}")
    parameters = 2_000_000 + noise.randrange(-9000, 9000)
    bits += noise.uniform(-0.006, 0.006)
    tokens = int(training * 60 * MINUTES)
    return {
        "architecture": name,
        "kind": "baseline" if name == "llama" else "weft",
        "pattern": pattern,
        "parameters": parameters,
        "body_parameters": parameters - 2048 * 160,
        "hidden_size": 160,
        "learning_rate": rate,
        "seed": seed,
        "steps": tokens // 1024,
        "tokens": tokens,
        "seconds": 60 * MINUTES + noise.uniform(0, 0.4),
        "bits_per_byte": bits,
        "validation_bits_per_byte": bits - 0.04,
        "training_tokens_per_second": training * noise.uniform(0.98, 1.02),
        "generation_tokens_per_second": generation * noise.uniform(0.95, 1.05),
        "state_bytes": {str(length): fixed + each * min(length, memory) for length in CONTEXTS},
        "best_at_edge": rate in (RATES[0], RATES[-1]),
        "run": f"runs/{name}-lr{rate:g}-seed{seed}",
    } | changes


def trial(best, rate, **changes):
    """Return the training run of the architecture and seed of the row ``best`` at ``rate``."""
    worse = 0.09 * math.log2(rate / best["learning_rate"]) ** 2
    return {
        "architecture": best["architecture"],
        "learning_rate": rate,
        "seed": best["seed"],
        "validation_bits_per_byte": best["validation_bits_per_byte"] + worse,
        "bits_per_byte": best["bits_per_byte"] + worse,
        "tokens": best["tokens"],
        "seconds": best["seconds"],
        "status": "done",
        "error": None,
        "run": f"runs/{best['architecture']}-lr{rate:g}-seed{best['seed']}",
    } | changes


def curve(one, chosen):
    """Return the curve of a training run: a power law of the tokens that ends at its figure."""
    end = one["validation_bits_per_byte"]
    noise = random.Random(one["run"])
    shares = [step / 12 for step in range(1, 13)]
    events = [
        {
            "step": round(900 * share),
            "tokens": round(one["tokens"] * share),
            "seconds": one["seconds"] * share,
            "bits_per_byte": end + 1.4 * (share**-0.35 - 1) + noise.uniform(0, 0.015) * (share < 1),
        }
        for share in shares
    ]
    kept = {name: one[name] for name in ("architecture", "learning_rate", "seed")}
    return kept | {"chosen": chosen, "train": events, "validation": events}


def results(names=tuple(ARCHITECTURES), seeds=(0, 1), rates=RATES):
    """Return results.json of a study in which ``names`` are done."""
    rows = [row(name, seed) for name in names for seed in seeds]
    trials = []
    for one in rows:
        trials += [trial(one, rate) for rate in rates if one["seed"] == seeds[0] or rate == one["learning_rate"]]
    return {
        "weft_version": "0.1.0",
        "git_revision": "0123456789abcdef",
        "machine": {"cpu": "A small processor", "cores": 2, "device": "cpu", "torch": "2.13.0", "threads": 2},
        "seconds_total": 12_345.6,
        "settings": {
            "sources": ["texts"],
            "architectures": [name for name in ARCHITECTURES if name != "llama"],
            "baselines": ["llama"],
            "parameters": 2_000_000,
            "budget": {"minutes": MINUTES},
            "learning_rates": list(rates),
            "seeds": list(seeds),
            "top": 3,
            "jobs": 1,
            "base": {
                "data": {"sources": ["texts"]},
                "training": {"batch": {"batch_size": 8}},
                "model": {"attention": {"window": 256}},
            },
            "tokenizer": "bpe",
            "vocab_size": 2048,
            "corpus": "6,134 documents, 2,140,511 bytes",
        },
        "rows": rows,
        "trials": trials,
    }


def curves(results):
    """Return curves.json of ``results``."""
    chosen = {(one["architecture"], one["learning_rate"], one["seed"]) for one in results["rows"]}
    done = [one for one in results["trials"] if one["validation_bits_per_byte"] is not None]
    return [curve(one, (one["architecture"], one["learning_rate"], one["seed"]) in chosen) for one in done]


def write_study(folder, results, curves):
    """Write both files into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "curves.json").write_text(json.dumps(curves))
    return folder
