"""Make the two data files of these example tasks from the test documents of the corpus that comes with Weft.

python examples/lm_eval/make_data.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from weft.data.config import DataConfig
from weft.data.splits import iter_documents

HERE = Path(__file__).parent
DOCUMENTS, LONGEST = 40, 1500  # documents and bytes of each
QUESTIONS, CHOICES = 60, 4
WORDS = (6, 5)  # of a question and of each answer


def main() -> None:
    """Write the files."""
    texts = [document.decode() for document in iter_documents(DataConfig(sources=("weft:sewiki",)), "test")]
    rolling = [text for text in texts if 200 <= len(text.encode()) <= LONGEST][:DOCUMENTS]
    write("sewiki_rolling.jsonl", [{"text": text} for text in rolling])
    write("sewiki_continuation.jsonl", questions(texts))


def questions(texts: list[str]) -> list[dict[str, object]]:
    """Return beginnings of sentences, each with its continuation among those of others."""
    asked, answered = WORDS
    lines = [line.split() for text in texts for line in text.splitlines()[1:]]  # the first is the title
    lines = [line for line in lines if len(line) >= asked + answered]
    draw = random.Random(0)
    chosen = draw.sample(lines, QUESTIONS)
    answers = [" " + " ".join(line[asked : asked + answered]) for line in chosen]
    made: list[dict[str, object]] = []
    for line, answer in zip(chosen, answers, strict=True):
        others = draw.sample([other for other in answers if other != answer], CHOICES - 1)
        choices = [answer, *others]
        draw.shuffle(choices)
        made.append({"question": " ".join(line[:asked]), "choices": choices, "answer": choices.index(answer)})
    return made


def write(name: str, records: list[dict[str, object]]) -> None:
    """Write one JSON record a line."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (HERE / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
