"""Hugging Face's GPT2LMHeadModel with our weights, to train in the plain loop and to decode with its `generate`.

What speaks for it is chosen: the fused kernel for attention (its default) and for tanh GELU (by name; its default
spells the formula out), no cache while training, no dropout. GPT-2 there always has biases: where our model has none,
they are zero and not trained.

Axes: B batch, T time, D model, V vocabulary.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList

from lm_bench.peers import check_plain
from lm_bench.peers.torch_loop import Loop
from lm_core.backend import NumpyArrays
from lm_core.config import AdamWConfig, ModelConfig, StepConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
PARTS = {
    "attn_norm": "ln_1",
    "attn.o_proj": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
"""Our name of a part of a block -> theirs; queries, keys and values are one matrix there."""


def gpt2(model: ModelConfig, weights: NumpyArrays) -> Any:
    """A GPT2LMHeadModel with `weights`, in float32 on the CPU."""
    check_plain(model)
    assert model.tie_embeddings, "GPT-2's head is its token table"
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=model.vocab_size,
            n_positions=model.seq_len,
            n_embd=model.d_model,
            n_layer=model.n_layers,
            n_head=model.n_heads,
            n_inner=model.ff_dim,
            activation_function=ACTIVATIONS[model.mlp],
            layer_norm_epsilon=model.norm_eps,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    arrays = their_arrays(model, weights)
    for name, param in theirs.named_parameters():
        if name in arrays:
            param.data.copy_(arrays.pop(name))
        else:
            assert name.endswith(".bias"), f"{name} has no counterpart"
            param.data.zero_()
            param.requires_grad_(False)
    assert not arrays, f"{', '.join(arrays)} went nowhere"
    return theirs


def their_arrays(model: ModelConfig, weights: NumpyArrays) -> dict[str, Tensor]:
    """Our arrays under their names; their projections are [in, out]."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    result = {
        "transformer.wte.weight": tensors.pop("embed.weight"),
        "transformer.wpe.weight": tensors.pop("pos_embed.weight"),
    }
    for kind in ("weight", "bias") if model.bias else ("weight",):
        result[f"transformer.ln_f.{kind}"] = tensors.pop(f"norm.{kind}")
        for i in range(model.n_layers):
            ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
            qkv = torch.cat([tensors.pop(f"{ours}.attn.{which}_proj.{kind}") for which in "qkv"])
            result[f"{theirs}.attn.c_attn.{kind}"] = qkv.T if kind == "weight" else qkv
            for part, name in PARTS.items():
                tensor = tensors.pop(f"{ours}.{part}.{kind}")
                result[f"{theirs}.{name}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    assert not tensors, f"{', '.join(tensors)} have no counterpart in GPT-2"
    return result


class WithLoss(nn.Module):
    """Ids to loss. Theirs shifts the targets itself and so never sees the last; ours come shifted."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """ids [B, T], targets [B, T] -> mean loss in nats."""
        logits = self.model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def huggingface_loop(model: ModelConfig, optimizer: AdamWConfig, step: StepConfig, weights: NumpyArrays) -> Loop:
    """The plain loop around it."""
    return Loop(WithLoss(gpt2(model, weights).train()), optimizer, step)


class Clock(StoppingCriteria):
    """Never stops anything: notes when each id was chosen."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """[B, T] ids -> [B] of False."""
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Generator:
    """`generate`, greedy, with its KV cache (a static one, which it compiles where it can, with `step.compile`)."""

    def __init__(self, model: ModelConfig, step: StepConfig, weights: NumpyArrays):
        self.device = torch.device("cuda" if step.device != "cpu" and torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if step.dtype == "bfloat16" else torch.float32
        self.model = gpt2(model, weights).to(self.device, dtype).eval()
        self.cache = "static" if step.compile else None

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], list[float]]:
        """`count` ids for each of the prompts, which are of one length; and the seconds up to each of the ids."""
        ids = torch.tensor(prompts, device=self.device)
        how = GenerationConfig(
            do_sample=False,
            use_cache=True,
            max_new_tokens=count,
            min_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation=self.cache,
        )
        clock = Clock()
        started = time.perf_counter()
        whole = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=how,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return whole[:, ids.shape[1] :].tolist(), [at - started for at in clock.times]
