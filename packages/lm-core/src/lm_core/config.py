"""Configs: frozen pydantic models, unknown keys refused with a suggestion, TOML in and out.

A config holds only what a person chooses. What follows from the choices (`head_dim`, `kv_heads`) is a property,
so nothing is ever overwritten.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lm_core.errors import UserError
from lm_core.file_names import given_back, has_odd_bytes, held, toml_document, toml_text
from lm_core.regular import read_regular

_LONGEST_TOML = 1 << 20
_MOST_PARTS = 32
# Possessive, and begun only where a part begins: linear in the length of any text.
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MOST_PARTS}}}", re.ASCII)
_LARGEST = 2**63 - 1
_STRAY, _LISTED = 3, 20
"""Unknown keys that may be slips of the hand, and known ones that still fit a line."""
Dtype = Literal["float32", "bfloat16"]
DecayGroup = Literal["matrix", "embed", "bias", "norm"]


def _checked_text(value: str) -> str:
    if has_odd_bytes(value):
        raise ValueError("this is text, and not UTF-8")
    return value


Text = Annotated[str, AfterValidator(_checked_text)]
"""Text, which is UTF-8; any other string may hold the name of a file, which need not be."""


class Config(BaseModel):
    """Base of every config: frozen, strict about keys, with field docstrings as help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        """Python's integers have no end; arrays and files have 64 bits."""
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"it is beyond {_LARGEST:,}")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> Self:
        """Validate `values`; a mistake becomes a `UserError` that names the key and `where` it stands."""
        try:
            # As JSON, where "3" is no 3 and 1 no true, but a list is a tuple and 1 a float, as in TOML.
            text = json.dumps(values, default=str, ensure_ascii=False)
            if not has_odd_bytes(text):
                return cls.model_validate_json(text, strict=True)
            config: Self = _given_back(cls.model_validate_json(held(text), strict=True))
            return config
        except ValidationError as error:
            raise UserError(complaint(cls, error, where)) from None
        except (ValueError, RecursionError):  # of json: digits without end, and tables in tables
            raise UserError(f"{where}: a value is too long, or nested too deeply") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file; errors name the file and the key."""
        return cls.parse(read_toml(path), str(path))

    def to_toml(self) -> str:
        """The config as TOML. Options that are `None` are left out, which is how TOML says it."""
        return toml_document(self.model_dump(mode="json", exclude_none=True))


def _given_back(value: Any) -> Any:
    """A config with the names of files in it as they were before they were held for the parser."""
    if isinstance(value, Config):
        return value.model_copy(update={name: _given_back(getattr(value, name)) for name in type(value).model_fields})
    if isinstance(value, tuple):
        return tuple(map(_given_back, value))
    return given_back(value) if isinstance(value, str) else value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file, or a `UserError` that says why there is none.

    A byte-order mark, which editors on Windows write, is skipped.
    """
    try:
        text = toml_text(read_regular(Path(path), _LONGEST_TOML))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not valid TOML: it is not UTF-8 at byte {error.start:,}; save it as UTF-8"
        ) from None
    # tomllib takes time and memory that grow with the square of the parts of a key.
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UserError(f"{path} is not valid TOML: line {line}: a key of more than {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except ValueError:  # of int: more digits than Python reads
        raise UserError(f"{path} is not valid TOML: it has a number of too many digits") from None
    except RecursionError:
        raise UserError(f"{path} is not valid TOML: it is nested too deeply") from None


def complaint(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    """The first of pydantic's complaints as one line, with a did-you-mean for an unknown key."""
    first = error.errors()[0]
    foreign = [str(e["loc"][0]) for e in error.errors() if e["type"] == "extra_forbidden" and len(e["loc"]) == 1]
    if len(foreign) > _STRAY:
        return (
            f"{where}: unknown keys {', '.join(map(repr, foreign[:_STRAY]))} and {len(foreign) - _STRAY} more:"
            " it is the config of another program"
        )
    keys, models = _look_up(cls, first["loc"])
    path = ".".join(keys)
    match first["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key {path!r}; {_hint(keys[-1], models)}"
        case "union_tag_invalid":
            return f"{where}: {path}.name: {first['ctx']['tag']!r} is not one of {first['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{where}: {path}.name is missing: it is one of {', '.join(repr(tag_of(m)) for m in models)}"
        case "json_invalid":
            message = "it is nested too deeply" if "recursion" in first["msg"] else first["msg"]
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "this is a table of keys, not a value"
        case _:
            message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {path}: {message}" if path else f"{where}: {message}"


def members_of(annotation: Any) -> list[type[BaseModel]]:
    """The configs that a field may hold: one, several told apart by their `name`, or none for a plain value."""
    choices = [annotation, *get_args(annotation)]
    return [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]


def tag_of(model: type[BaseModel]) -> Any:
    """The `name` by which a config is told from the others of its union."""
    field = model.model_fields.get("name")
    return field.default if field else None


def _look_up(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys of a place as a person writes them, and the configs that the last table on the way may be.

    Pydantic puts the tag of a union's member among the keys. The member that it names comes first.
    """
    keys: list[str] = []
    models: list[type[BaseModel]] = [cls]
    at_union = False
    for part in loc:
        chosen = [model for model in models if tag_of(model) == part]
        if at_union and chosen:
            models = chosen + [model for model in models if model not in chosen]
            at_union = False
            continue
        keys.append(str(part))
        field = models[0].model_fields.get(str(part)) if models else None
        if field and (inside := members_of(field.annotation)):
            models, at_union = inside, len(inside) > 1
    return keys, models


def _hint(key: str, models: list[type[BaseModel]]) -> str:
    """What may have been meant by an unknown key of the first of `models`; the others are its union's members."""
    known = list(models[0].model_fields)
    owner = next((tag_of(model) for model in models[1:] if key in model.model_fields), None)
    if owner:
        return f"it belongs to name = {owner!r}, and name is {tag_of(models[0])!r}"
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if len(known) > _LISTED:
        return f"none of the {len(known)} known ones is like it; see --help"
    return f"known keys: {', '.join(sorted(known))}"


class ModelConfig(Config):
    """A decoder-only Transformer (Vaswani et al. 2017, pre-norm as in GPT-2)."""

    vocab_size: int = Field(gt=0)
    """V: number of token ids."""
    seq_len: int = Field(gt=0)
    """Longest sequence the model sees at once, in tokens."""
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
    """Added to the variance before the root."""
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
    """Use the token table as the output head."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an element after the embedding, in the attention weights and on both branches."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial matrices."""
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


class AdamWConfig(Config):
    """Adam with bias correction and decoupled weight decay; the equations are in `lm_core.optim`."""

    name: Literal["adamw"] = "adamw"
    """Which optimizer this is."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient average."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the squared-gradient average."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    bias_correction: bool = True
    """Divide the averages by 1 - beta^t."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled: p <- p (1 - lr weight_decay) before the update."""
    decay_groups: tuple[DecayGroup, ...] = ("matrix",)
    """Which parameter groups decay."""


class KBetaConfig(Config):
    """Kourkoutas-beta (arXiv 2508.12996): Adam whose beta2 follows the gradient norm of each bucket."""

    name: Literal["kbeta"] = "kbeta"
    """Which optimizer this is."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient average."""
    beta2_max: float = Field(0.999, ge=0, lt=1)
    """beta2 when the sunspike is 0."""
    beta2_min: float = Field(0.9, ge=0, lt=1)
    """beta2 as the sunspike goes to 1."""
    alpha: float = Field(0.9, ge=0, lt=1)
    """Decay of the gradient-norm average."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    tiny_spike: float = Field(1e-8, gt=0)
    """Added to the norm average in the sunspike's ratio."""
    tiny_denom: float = Field(1e-8, ge=0)
    """Scale of the adaptive term of the denominator."""
    decay: float | None = Field(None, ge=0, le=1)
    """Leak of the running maximum of v; no maximum is kept when neither this nor max_ratio is given."""
    max_ratio: float | None = Field(None, gt=0)
    """Clip every element of the step to lr max_ratio."""
    adaptive_tiny: bool = False
    """Add tiny_denom max(mean|p|, 1) to the denominator."""
    bias_correction: Literal["none", "beta2max", "exact"] = "none"
    """How m and v are corrected; see `lm_core.optim`."""
    warmup_steps: int = Field(0, ge=0)
    """Steps during which beta2 is held at the middle of its range (this does not warm up the learning rate)."""
    buckets: Literal["global", "shape", "per-array"] = "global"
    """Which parameters share a gradient norm and a beta2."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled: p <- p (1 - lr weight_decay) before the update."""
    decay_groups: tuple[DecayGroup, ...] = ("matrix",)
    """Which parameter groups decay."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta2_min > self.beta2_max:
            raise ValueError(f"beta2_min {self.beta2_min} is above beta2_max {self.beta2_max}")
        return self


class MuonConfig(Config):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for everything else."""

    name: Literal["muon"] = "muon"
    """Which optimizer this is."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of the gradient average of the block matrices."""
    nesterov: bool = True
    """Look one step ahead along the average."""
    ns_steps: int = Field(5, gt=0)
    """Newton-Schulz iterations that make the average's singular values about 1."""
    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """Size of a step: AdamW's, 0.2 sqrt(max(rows, columns)), or Muon's first, sqrt(max(1, rows / columns))."""
    lr_factor: float = Field(1.0, gt=0)
    """The block matrices' learning rate, as a factor of the schedule's; the rest takes the schedule's."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the gradient average."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's decay of the squared-gradient average."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's addition to the root of the second moment."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled: p <- p (1 - rate weight_decay) before the update, with the rate of the parameter."""
    decay_groups: tuple[DecayGroup, ...] = ("matrix",)
    """Which parameter groups decay."""


OptimizerConfig = AdamWConfig | KBetaConfig | MuonConfig


class StepConfig(Config):
    """How a backend executes the model and the training step; none of it changes what is computed, but for rounding."""

    dtype: Dtype = "float32"
    """Type of activations and matrix products; parameters and optimizer state are float32 always."""
    kernels: Literal["fused", "scratch"] = "fused"
    """The framework's fused kernels, or the same operations spelled out (`scratch.py` of either backend)."""
    compile: bool = False
    """Let the framework compile the step."""
    varying_length: bool = False
    """Sequence lengths differ from step to step: torch compiles once for all of them (MLX compiles for each)."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where it runs: auto takes CUDA (torch) or Metal (MLX) if there is one."""
    grad_clip: float = Field(0.0, ge=0)
    """Largest global gradient norm; 0 does not clip."""
    grad_accum_steps: int = Field(1, gt=0)
    """Micro-batches that one step adds up; the rows of a batch are divided among them."""
    gradient_checkpointing: bool = False
    """Keep each block's input alone, and compute its activations again in the backward pass (Chen et al. 2016)."""
    barrier_every: int = Field(1, gt=0)
    """MLX evaluates its lazy graph every so many steps; torch runs as it goes and ignores this."""
