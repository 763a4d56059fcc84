"""Size of a run, as it is printed before the first step."""

from lm_core.model.memory import readable
from lm_core.model.parameters import parameter_count
from lm_core.run.folder import RunFolder
from lm_core.run.plan import Plan


def summary(plan: Plan, folder: RunFolder, available: int | None) -> str:
    """The size of the run in two lines: the model and its folder; the text, the steps and the memory."""
    parameters, about = parameter_count(plan.model), "about " * (len(plan.shapes) > 1)
    rows, length = plan.largest
    return (
        f"{parameters:,} parameters, vocabulary {plan.model.vocab_size:,}, run folder {folder.path}\n"
        f"{plan.training_tokens:,} training tokens, of which {plan.loop.max_steps:,} steps of {rows:,} sequences"
        f" ({'at most ' * bool(about)}{rows * length:,} tokens) read {about}{plan.tokens:,}"
        f" ({_ratio(plan.tokens, plan.training_tokens)} epochs, {_ratio(plan.tokens, parameters)} per parameter);"
        f" memory: at least {readable(plan.memory.total)}{f' of {readable(available)}' if available else ''}"
    )


def _ratio(number: int, of: int) -> str:
    return f"{number / of:,.0f}" if number >= 10 * of else f"{number / of:#.2g}"
