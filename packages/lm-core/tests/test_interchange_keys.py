"""The keys of `config.json` and `generation_config.json`: computed, known to say nothing, or refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_core.errors import UserError
from lm_core.interchange.folder import CONFIG, GENERATION, export_model, import_model
from lm_core.reference.model import logits
from lm_core.testing import rough_arrays

from .small_exports import GPT2, LLAMA, TOKENIZER

MODELS = {"gpt2": GPT2, "llama": LLAMA}
each = pytest.mark.parametrize("name", MODELS)


def written(folder: Path, name: str, file: str = CONFIG, **changes: Any) -> Path:
    """A model whose config has other keys; `...` takes one away."""
    export_model(folder, MODELS[name], rough_arrays(MODELS[name]), eos_ids=[3], overwrite=True)
    said = json.loads((folder / file).read_bytes()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in said.items() if value is not ...}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        import_model(folder)
    return str(caught.value)


@each
@pytest.mark.parametrize(
    "changes",
    [
        {"is_causal": False}, {"is_causal": None}, {"is_encoder_decoder": True}, {"pruned_heads": {"0": [1]}},
        {"per_layer_config": {"0": {"hidden_act": "gelu"}}}, {"attention_chunk_size": 8}, {"sliding_window": 8},
        {"layer_types": ["full_attention", "chunked_attention"]}, {"add_cross_attention": True},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_is_computed_otherwise_is_refused_for_every_architecture(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    [(key, value)] = changes.items()
    message = refusal(written(tmp_path, name, **changes))
    assert f"{key} = {json.dumps(value)}" in message
    assert "is not supported, only" in message


@each
def test_a_key_that_is_not_known_is_refused_unless_it_is_null(name: str, tmp_path: Path) -> None:
    assert import_model(written(tmp_path, name, logit_scale=None)).config.d_model == 32
    message = refusal(written(tmp_path, name, logit_scale=0.5))
    assert f"{tmp_path / CONFIG}: logit_scale = 0.5 is not known" in message
    assert "remove the key if it does not affect" in message


@each
def test_keys_that_say_nothing_of_what_is_computed_are_not_read(name: str, tmp_path: Path) -> None:
    said = {"use_cache": False, "id2label": {"0": "x"}, "unsloth_version": "2025", "max_length": 20, "is_causal": True}
    model = import_model(written(tmp_path, name, layer_types=["full_attention"] * 2, **said))
    assert model.config.n_layers == 2


def test_gpt2_s_sizes_are_read_by_their_aliases_too(tmp_path: Path) -> None:
    aliases = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 24}
    names = {"n_embd": ..., "n_layer": ..., "n_head": ..., "n_positions": ...}
    assert import_model(written(tmp_path, "gpt2", **names, **aliases)).config == GPT2.model_copy(update={"d_ff": 128})
    assert import_model(written(tmp_path, "gpt2", **aliases)).config.seq_len == 24
    assert "n_embd = 32 and hidden_size = 64 differ" in refusal(written(tmp_path, "gpt2", hidden_size=64))
    assert "num_hidden_layers = 0 is not" in refusal(written(tmp_path, "gpt2", n_layer=..., num_hidden_layers=0))


# What ends a text


@each
@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        (3, ..., (3,)),
        (..., 5, (5,)),
        (..., [5, 6], (5, 6)),
        ([3, 4], [4, 7], (3, 4, 7)),
        (None, None, ()),
        (..., ..., ()),
        ([30, 31], 500, (30,)),  # of ids that the model does not have, none is ever drawn
    ],
)
def test_a_text_ends_at_the_ids_of_either_file(
    name: str, config: Any, generation: Any, ids: tuple[int, ...], tmp_path: Path
) -> None:
    written(tmp_path, name, eos_token_id=config)
    (tmp_path / GENERATION).write_text(json.dumps({} if generation is ... else {"eos_token_id": generation}))
    assert import_model(tmp_path).eos_ids == ids


@pytest.mark.parametrize("file", [CONFIG, GENERATION])
@pytest.mark.parametrize("value", [-1, "</s>", [2, None], True, {"id": 2}])
def test_an_end_that_is_no_id_is_refused(file: str, value: Any, tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "llama", file, eos_token_id=value))
    assert f"{tmp_path / file}: eos_token_id = {json.dumps(value)}" in message


def test_several_ends_of_a_text_come_back(tmp_path: Path) -> None:
    export_model(tmp_path, GPT2, rough_arrays(GPT2), eos_ids=[2, 5])
    for file in (CONFIG, GENERATION):
        assert json.loads((tmp_path / file).read_bytes())["eos_token_id"] == [2, 5]
    assert import_model(tmp_path).eos_ids == (2, 5)


# A padded vocabulary


@each
@pytest.mark.parametrize("how", ["tokenizer.json", "vocab_size"])
def test_ids_that_no_tokenizer_has_are_not_exported(name: str, how: str, tmp_path: Path) -> None:
    config, weights = MODELS[name], rough_arrays(MODELS[name])
    files = {"tokenizer.json": TOKENIZER} if how == "tokenizer.json" else {}
    export_model(tmp_path, config, weights, tokenizer_files=files, vocab_size=None if files else 3)
    model = import_model(tmp_path)
    assert model.config.vocab_size == 3
    ids = np.array([[0, 2, 1, 1, 0, 2]])
    expected = logits(config, weights, ids)[..., :3]
    np.testing.assert_allclose(logits(model.config, model.weights, ids), expected, atol=1e-12)
    export_model(tmp_path, model.config, model.weights, tokenizer_files=files, overwrite=True)
    again = import_model(tmp_path)
    assert again.config == model.config
    assert all(again.weights[key].tobytes() == array.tobytes() for key, array in model.weights.items())


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer has 32 ids, and the model's vocab_size is 31"):
        export_model(tmp_path / "new", GPT2, rough_arrays(GPT2), vocab_size=32)
    with pytest.raises(UserError, match=r"tokenizer\.json has the id 2, and the model's vocab_size is 2"):
        export_model(
            tmp_path / "new", GPT2, rough_arrays(GPT2), vocab_size=2, tokenizer_files={"tokenizer.json": TOKENIZER}
        )
    assert not list(tmp_path.iterdir())
