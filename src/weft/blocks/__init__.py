"""The blocks that models are made of: one file each, one interface (:class:`weft.blocks.base.Block`)."""

from weft.blocks.attention import AttentionBlock
from weft.blocks.attn_qrnn import AttnQRNNBlock
from weft.blocks.base import Block
from weft.blocks.feed_forward import FeedForwardBlock
from weft.blocks.qrnn import QRNNBlock

# The letters of the pattern language.
BLOCKS: dict[str, type[Block]] = {
    "a": AttentionBlock,
    "f": FeedForwardBlock,
    "q": QRNNBlock,
    "x": AttnQRNNBlock,
}


def letter_of(block: Block) -> str:
    """Return the letter of a block's kind."""
    return next(letter for letter, kind in BLOCKS.items() if type(block) is kind)


__all__ = ["BLOCKS", "AttentionBlock", "AttnQRNNBlock", "Block", "FeedForwardBlock", "QRNNBlock", "letter_of"]
