"""The blocks that models are made of: one file each, one interface (:class:`weft.blocks.base.Block`).

A kind of block is its configuration and its class, in a file of its own, and a line here that registers it
(:mod:`weft.kinds`).
"""

from weft.blocks.attention import AttentionBlock, AttentionConfig
from weft.blocks.attn_qrnn import AttnQRNNBlock, AttnQRNNConfig
from weft.blocks.base import Block
from weft.blocks.feed_forward import FeedForwardBlock, FeedForwardConfig
from weft.blocks.qrnn import QRNNBlock, QRNNConfig
from weft.kinds import BlockSpec, Stretch, register

register(
    BlockSpec(
        letter="a",
        name="attention",
        title="attention",
        config=AttentionConfig,
        block=AttentionBlock,
        stretches=(Stretch(width="head_dim", order=2),),
        tag="transformer",
    )
)
register(
    BlockSpec(
        letter="f",
        name="feed_forward",
        title="feed-forward",
        config=FeedForwardConfig,
        block=FeedForwardBlock,
        stretches=(Stretch(width="inner_size"),),
        tag="",
    )
)
register(
    BlockSpec(
        letter="q",
        name="qrnn",
        title="QRNN",
        config=QRNNConfig,
        block=QRNNBlock,
        stretches=(Stretch(width="cell_size"),),
    )
)
register(
    BlockSpec(
        letter="x",
        name="attn_qrnn",
        title="attention-QRNN",
        config=AttnQRNNConfig,
        block=AttnQRNNBlock,
        stretches=(
            Stretch(width="cell_size"),
            Stretch(width="attention_size", order=1, maps=("attention_maps", "maps")),
        ),
        tag="attention-qrnn",
    )
)

__all__ = [
    "AttentionBlock",
    "AttentionConfig",
    "AttnQRNNBlock",
    "AttnQRNNConfig",
    "Block",
    "FeedForwardBlock",
    "FeedForwardConfig",
    "QRNNBlock",
    "QRNNConfig",
]
