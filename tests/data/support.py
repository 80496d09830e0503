from __future__ import annotations

import random


def made_up_documents(number: int, seed: int = 0) -> list[str]:
    """Documents of made-up words in several scripts, the same for the same seed."""
    source = random.Random(seed)
    syllables = ["ka", "mi", "so", "rek", "āt", "ŋu", "жи", "ло", "कि", "ता", "漢", "字"]
    words = ["".join(source.choices(syllables, k=source.randint(1, 4))) for _ in range(200)]
    return [
        "\n".join(" ".join(source.choices(words, k=source.randint(3, 12))) + "." for _ in range(source.randint(2, 6)))
        for _ in range(number)
    ]
