"""The shape of a model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lm_core.config.base import Config


class ModelConfig(Config):
    """A decoder-only Transformer (Vaswani et al. 2017, pre-norm as in GPT-2)."""

    vocab_size: int = Field(gt=0)
    """V: number of token ids."""
    seq_len: int = Field(gt=0)
    """Context length, in tokens."""
    d_model: int = Field(256, gt=0)
    """D: width of the residual stream."""
    n_layers: int = Field(6, gt=0)
    """Number of blocks."""
    n_heads: int = Field(4, gt=0)
    """N: query heads."""
    n_kv_heads: int | None = Field(None, gt=0)
    """K: key and value heads (grouped-query attention, Ainslie et al. 2023); as many as n_heads when not given."""
    d_ff: int | None = Field(None, gt=0)
    """F: width of the MLP; 4 d_model when not given (8/3 d_model, rounded up to 64, for swiglu)."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019)."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance before the square root."""
    mlp: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu_tanh"
    """Exact GELU, its tanh form (Hendrycks and Gimpel 2016), or SwiGLU (Shazeer 2020)."""
    positions: Literal["learned", "rope", "sinusoidal", "none"] = "learned"
    """Learned table, rotary (Su et al. 2021), fixed sines and cosines (Vaswani et al. 2017), or no position signal."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary wavelengths."""
    bias: bool = True
    """Biases on the projections and on LayerNorm."""
    head_bias: bool = False
    """A bias on the output head."""
    tie_embeddings: bool = False
    """Use the token embedding as the output head."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability, after the embedding, in the attention weights and on both residual branches."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial weight matrices."""
    depth_scaled_init: bool = False
    """Divide the initial std of o_proj and down_proj by sqrt(2 n_layers), as GPT-2 does."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide d_model {self.d_model}")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads {self.n_kv_heads} does not divide n_heads {self.n_heads}")
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rope needs an even head size, got {self.head_dim}")
        if self.positions == "sinusoidal" and (self.d_model % 2 or self.d_model < 4):
            raise ValueError(f"sinusoidal positions need an even d_model of 4 or more, got {self.d_model}")
        if self.tie_embeddings and self.head_bias:
            raise ValueError("a tied head has no bias: set head_bias = false or tie_embeddings = false")
        return self

    @property
    def head_dim(self) -> int:
        """H: width of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """K: key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def ff_dim(self) -> int:
        """F: width of the MLP."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // (3 * 64)) * 64 if self.mlp == "swiglu" else 4 * self.d_model
