"""The reward of a completion, by its components.

    correct   1 where the checker finds the answer right
    format    1 where the text has the task's format
    length    the shorter of the text and the solution over the longer, in characters: 1 where they are as long

A text that the model has not ended by itself is neither correct nor well formed.
"""

from rlvr.tasks.guard import guarded
from rlvr.tasks.task import Problem
from rlvr.vocabulary import END

COMPONENTS = ("correct", "format", "length")


def reward(problem: Problem, completion: str) -> dict[str, float]:
    """All components, each from 0 to 1, of a completion in which `END` is spelled out.

    Raises:
        UserError: when the task's checker raises or hangs.
    """
    text, ended = completion.removesuffix(END), completion.endswith(END)
    task, question = problem.task, problem.question
    with guarded(task.name, f"the completion {text!r} of {problem.prompt!r}"):
        correct = ended and task.is_right(question, text)
        well_formed = ended and task.is_formed(question, text)
    shorter, longer = sorted((len(text), len(problem.solution)))
    return {"correct": float(correct), "format": float(well_formed), "length": shorter / max(longer, 1)}
