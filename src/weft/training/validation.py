"""Which part of the validation text is scored while training.

All of it, where that is little; else a sample that makes all validations together take a tenth of the
training. It is the same from the first validation to the last, or the best model could not be told. What is
reported at the end is scored on the whole text in any case.
"""

from __future__ import annotations

from typing import NamedTuple

from weft import words
from weft.data import PreparedData, TokenizedSplit, Tokenizer
from weft.evaluation.scoring import first_part, spread_part
from weft.training.recipe import TrainingConfig

SHARE = 0.1  # of the time of training, for all validations together
# Tokens: fewer tell too little, and a sample need not be larger.
FEWEST = 4096
MOST = 200_000
# What scoring a token costs, in tokens of training, by whether that is in bfloat16: scoring goes forward alone, but
# always in float32. About as CPUs have it, and no machine's own measurement, or no run could be repeated.
COST = {False: 1 / 3, True: 0.7}

LONG = 10.0  # seconds of scoring at the end: it is told beforehand


class Sample(NamedTuple):
    """``tokens`` tokens from places that are spread evenly over a text; in runs of older versions its first ones."""

    tokens: int
    spread: bool = True

    def of(self, split: TokenizedSplit, tokenizer: Tokenizer) -> TokenizedSplit:
        """Return this part of ``split``."""
        take = spread_part if self.spread else first_part
        return take(split, self.tokens, tokenizer)


def choose_sample(config: TrainingConfig, trained: float, *, bf16: bool, processes: int) -> Sample:
    """Return what to validate on in a run that will train on ``trained`` tokens, in ``processes`` that score each."""
    if config.logging.validation_tokens is not None:
        return Sample(config.logging.validation_tokens)
    affordable = SHARE * trained / (processes * COST[bf16] * config.logging.validations)
    return Sample(round(min(MOST, max(FEWEST, affordable))))


def older_sample(config: TrainingConfig) -> Sample:
    """Return what a run validates on whose checkpoint does not tell."""
    return Sample(config.logging.validation_tokens or MOST, spread=False)


def announced(prepared: PreparedData, split: TokenizedSplit, seconds_per_token: float) -> list[str]:
    """Say that ``split`` is but a part of the validation text, and that scoring at the end will take long.

    Where there is nothing of the kind, nothing is said.
    """
    lines = []
    whole = prepared.validation.scored_tokens
    if split.scored_tokens < whole:
        lines.append(
            f"Validating on {split.scored_tokens:,} of the {whole:,} tokens of the validation text, spread over it "
            "evenly, so that it takes little time; the figures at the end are of all of it."
        )
    seconds = seconds_per_token * (whole + prepared.test.scored_tokens)
    if seconds >= LONG:
        lines.append(f"After the training, scoring validation and test text takes about {words.duration(seconds)}.")
    return lines
