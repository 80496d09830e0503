"""The picture of a model, block by block, as HTML that the report's style sheet draws."""

from __future__ import annotations

from html import escape

from weft.config import ModelConfig
from weft.description import BlockRow, Description
from weft.kinds import kinds
from weft.words import count, size

NAMES = {letter: spec.title for letter, spec in kinds().items()} | {"embedding": "embedding", "softmax": "softmax"}


def model_picture(config: ModelConfig, described: Description) -> str:
    """Return the model as one strip to scale and as a stack of rows: kind, shape, parameters."""
    head = described.softmax_parameters
    embedding = described.embedding_parameters - head
    most = max([embedding, *(row.parameters for row in described.blocks)])
    rows = [
        _row("", "embedding", _embedding_shape(config, described), embedding, most),
        *(_block_row(row, most) for row in described.blocks),
        _row(
            "",
            "softmax",
            f"{config.hidden_size} -> {config.vocab_size:,}",
            head,
            most,
            "" if head else "the embedding again",
        ),
    ]
    parts = [
        ("embedding", embedding),
        *((row.letter, row.parameters) for row in described.blocks),
        ("softmax", head),
    ]
    return (
        f"{_facts(described)}{_strip(parts)}{_legend(described)}"
        f'<div class="stack" tabindex="0" role="region" aria-label="Blocks"><ol>{"".join(rows)}</ol></div>'
    )


def _embedding_shape(config: ModelConfig, described: Description) -> str:
    special = config.adaptive or config.ngrams
    return described.embedding_shape if special else f"{config.vocab_size:,} tokens x {config.hidden_size}"


def _facts(described: Description) -> str:
    longest = max(described.state_bytes)
    facts = {
        "pattern": f"<code>{escape(described.pattern)}</code>",
        "parameters": f"{described.parameters:,} ({described.body_parameters:,} without embeddings)",
        "width": f"{described.hidden_size}",
        "blocks": f"{described.depth}",
        "operations a token": count(described.flops_per_token),
        f"state after {longest:,} tokens": size(described.state_bytes[longest]),
    }
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items()) + "</dl>"


def _strip(parts: list[tuple[str, int]]) -> str:
    pieces = "".join(
        f'<i class="k-{kind}" style="flex:{parameters}" title="{NAMES[kind]}: {parameters:,}"></i>'
        for kind, parameters in parts
        if parameters
    )
    return f'<div class="strip" role="img" aria-label="Where the parameters are">{pieces}</div>'


def _legend(described: Description) -> str:
    sums = {"embedding": described.embedding_parameters}
    for row in described.blocks:
        sums[row.letter] = sums.get(row.letter, 0) + row.parameters
    items = (
        f'<span><i class="k-{kind}"></i>{NAMES[kind]} {100 * part / described.parameters:.0f} %</span>'
        for kind, part in sums.items()
    )
    return f'<p class="legend">{"".join(items)}</p>'


def _block_row(row: BlockRow, most: int) -> str:
    shared = "" if row.shared_with is None else f"block {row.shared_with} again"
    return _row(str(row.position), row.letter, row.shape, row.parameters, most, shared)


def _row(place: str, kind: str, shape: str, parameters: int, most: int, shared: str = "") -> str:
    """Return one row; ``shared`` says whose parameters it uses where it has none of its own."""
    share = 100 * parameters / max(most, 1)
    bar = "" if shared else f'<i class="k-{kind}" style="width:{share:.1f}%"></i>'
    return (
        f'<li class="{"shared" if shared else "own"}"><span class="place">{place}</span>'
        f'<b class="k-{kind}">{NAMES[kind]}</b><span class="shape">{escape(shape)}</span>'
        f'<span class="bar">{bar}</span><span class="count">{shared or f"{parameters:,}"}</span></li>'
    )
