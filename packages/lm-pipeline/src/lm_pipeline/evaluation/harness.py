"""A saved model for EleutherAI's lm-evaluation-harness, on either backend.

    requests --encoded by the harness's own rules--> score_continuations, continue_rows --> log-likelihoods, texts

Needs `lm-eval`, which no package here depends on: it brings 40 others (docs/evaluation.md). The harness splits context
and continuation and cuts a long text into windows, so that figures are those of its other models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_core.backend import load_backend
from lm_core.config import SamplingConfig, StepConfig
from lm_core.continuation import Ending, continue_rows
from lm_core.errors import UserError
from lm_core.sampling import Generation
from lm_pipeline.evaluation.continuations import Pair, score_continuations
from lm_pipeline.evaluation.evaluate import build
from lm_pipeline.saved_model import SavedModel
from lm_tokenizer.text_deltas import text_deltas_of

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
except ImportError as error:
    raise UserError(f"lm-evaluation-harness cannot be imported ({error}): pip install lm-eval") from None

_TOKENS = 256
"""Of a generated text at most, where a task does not say: the harness's own default."""


class HarnessModel(TemplateLM):
    """What `lm_eval.simple_evaluate(model=...)` takes.

    Args:
        model: from `load_model`.
        backend: "torch", "mlx" or "auto".
        step: how the backend executes the model.
        batch_size: texts at a time.
        seed: of the first text of a task that samples.

    Raises:
        UserError: when its tokenizer has no end of text, which the first token of a text is predicted from.
    """

    def __init__(
        self,
        model: SavedModel,
        backend: str = "auto",
        step: StepConfig | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not model.eos_ids:
            raise UserError(
                f"{model.name}: its tokenizer has no end-of-text token, which the harness starts texts with"
            )
        self.model, self.batch_size, self.seed = model, batch_size, seed
        self.scorer = build(model, load_backend(backend), step or StepConfig())

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text, and that the first token of one is predicted from."""
        return self.model.eos_ids[0]

    @property
    def tokenizer_name(self) -> str:
        """By which the harness keeps its caches apart."""
        return self.model.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; names of special tokens in it are those tokens, and none is added."""
        return [int(i) for i in self.model.tokenizer.encode(string, allowed_special="all", disallowed_special=())]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return [(-scored.nats, scored.greedy) for scored in self._scored(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text as a whole, in windows of which each token is in one."""
        windows = [self._windows(request.args[0]) for request in requests]
        scored = iter(self._scored([window for of_text in windows for window in of_text]))
        return [-sum(next(scored).nats for _ in of_text) for of_text in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to a string that ends it, the end of the text, or a length."""
        texts: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            for first in range(0, len(numbers), self.batch_size):
                group = numbers[first : first + self.batch_size]
                contexts = [requests[i].args[0] for i in group]
                written = self._generated(contexts, requests[group[0]].args[1], self.seed + first)
                texts.update(zip(group, written, strict=True))
        return [texts[number] for number in range(len(requests))]

    def _scored(self, pairs: Sequence[Pair]) -> list[Any]:
        return score_continuations(self.scorer, pairs, self.model.config.seq_len, self.batch_size)

    def _windows(self, text: str) -> list[Pair]:
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.model.config.seq_len,
            context_len=1,
        )
        return [utils.make_disjoint_window(window) for window in windows]

    def _generated(self, contexts: Sequence[str], settings: Mapping[str, Any], seed: int) -> list[str]:
        model, tokens = self.model, int(settings.get("max_gen_toks", _TOKENS))
        length = model.config.seq_len
        room = length - tokens if length > tokens else length  # of a text longer than a window, see `Generation`
        prompts = [(self.tok_encode(context) or [self.eot_token_id])[-room:] for context in contexts]
        until = settings.get("until") or ()
        ending = Ending(tokens, model.eos_ids, (until,) if isinstance(until, str) else tuple(filter(None, until)))
        decoder = self.scorer.decoder(len(prompts), model.tokenizer.vocab_size)
        sampling = _sampling(settings, model.tokenizer.vocab_size)

        def begin() -> Generation:
            return Generation(decoder, prompts, length, seed, sampling)

        deltas = [text_deltas_of(model.tokenizer, ids, text) for ids, text in zip(prompts, contexts, strict=True)]
        written = continue_rows(begin, deltas, ending)
        if any(continuation.reason == "interrupted" for continuation in written):
            raise KeyboardInterrupt  # which ends the texts, and is to end the evaluation too
        return [continuation.text for continuation in written]


def _sampling(settings: Mapping[str, Any], vocab_size: int) -> SamplingConfig:
    """Greedy where a task does not ask for something else, as in the harness."""
    temperature = float(settings.get("temperature") or 0)
    if not settings.get("do_sample", temperature > 0):
        return SamplingConfig(temperature=0)
    return SamplingConfig(
        temperature=temperature or 1.0,
        top_p=float(settings.get("top_p", 1.0)),
        top_k=min(int(settings.get("top_k", 0)), vocab_size),
    )
