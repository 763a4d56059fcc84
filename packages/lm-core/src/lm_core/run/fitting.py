"""Whether a run fits the memory, and what to change where it does not, under the app's own names.

The estimate of `lm_core.model.memory` is a lower bound: what exceeds it is refused before anything is written, and what
fits it may still fill the memory in the first step. Either is one line.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lm_core.errors import UserError, lacks_memory, memory_full
from lm_core.model.memory import check_memory, largest_batch, readable, training_memory
from lm_core.run.plan import Plan


def check_fits(plan: Plan, available: int | None) -> None:
    """Refuse a run that cannot fit.

    Args:
        plan: the run.
        available: bytes of the device; None if not known.

    Raises:
        UserError: with the parts of what it needs, and what to change.
    """
    check_memory(plan.memory, available, "training", lambda: _advice(plan, available, plan.largest[0]))


@contextmanager
def fitting(plan: Plan, available: int | None, kept: Callable[[], str] | None = None) -> Iterator[None]:
    """A context in which the run's memory is filled.

    Args:
        plan: the run.
        available: bytes of the device; None if not known.
        kept: says which checkpoint is kept.

    Raises:
        UserError: when it does not suffice, with what is known of its size, and what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        rows, length = plan.largest
        parts = plan.step.grad_accum_steps * plan.ranks
        least = f"a step on {rows:,} rows of {length:,} tokens needs at least {readable(plan.memory.total)}"
        of = f" of {readable(available)}" if available else ""
        halved = rows // parts // 2 * parts  # by the estimate it fits, and what that leaves out is not known
        after = f"; {kept()}" if kept else ""
        advice = _advice(plan, available, halved)
        raise UserError(f"{memory_full(error)}; by estimate, {least}{of}: {advice}{after}") from error


def _advice(plan: Plan, available: int | None, most: int) -> str:
    """Say which keys to change, and to which values, so that no more than `most` rows are computed at once.

    Gradient accumulation and checkpointing come first, which leave the results as they are.
    """
    rows, length = plan.largest
    step, names = plan.step, plan.knobs

    def fits(**values: object) -> bool:
        changed = step.model_copy(update=values)
        needed = training_memory(plan.model, plan.optimizer, changed, rows, length, plan.ranks).total
        return available is None or needed <= available

    if available is not None:
        most = min(most, largest_batch(plan.model, plan.optimizer, step, length, available, plan.ranks))
    at_once = most // step.grad_accum_steps
    ways = []
    if "grad_accum_steps" in names and at_once:
        for parts in range(max(step.grad_accum_steps + 1, -(-rows // at_once)), rows + 1):
            if rows % (parts * plan.ranks) == 0 and fits(grad_accum_steps=parts):
                micro = names.get("micro_batch_size")
                with_it = f"lower {micro} to {rows // parts:,} and " if micro else ""
                ways.append(f"{with_it}raise {names['grad_accum_steps']} to {parts:,}")
                break
    if "gradient_checkpointing" in names and not step.gradient_checkpointing and fits(gradient_checkpointing=True):
        ways.append(f"turn on {names['gradient_checkpointing']}")
    if most and "micro_batch_size" not in names:
        ways.append(f"lower {names.get('batch_size', 'the batch size')} to {most:,}, the most that may fit")
    lower = [names.get("d_model", "the width of the model")]
    one_token = None if available is None else largest_batch(plan.model, plan.optimizer, step, 1, available, plan.ranks)
    if one_token != 0:  # else the weights alone do not fit
        lower.insert(0, names.get("seq_len", "the sequence length"))
    ways.append(f"lower {' or '.join(lower)}")
    return ", or ".join(ways)
