"""The picture of a model, block by block, as HTML that the report's style sheet draws.

Its parts are the embedding, the blocks by the letters of their kinds, and the softmax; ``k-PART`` is the CSS class that
gives a part its colour.
"""

from __future__ import annotations

from html import escape

from weft.config import ModelConfig
from weft.description import Description
from weft.kinds import kinds
from weft.words import count, size


def model_picture(config: ModelConfig, described: Description) -> str:
    """Return the model as one strip to scale and as a stack of rows: kind, shape, parameters."""
    head = described.softmax_parameters
    embedding = described.embedding_parameters - head
    most = max([embedding, *(row.parameters for row in described.blocks)])

    rows = _row("", "embedding", _embedding_shape(config, described), embedding, most)
    parts = [("embedding", embedding)]
    for row in described.blocks:
        shared = "" if row.shared_with is None else f"block {row.shared_with} again"
        rows += _row(str(row.position), row.letter, row.shape, row.parameters, most, shared)
        parts.append((row.letter, row.parameters))
    shape = f"{config.hidden_size} -> {config.vocab_size:,}"
    rows += _row("", "softmax", shape, head, most, "" if head else "the embedding again")
    parts.append(("softmax", head))
    return (
        f"{_facts(described)}{_strip(parts)}{_legend(described)}"
        f'<div class="stack" tabindex="0" role="region" aria-label="Blocks"><ol>{rows}</ol></div>'
    )


def _title(part: str) -> str:
    """Return what people call a part of the model: a block by its letter, or the embedding, or the softmax."""
    if part in ("embedding", "softmax"):
        return part
    return escape(kinds()[part].title)


def _embedding_shape(config: ModelConfig, described: Description) -> str:
    if config.adaptive or config.ngrams:
        return described.embedding_shape
    return f"{config.vocab_size:,} tokens x {config.hidden_size}"


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
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _strip(parts: list[tuple[str, int]]) -> str:
    """Draw where the parameters are: a piece for each part that has some of its own, as wide as it has many."""
    pieces = ""
    for part, parameters in parts:
        if parameters:
            words = f"{_title(part)}: {parameters:,}"
            pieces += f'<i class="k-{part}" style="flex:{parameters}" title="{words}"></i>'
    return f'<div class="strip" role="img" aria-label="Where the parameters are">{pieces}</div>'


def _legend(described: Description) -> str:
    """Say which share of the parameters each kind of block has; the softmax counts with the embedding."""
    sums = {"embedding": described.embedding_parameters}
    for row in described.blocks:
        sums[row.letter] = sums.get(row.letter, 0) + row.parameters
    items = ""
    for part, parameters in sums.items():
        share = 100 * parameters / described.parameters
        items += f'<span><i class="k-{part}"></i>{_title(part)} {share:.0f} %</span>'
    return f'<p class="legend">{items}</p>'


def _row(place: str, part: str, shape: str, parameters: int, most: int, shared: str = "") -> str:
    """Return one row; ``shared`` says whose parameters it uses where it has none of its own."""
    if shared:
        kind = "shared"
        bar = ""
        amount = shared
    else:
        kind = "own"
        share = 100 * parameters / max(most, 1)
        bar = f'<i class="k-{part}" style="width:{share:.1f}%"></i>'
        amount = f"{parameters:,}"
    return (
        f'<li class="{kind}"><span class="place">{place}</span>'
        f'<b class="k-{part}">{_title(part)}</b><span class="shape">{escape(shape)}</span>'
        f'<span class="bar">{bar}</span><span class="count">{amount}</span></li>'
    )
