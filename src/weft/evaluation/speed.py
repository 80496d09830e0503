"""How fast a model writes."""

from __future__ import annotations

import statistics
import time

from weft.data import Tokenizer
from weft.generation import Sampling, Written, write
from weft.language_model import LanguageModel

PROMPT = "The loom stood by the window. "
TOKENS = 64


def generation_speed(model: LanguageModel, tokenizer: Tokenizer, *, repeats: int = 5) -> float:
    """Return tokens per second of one prompt's sampled continuation: the median of ``repeats``, after a warm-up.

    The time is from the first new token to the last, so reading the prompt does not count; texts that the model ends
    at once do not either. NaN where it ended all of them.
    """
    rates = []
    for attempt in range(repeats + 1):
        sampling = Sampling(temperature=1.0, top_p=1.0, seed=attempt)
        events = write(model, tokenizer, [PROMPT], max_new_tokens=TOKENS, sampling=sampling)
        times = [time.perf_counter() for event in events if isinstance(event, Written)]
        if attempt and len(times) > TOKENS // 4:
            rates.append((len(times) - 1) / (times[-1] - times[0]))
    return statistics.median(rates) if rates else float("nan")
