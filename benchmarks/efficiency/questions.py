"""What is compared: for each question the contenders, and what each changes of a recipe.

``WIDTH`` fixes the width, so that contenders differ in size; ``SIZE`` the parameters, so that they differ in width.
A contender that starts from or learns from another's run names it (``after``), and ``{run}`` in its settings is that
run's folder.
"""

from __future__ import annotations

from typing import NamedTuple

WIDTH = "model.hidden_size=160"
SIZE = "model.parameters=1M"
LOW_RANK = ("model.maps.feed_forward.kind=low_rank", "model.maps.feed_forward.share=0.32")
BLOCKS_BY_ADAMW = 'training.optimizer.muon_takes=["matrices", "tensors"]'
NO_SHIFT = "model.token_shift=false"  # which by itself tells each block of the position before
ATTENTION = "model.pattern=afafaf"
TENSORS_BY_ADAMW = 'training.optimizer.muon_takes=["matrices", "blocks"]'


class Contender(NamedTuple):
    """Settings of a recipe, the contender whose run must be there first, and how many times the tokens it reads."""

    settings: tuple[str, ...]
    after: str | None = None
    budget: float = 1.0


def structured(kind: str) -> tuple[str, ...]:
    """Return the settings of feed-forwards of ``kind`` with about a third of the parameters, the first one dense."""
    rank = {"low_rank": "share=0.32", "block_dense": "share=0.32", "block_shuffle": "blocks=4"}[kind]
    more = ("model.maps.feed_forward.blocks=2",) if kind == "block_dense" else ()
    return (f"model.maps.feed_forward.kind={kind}", f"model.maps.feed_forward.{rank}", *more)


def pattern(text: str, *settings: str, fixed: str = WIDTH) -> Contender:
    """Return a contender of one pattern."""
    return Contender((fixed, f"model.pattern={text}", *settings))


def bigrams(*settings: str) -> Contender:
    """Return a contender with something beside the embedding, of as many parameters in all."""
    return Contender((SIZE, *(f"model.ngrams.{setting}" for setting in settings)))


ROLES = ("feed_forward", "attention", "qrnn")
ADAPTER = tuple(f"model.maps.{role}.{how}" for role in ROLES for how in ("kind=matrix_product", "adapter=8"))
PARENT = "parent, four times the tokens"
STACKED, ONE_COPY = "model.pattern=[qfaf]3", "model.pattern=qfaf"
START = ("training.start.run={run}", "training.start.block=best")
GUIDES = "training.methods.guides"
TEACHER = "training.methods.distillation.run={run}"
QUESTIONS: dict[str, dict[str, Contender]] = {
    "structured": {
        "dense": Contender((WIDTH,)),
        **{kind: Contender((WIDTH, *structured(kind))) for kind in ("low_rank", "block_dense", "block_shuffle")},
        "block_dense, blocks by AdamW": Contender((WIDTH, *structured("block_dense"), BLOCKS_BY_ADAMW)),
        "block_shuffle, blocks by AdamW": Contender((WIDTH, *structured("block_shuffle"), BLOCKS_BY_ADAMW)),
    },
    "guided": {
        "low_rank": Contender((WIDTH, *LOW_RANK)),
        "guided": Contender((WIDTH, *LOW_RANK, f"{GUIDES}.until=0.5")),
        "guided now and then": Contender((WIDTH, *LOW_RANK, f"{GUIDES}.until=0.5", f"{GUIDES}.skip=true")),
    },
    "wide": {
        "dense": Contender((SIZE,)),
        "low_rank feed-forward": Contender((SIZE, *LOW_RANK)),
        "low_rank, half": Contender((SIZE, LOW_RANK[0], "model.maps.feed_forward.share=0.63")),
        "low_rank everywhere but attention": Contender(
            (SIZE, *LOW_RANK, "model.maps.qrnn.kind=low_rank", "model.maps.qrnn.share=0.5")
        ),
    },
    "sharing-depth": {
        "own layers": pattern("(qfaf)3"),
        "central shared": pattern("{qfaf}3"),
        "central shared, adapters": pattern("{qfaf}3", *ADAPTER),
        "central shared, tensors by AdamW": pattern("{qfaf}3", TENSORS_BY_ADAMW),
        "central shared, adapters, tensors by AdamW": pattern("{qfaf}3", *ADAPTER, TENSORS_BY_ADAMW),
        "all shared": pattern("[qfaf]3"),
        "one copy": pattern("qfaf"),
    },
    "sharing-size": {
        "own layers": pattern("qfaf", fixed=SIZE),
        "own layers, three": pattern("(qfaf)3", fixed=SIZE),
        "central shared, three": pattern("{qfaf}3", fixed=SIZE),
        "all shared, three": pattern("[qfaf]3", fixed=SIZE),
        "all shared, two": pattern("[qfaf]2", fixed=SIZE),
    },
    "ngrams": {
        "plain": Contender((SIZE,)),
        "the norm alone": bigrams("table_size=0"),
        "bigrams": bigrams("clusters=128"),
        "bigrams, rate twice": Contender((*bigrams("clusters=128").settings, "training.methods.ngrams.rate=2")),
        "bigrams, smaller": bigrams("clusters=64", "table_size=2048", "width=8"),
        "no token shift": Contender((SIZE, NO_SHIFT)),
        "the norm alone, no token shift": Contender((*bigrams("table_size=0").settings, NO_SHIFT)),
        "bigrams, no token shift": Contender((*bigrams("clusters=128").settings, NO_SHIFT)),
        # A model that is told of the position before by attention alone.
        "attention": Contender((SIZE, NO_SHIFT, ATTENTION)),
        "attention, the norm alone": Contender((*bigrams("table_size=0").settings, NO_SHIFT, ATTENTION)),
        "attention, bigrams": Contender((*bigrams("clusters=128").settings, NO_SHIFT, ATTENTION)),
    },
    "stacking": {
        PARENT: Contender((WIDTH, "model.pattern=(qfaf)3"), budget=4),
        "three copies": pattern("(qfaf)3"),
        "one copy": pattern("qfaf"),
        "shared, from scratch": Contender((WIDTH, STACKED)),
        "shared, transfer": Contender((STACKED, *START), PARENT),
        "shared, transfer and teacher": Contender((STACKED, *START, TEACHER), PARENT),
        "shared, teacher": Contender((WIDTH, STACKED, TEACHER), PARENT),
        "one copy, transfer": Contender((ONE_COPY, *START), PARENT),
        "one copy, transfer and teacher": Contender((ONE_COPY, *START, TEACHER), PARENT),
        "one copy, teacher": Contender((WIDTH, ONE_COPY, TEACHER), PARENT),
        # About as long as the parent and one of its children take together.
        "one copy, seven times the tokens": Contender((WIDTH, ONE_COPY), budget=7),
        "shared, three times the tokens": Contender((WIDTH, STACKED), budget=3),
    },
}
