"""One job in a process of its own: `python -m lm_bench.gpu.child JOB`, the job as JSON.

It says that it is ready by one line on stdout, works a block for every line on stdin (under a profiler, if the line is
"profile") and answers with one line, and ends with stdin.
"""

import json
import os
import sys
import traceback

from lm_bench.gpu.jobs import Job
from lm_bench.gpu.sides import LAST_LINES


def main() -> None:
    """The process."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    try:
        job = Job.model_validate_json(sys.argv[1])
        from lm_bench.gpu.work import profile, report, start  # takes seconds, and a wrong job needs none of it

        block = start(job)
        answers.write('{"ready": true}\n')
        for line in sys.stdin:
            answers.write((profile(block) if line == "profile\n" else report(job, block())).model_dump_json() + "\n")
    except Exception:
        lines = traceback.format_exc().strip().splitlines()
        answers.write(json.dumps({"error": " | ".join(line.strip() for line in lines[-LAST_LINES:])}) + "\n")
        raise


if __name__ == "__main__":
    main()
