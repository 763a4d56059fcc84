"""Decoding by one step of fixed shapes and addresses: compiled, or captured once as a CUDA graph and replayed.

    uniforms of n ids --> [ draw -> note the id -> read it -> logits, place + 1 ] n times --> n ids

What is in brackets is on the device alone. The host gives the uniforms of up to `IDS_PER_CALL` ids, starts as many
steps, and reads the ids when all are drawn: at a small model a step takes less time than a launch of its hundred
kernels and a read of its id would.

Axes: R rows, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from lm_core.config import SamplingConfig, StepConfig, WeightsDtype
from lm_core.terminal import say
from lm_torch.compiling import compiled, compiling
from lm_torch.decode import TorchDecoder, chosen_ids
from lm_torch.graph import capturing
from lm_torch.inference import KVCache
from lm_torch.kernels.decode import FewRows, usable
from lm_torch.model import LanguageModel

IDS_PER_CALL = 32
"""To read the device and to start it again costs some 100 us, in which it does nothing; a step of GPT-2 (124 M) on an
H100 takes 200. Over 32 of them that is 2%."""
WARMUP_STEPS = 2
"""Before a capture: libraries make their workspaces, and the compiler its kernels, at the first call."""

Steps = Callable[[int], None]
"""Takes so many of them."""


class StaticDecoder(TorchDecoder):
    """See `lm_core.sampling.Decoder`; every step writes one position of the whole cache and reads all of it, masked.

    Rows that end are not copied away one by one: the first `size` rows continue, a power of two, and what is drawn for
    those among them that have ended is not looked at. So there are few graphs, or compiled steps.

    Args:
        model: whose weights are taken as they are now.
        rows: texts at once.
        vocab_size: only ids below it are drawn.
        compile_step: let torch compile the step.
        graph: capture it as a CUDA graph.
        ids_per_call: how many ids are drawn before the host reads them; by default many with a graph, else one.
        own_kernels: use this project's kernels where they take the model and the rows, and nothing is compiled.
        weights_dtype: of the matrices.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: int = 1,
        vocab_size: int | None = None,
        compile_step: bool = False,
        graph: bool = False,
        ids_per_call: int | None = None,
        own_kernels: bool = True,
        weights_dtype: WeightsDtype = "same",
    ):
        super().__init__(model, rows, vocab_size, weights_dtype)
        self.ids_per_call = ids_per_call or (IDS_PER_CALL if graph else 1)
        self.rows, self.graph = rows, graph
        self.positions = torch.zeros(rows, dtype=torch.int64, device=self.device)
        """[R], where the next id of each row goes."""
        self.uniforms = torch.zeros(self.ids_per_call, rows, dtype=torch.float64, device=self.device)
        self.drawn = torch.zeros(self.ids_per_call, rows, dtype=torch.int64, device=self.device)
        self.turn = torch.zeros(rows, dtype=torch.int64, device=self.device)
        """[R], the same in each: which row of `uniforms` and of `drawn` the next step takes."""
        self.forward = compiled(self._forward, dynamic=False) if compile_step else self._forward
        self.own_kernels = own_kernels and not compile_step
        self.few_rows: dict[int, FewRows] = {}
        """By number of rows, where this project's kernels do the step."""
        self.captured: dict[tuple[int, bool, SamplingConfig], Steps] = {}
        """By number of rows, whether ids seen are noted, and how is sampled: all that decides which kernels run."""

    @torch.inference_mode()
    def prefill(self, row: int, ids: Sequence[int], seen: Collection[int] = ()) -> None:
        """Forget what was in `row` and read `ids`."""
        super().prefill(row, ids, seen)
        self.positions[row] = len(ids)

    @torch.inference_mode()
    def next_ids(self, uniforms: Sequence[Sequence[float]], sampling: SamplingConfig) -> list[list[int]]:
        """Draw the next ids of every row, and read each where there is room."""
        active, ids = len(self.lengths), []
        take = self._steps(min(self.rows, 1 << (active - 1).bit_length()), sampling)
        for start in range(0, len(uniforms), self.ids_per_call):
            part = uniforms[start : start + self.ids_per_call]
            if sampling.temperature:
                self.uniforms[: len(part), :active] = torch.tensor(part, dtype=torch.float64).to(self.device)
            self.turn.zero_()
            take(len(part))
            ids += self.drawn[: len(part), :active].tolist()
        self.lengths = [min(length + len(uniforms), self.seq_len) for length in self.lengths]
        return ids

    def _steps(self, size: int, sampling: SamplingConfig) -> Steps:
        """Steps of the first `size` rows."""
        key = size, self.seen is not None, sampling
        if key not in self.captured:

            def steps(count: int) -> None:
                if size in self.few_rows and self.seen is None:
                    self.few_rows[size].rank(self.logits[:size])
                for _ in range(count):
                    self._advance(size, sampling)

            if self.own_kernels and size not in self.few_rows and usable(self.model, size):
                self.few_rows[size] = FewRows(self.model, size)
                try:
                    self._try(steps)
                except Exception as error:  # of Triton, whose errors have no base, or of the C compiler that it calls
                    say(f"decoding by torch's kernels: this project's cannot be built ({_first_line(error)})")
                    self.own_kernels = False
                    self.few_rows.clear()
            self.captured[key] = self._capture(steps) if self.graph else steps
        return self.captured[key]

    def _try(self, steps: Steps) -> None:
        """Take a step that changes nothing: what it writes to the caches lies where the next one writes again."""
        changed = [self.logits, self.positions, self.turn, *([] if self.seen is None else [self.seen])]
        before = [tensor.clone() for tensor in changed]
        self.turn.zero_()  # else it may stand past the end
        try:
            steps(1)
        finally:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)

    def _advance(self, size: int, sampling: SamplingConfig) -> None:
        """Draw an id of each of the first `size` rows and read it; nothing waits for the host."""
        seen, positions = None if self.seen is None else self.seen[:size], self.positions[:size]
        logits, turn, few_rows = self.logits[:size], self.turn[:1], self.few_rows.get(size)
        caches = [KVCache(cache.k[:size], cache.v[:size]) for cache in self.caches]
        if few_rows and seen is None and sampling.temperature == 0:
            few_rows.read(None, self.drawn, self.turn, caches, positions, logits)
            return
        uniforms = self.uniforms[:, :size].index_select(0, turn)[0] if sampling.temperature else self.uniforms[0]
        pick = few_rows.pick if few_rows and seen is None else partial(chosen_ids, seen=seen)
        chosen = pick(logits, uniforms, sampling)
        if few_rows:
            few_rows.read(chosen, self.drawn, self.turn, caches, positions, logits)
            return
        self.drawn[:, :size].index_copy_(0, turn, chosen[None])
        self.turn += 1
        with compiling():
            self.forward(chosen[:, None], caches, positions.clamp(max=self.seq_len - 1), logits)
        positions += 1

    def _forward(self, ids: Tensor, caches: list[KVCache], offsets: Tensor, logits: Tensor) -> None:
        logits.copy_(self.model.logits(ids, caches, offsets))

    def _capture(self, steps: Steps) -> Steps:
        """Steps as graphs to be replayed: one of one step, one of as many as are asked for at once.

        Where that cannot be done, as they are, which is reported.
        """
        one, all_at_once, stream = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_STEPS):
                    self._try(steps)
            torch.cuda.current_stream().wait_stream(stream)
            for graph, count in ((one, 1), (all_at_once, self.ids_per_call)):
                with capturing(graph):
                    steps(count)
        except RuntimeError as error:
            say(f"decoding without a CUDA graph: it cannot be captured ({_first_line(error)})")
            self.graph = False
            return steps

        def take(count: int) -> None:
            if count == self.ids_per_call:
                all_at_once.replay()
            else:
                for _ in range(count):
                    one.replay()

        return take

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, moved to the first places."""
        kept, count = self._ids(list(rows)), len(rows)
        moved = [self.logits, self.positions, *([] if self.seen is None else [self.seen])]
        for tensor in [*moved, *(half for cache in self.caches for half in (cache.k, cache.v))]:
            tensor[:count] = tensor[kept]
        self.lengths = [self.lengths[row] for row in rows]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def make_decoder(
    model: LanguageModel, step: StepConfig, rows: int, vocab_size: int | None, compile_step: bool = False
) -> TorchDecoder:
    """The decoder that suits the device: by a graph on a GPU, as it goes on a CPU unless the step is compiled."""
    graph = model.embed.weight.device.type == "cuda" and step.cuda_graph != "off"
    if graph or compile_step:
        return StaticDecoder(model, rows, vocab_size, compile_step, graph, weights_dtype=step.weights_dtype)
    return TorchDecoder(model, rows, vocab_size, step.weights_dtype)
