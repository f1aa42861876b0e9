"""Transformer encoder for text (Vaswani et al. 2017, "Attention is all you need", section 3)."""

from __future__ import annotations

import keras

from nrm_keras.models.blocks import drop
from nrm_keras.models.normalizers import NormFactory
from nrm_keras.models.tokens import AddPositions, MaskedMean, PaddingMask, check_tokens, normalize_tokens


def transformer(
    x,
    norm: NormFactory | None,
    *,
    vocabulary: int,
    length: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 256,
    activation: str = "gelu",
    dropout: float = 0.1,
    placement: str = "pre_norm",
):
    """Blocks of self-attention and a feed-forward network on embedded tokens, and the mean over a text's tokens.

    With "post_norm", as in the paper, a normalizer follows each residual sum; with "pre_norm" it stands at the start
    of each residual branch, and one more behind the last block (Xiong et al. 2020, arXiv:2002.04745, figure 1).
    Padding is neither attended to nor counted in the mean or in any normalizer's statistics.

    Args:
        x: symbolic tensor of token ids `(batch, length)`, 0 for padding.
        norm: makes a normalizer under a given name, see `norm_factory`; None for none.
        vocabulary: number of token ids, the padding's included.
        length: of the longest text.
        width: channels of each token; a multiple of heads.
        depth: number of blocks.
        heads: of the self-attention.
        hidden: channels inside of the feed-forward network.
        activation: any activation Keras knows by name.
        dropout: share of embeddings, of attention weights and of each branch's output that is dropped.
        placement: "pre_norm" or "post_norm".

    Returns:
        Symbolic tensor `(batch, width)`.

    Raises:
        UserError: inputs that are no token ids, or longer than length.

    Example:

    >>> import keras
    >>> from nrm_keras.layers import LayerNormalization
    >>> from nrm_keras.models import transformer
    >>> tokens = keras.Input((16,), dtype="int32")
    >>> transformer(tokens, lambda name: LayerNormalization(name=name), vocabulary=100, length=16).shape
    (None, 64)
    """
    check_tokens(x, length, "transformer")
    mask = PaddingMask(name="padding_mask")(x)
    x = keras.layers.Embedding(vocabulary, width, name="embedding")(x)
    x = AddPositions(length, name="positions")(x)
    x = drop(x, dropout, "embedding_dropout")
    for number in range(1, depth + 1):
        name = f"block{number}"
        x = _residual(x, mask, norm, placement, dropout, f"{name}_attention", _attention(mask, heads, width, dropout))
        x = _residual(x, mask, norm, placement, dropout, f"{name}_feed_forward", _feed_forward(hidden, activation))
    if placement == "pre_norm":
        x = normalize_tokens(x, mask, norm, "final_norm")
    return MaskedMean(name="pool")(x, mask=mask)


def _residual(x, mask, norm, placement, dropout, name, branch):
    pre_norm = placement == "pre_norm"
    y = normalize_tokens(x, mask, norm, f"{name}_norm") if pre_norm else x
    y = drop(branch(y, name), dropout, f"{name}_dropout")
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return x if pre_norm else normalize_tokens(x, mask, norm, f"{name}_norm")


def _attention(mask, heads, width, dropout):
    def branch(x, name):
        attention = keras.layers.MultiHeadAttention(heads, width // heads, dropout=dropout, name=name)
        return attention(x, x, value_mask=mask)

    return branch


def _feed_forward(hidden, activation):
    def branch(x, name):
        width = x.shape[-1]
        x = keras.layers.Dense(hidden, activation=activation, name=f"{name}_hidden")(x)
        return keras.layers.Dense(width, name=name)(x)

    return branch
