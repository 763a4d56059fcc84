"""How the next id is chosen; `lm_core.sampling` has the filter."""

from pydantic import Field

from lm_core.config.base import Config


class SamplingConfig(Config):
    """Sampling of the next id."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 is greedy."""
    top_k: int = Field(0, ge=0)
    """Keep the k most likely ids; 0 keeps all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the fewest ids whose probabilities reach p, but for rounding."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Keep ids at least this fraction as likely as the most likely one, but for rounding."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Divides the logits of ids that the text already holds where they are positive, else multiplies them."""
