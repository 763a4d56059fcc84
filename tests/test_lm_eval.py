"""lm-evaluation-harness over our model, and over its own Hugging Face backend on the exported folder: one answer.

It is not among the test dependencies: uv run --with 'lm-eval[hf]' python -m pytest -n 0 tests/test_lm_eval.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_core.config import ModelConfig, StepConfig
from lm_core.interchange.folder import export_model
from lm_core.testing import rough_arrays
from lm_pipeline.saved_model import SavedModel, load_model
from lm_tokenizer import Tokenizer

lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what it imports

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "東京", "is", "far", "🦊"]
TEXT = " ".join(WORDS[i * i % 13 % len(WORDS)] for i in range(400))
CONFIG = ModelConfig(
    vocab_size=320, seq_len=32, d_model=32, n_layers=2, n_heads=2, mlp="gelu_tanh", tie_embeddings=True
)
CLOSE = 1e-4
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "page": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers, of a model whose vocabulary was rounded up."""
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = Tokenizer.train([TEXT], 300, ["<|endoftext|>"], progress=False)
    tokenizer.save(folder / "tokenizer")
    files = {"tokenizer.json": (folder / "tokenizer" / "tokenizer.json").read_bytes()}
    eos = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    export_model(folder / "hf", CONFIG, rough_arrays(CONFIG), tokenizer_files=files, eos_ids=eos)
    return folder / "hf"


@pytest.fixture(scope="module")
def saved(exported: Path) -> SavedModel:
    """The same before it was exported, with its longer vocabulary."""
    return SavedModel(CONFIG, rough_arrays(CONFIG), load_model(str(exported)).tokenizer, "ours")


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Any:
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(params=["torch", "mlx"])
def ours(request: pytest.FixtureRequest, saved: SavedModel) -> Any:
    pytest.importorskip("torch" if request.param == "torch" else "mlx.core")
    from lm_pipeline.evaluation.harness import HarnessModel

    return HarnessModel(saved, request.param, StepConfig(device="cpu"), batch_size=3)


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def check_pairs(ours: Any, theirs: Any, pairs: Sequence[tuple[str, str]]) -> None:
    found, expected = (model.loglikelihood(requests(*pairs), disable_tqdm=True) for model in (ours, theirs))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    for (one, _), (other, _) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=CLOSE)


def test_log_likelihoods_are_those_of_the_hugging_face_backend(ours: Any, theirs: Any) -> None:
    """No context, a space at its end, one longer than the model reads, characters of several tokens, a greedy word."""
    pairs = [("the quick", " brown fox"), ("", "a lazy dog"), ("the quick ", "dog"), (TEXT, " 東京 🦊"), ("🦊", "🦊🦊")]
    first = theirs.generate_until(requests(("the quick", {"until": ["\n"], "max_gen_toks": 1})), disable_tqdm=True)[0]
    check_pairs(ours, theirs, [*pairs, ("the quick", first)] if first else pairs)


def test_texts_longer_than_a_window_are_those_of_the_hugging_face_backend(ours: Any, theirs: Any) -> None:
    texts = [(TEXT,), ("a",), (TEXT[:120],)]
    found, expected = (model.loglikelihood_rolling(requests(*texts), disable_tqdm=True) for model in (ours, theirs))
    for text, one, other in zip(texts, found, expected, strict=True):
        assert one == pytest.approx(other, abs=CLOSE * len(text[0]))


def test_greedy_texts_are_those_of_the_hugging_face_backend(ours: Any, theirs: Any) -> None:
    """With strings that end them, and a context that leaves no room otherwise."""
    asked = [
        (context, {"until": until, "max_gen_toks": tokens})
        for context in ("the quick", "a lazy dog and", TEXT)
        for until, tokens in ((["\n\n"], 8), ([" "], 12), (["o", "e"], 20))
    ]
    found, expected = (model.generate_until(requests(*asked), disable_tqdm=True) for model in (ours, theirs))
    assert found == expected
    assert any(found)


def test_tasks_on_local_files_have_the_results_of_the_hugging_face_backend(
    saved: SavedModel, theirs: Any, tmp_path: Path
) -> None:
    """Multiple choice, the last word as in LAMBADA, and bits per byte of texts."""
    from lm_eval.tasks import TaskManager

    from lm_pipeline.evaluation.harness import HarnessModel

    words = TEXT.split(" ")
    documents = [
        {"context": " ".join(words[i : i + 9]), "choices": [f" {w}" for w in WORDS[:4]], "answer": i % 4,
         "text": " ".join(words[i : i + 30])}
        for i in range(0, 60, 10)
    ]  # fmt: skip
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "tasks").mkdir()
    for name, task in TASKS.items():
        data = {"data_files": {"test": str(tmp_path / "documents.jsonl")}, "cache_dir": str(tmp_path / "cache")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **task}
        (tmp_path / "tasks" / f"{name}.yaml").write_text(json.dumps(whole))
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)

    def results(model: Any) -> dict[str, dict[str, Any]]:
        found = lm_eval.simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
        return dict(found["results"])

    ours = HarnessModel(saved, "torch", StepConfig(device="cpu"))
    found, expected = results(ours), results(theirs)
    assert set(found) == set(TASKS)
    for name, metrics in expected.items():
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        assert numbers
        for key, value in numbers.items():
            assert found[name][key] == pytest.approx(value, rel=CLOSE), (name, key)
