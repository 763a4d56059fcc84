"""`uv run apps/rlvr play`: type a problem, watch the completion, and read the checker's verdict."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from lm_core.backend import load_backend
from lm_core.continuation import Continuation
from lm_core.errors import UserError
from lm_pipeline.evaluation.evaluate import build
from lm_pipeline.generation.prompt_loop import run_prompts
from lm_pipeline.generation.settings import Settings
from lm_pipeline.generation.writer import Model
from lm_pipeline.program import run_program
from rlvr.saved import ReadFlags
from rlvr.tasks.guard import guarded
from rlvr.tasks.registry import Mixture, check_length
from rlvr.tasks.reward import reward
from rlvr.tasks.task import Problem
from rlvr.vocabulary import END

COMMAND = "uv run apps/rlvr play"


class PlayFlags(ReadFlags):
    """Type a problem such as "chain 3+4*2" or the name of a task, and watch the model answer."""

    table: ClassVar[str] = "play"

    checkpoint: str = ""
    """Run folder of the model."""


def play(flags: PlayFlags) -> int:
    """Answer problems until there are no more; returns the exit code."""
    model = flags.saved_model(flags.checkpoint)
    mixture = flags.at(flags.checkpoint).problems(model.config.seq_len)
    scorer = build(model, load_backend(flags.backend), flags.step)
    names = ", ".join(task.name for task in mixture.tasks)
    decoder = scorer.decoder(1, model.tokenizer.vocab_size)
    judge = Judge(mixture, model.config.seq_len, flags.seed)
    settings = Settings.model_validate(
        {**flags.sampling.model_dump(), "seed": flags.seed, "max_new_tokens": model.config.seq_len}
    )
    return run_prompts(Model(f"{model.name}; tasks: {names}", model.config, model.tokenizer, decoder, judge), settings)


class Judge:
    """Reads problems, and judges their completions.

    Args:
        mixture: the tasks.
        seq_len: the model's context.
        seed: of the problems that are drawn where the name of a task alone is typed.
    """

    def __init__(self, mixture: Mixture, seq_len: int, seed: int) -> None:
        self.tasks = {task.name: task for task in mixture.tasks}
        self.seq_len, self.seed, self.drawn = seq_len, seed, 0

    def __call__(self, typed: str) -> tuple[str, Callable[[Continuation], str]]:
        """The prompt of a problem, and what judges its completion.

        Raises:
            UserError: for what is not a problem of the tasks.
        """
        problem = self._problem(typed)
        check_length(problem, self.seq_len)

        def verdict(written: Continuation) -> str:
            components = reward(problem, written.text + END * (written.reason == "end_of_text"))
            if components["correct"]:
                return "   right"
            return f"   wrong: {'not ended' if written.reason != 'end_of_text' else problem.solution}"

        return problem.prompt, verdict

    def _problem(self, typed: str) -> Problem:
        name, _, question = typed.strip().removesuffix("=").partition(" ")
        if name not in self.tasks:
            raise UserError(f"{typed!r} does not start with a task of the model: {', '.join(self.tasks)}")
        task = self.tasks[name]
        if not question:
            self.drawn += 1
            return task.problem(self.seed, self.drawn, "test")
        try:
            with guarded(name, "a question"):
                return Problem(task, question, task.highest, task.solve(question))
        except UserError:
            example = task.problem(self.seed, 0, "test").prompt
            raise UserError(f"{typed!r} is not a problem of the task {name}, such as {example!r}") from None


def main(argv: Sequence[str]) -> int:
    """The program; returns its exit code."""
    return run_program(PlayFlags, COMMAND, play, argv)
