"""Write text with an exported model, piece by piece: onnxruntime, numpy and tokenizers alone, no torch and no weft.

    weft export runs/mine
    python examples/onnx_generate.py runs/mine/onnx --prompt "Once" --seed 1

`sequence.onnx` reads the prompt, `step.onnx` each token that is drawn. Temperature, top-k and top-p mean what they mean
to `weft generate`; at temperature 0 the text is the same, otherwise the seed draws other tokens than torch's generator.
"""

from __future__ import annotations

import argparse
import codecs
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

PROMPT_PIECE = 256  # tokens of a prompt that are read at once
Arrays = dict[str, np.ndarray]


class Model:
    """The two programs of a folder that `weft export` wrote; the state goes in and comes out by name."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.step, self.sequence = (
            onnxruntime.InferenceSession(str(folder / self.about["programs"][name]["file"]))
            for name in ("step", "sequence")
        )

    def start(self) -> Arrays:
        """Return the state at the start of one text."""
        return {
            tensor["input"]: np.full([1, *tensor["shape"][1:]], tensor["initial"], dtype=tensor["dtype"])
            for tensor in self.about["state"]
        }

    def read(self, tokens: list[int], state: Arrays) -> tuple[np.ndarray, Arrays]:
        """Return the logits (V) after the last of any number of tokens, and the state."""
        for first in range(0, len(tokens), PROMPT_PIECE):
            piece = np.array([tokens[first : first + PROMPT_PIECE]])
            logits, state = self._run(self.sequence, {"tokens": piece, "reset": np.zeros_like(piece, bool)} | state)
        return logits, state

    def read_one(self, token: int, state: Arrays) -> tuple[np.ndarray, Arrays]:
        """Return the logits (V) after one token, and the state."""
        return self._run(self.step, {"tokens": np.array([[token]])} | state)

    def _run(self, program: onnxruntime.InferenceSession, inputs: Arrays) -> tuple[np.ndarray, Arrays]:
        logits, *values = program.run(None, inputs)
        return logits[0, -1], dict(zip([tensor["input"] for tensor in self.about["state"]], values, strict=True))


def generate(model: Model, prompt: list[int], arguments: argparse.Namespace) -> Iterator[int]:
    """Yield new tokens until the text ends."""
    boundary, padding = model.about["boundary_id"], model.about["padding_id"]
    random = np.random.default_rng(arguments.seed)
    logits, state = model.read([boundary, *prompt], model.start())  # a text begins with the boundary token
    for _ in range(arguments.max_new_tokens):
        logits[padding] = -np.inf
        token = draw(logits, arguments, random)
        if token == boundary:
            return
        yield token
        logits, state = model.read_one(token, state)


def draw(logits: np.ndarray, arguments: argparse.Namespace, random: np.random.Generator) -> int:
    """Draw a token: temperature first, then top-k, then top-p."""
    if arguments.temperature < 1e-4:
        return int(logits.argmax())
    index = np.argsort(-logits, kind="stable")[: arguments.top_k or None]
    ordered = logits[index].astype(np.float64) / arguments.temperature
    probabilities = np.exp(ordered - ordered[0])
    probabilities /= probabilities.sum()
    probabilities[probabilities.cumsum() - probabilities >= arguments.top_p] = 0
    return int(random.choice(index, p=probabilities / probabilities.sum()))


def token_bytes(tokenizer: tokenizers.Tokenizer, kind: str) -> dict[int, bytes]:
    """Return the bytes that each token stands for; Weft's tokenizers spell bytes as GPT-2's does.

    Those of closed words are words, with a space before each, and the end of the line.
    """
    if kind == "closed-words":
        words = tokenizer.get_vocab(with_added_tokens=False)
        return {number: b" \n" if word == "<eos>" else f" {word}".encode() for word, number in words.items()}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return {number: bytes(byte_of[character] for character in token) for token, number in vocabulary.items()}


def main() -> None:
    """Read the command line and print the text as it comes."""
    parser = argparse.ArgumentParser(description="Write text with a model that 'weft export' wrote.")
    parser.add_argument("folder", type=Path, help="what 'weft export' wrote, such as runs/mine/onnx")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens (0: all)")
    parser.add_argument("--top-p", type=float, default=0.95, help="draw from the tokens that hold this probability")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    model = Model(arguments.folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # a prompt that spells a special token is text
    kind = json.loads((arguments.folder / "tokenizer_config.json").read_text(encoding="utf-8"))["weft_kind"]
    bytes_of = token_bytes(tokenizer, kind)
    prompt = tokenizer.encode(arguments.prompt, add_special_tokens=False).ids
    whole_characters = codecs.getincrementaldecoder("utf-8")("replace")
    print(arguments.prompt, end="", flush=True)
    for token in generate(model, prompt, arguments):
        print(whole_characters.decode(bytes_of[token]), end="", flush=True)
    print(whole_characters.decode(b"", final=True))


if __name__ == "__main__":
    main()
