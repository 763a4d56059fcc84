"""Row: the command lines themselves, each stopped, killed, and resumed by the command that it printed.

    whole: PROGRAM ... --save_dir whole/NAME                to its end
    trial: PROGRAM ... --save_dir I/NAME  --SIGINT--> prints "to resume: COMMAND"
           COMMAND                        --SIGKILL, at a random instant-->
           COMMAND                                          to its end, which is that of `whole` to the bit

Everything else in a campaign goes through `child`; here nothing of the campaign is in the process.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lm_bench.cases import random_walk
from lm_bench.faults.bench import PATIENCE, Bench
from lm_bench.faults.outcome import Outcome, differences
from lm_bench.faults.row import Row
from lm_bench.faults.trial import TOKENIZER, VOCABULARY
from lm_tokenizer.token_file import TokenFileWriter

TRIALS = 10
"""Of each program, in a whole campaign."""
RESUME = "to resume: "


@dataclass(frozen=True)
class Program:
    """A command line that trains the smallest model."""

    command: str
    """As its users type it, behind `uv run`: a script, or a folder of the repository."""
    flags: str
    inner: str = ""
    """The run folder in its `--save_dir`."""
    first: str = ""
    """Flags of the call that makes what it starts from."""


PROGRAMS = (
    Program(
        "apps/testbed_d",
        "--text text.txt --steps 240 --d_model 16 --n_layer 1 --n_head 2 --batch 2 --ctx 16 --lmin 4 --lmax 16"
        " --len_bucket 4 --eval_bs 2 --eval_every 60 --save_every 20 --log_every 10 --sample 8",
    ),
    Program(
        "apps/transformer_lm",
        "--dataset tinyshakespeare --data_dir text.txt --dim 16 --num_blocks 1 --num_heads 2 --context_size 16"
        " --batch_size 2 --num_iters 240 --steps_per_eval 60 --steps_per_save 20 --steps_per_report 10"
        " --sample_tokens 8 --dropout 0.1",
        "001-tinyshakespeare",
    ),
    Program(
        "transformerlm-train",
        "--data.train train.npy --data.validation validation.npy --data.tokenizer tokenizer --model.seq_len 16"
        " --model.d_model 16 --model.n_layers 1 --model.n_heads 2 --model.dropout 0.1 --training.batch_size 2"
        " --training.max_steps 240 --training.eval_every 60 --training.save_every 20 --training.log_every 10",
    ),
    Program(
        "apps/rlvr",
        "train --pretrained pretrained --prompts 3 --samples 4 --answer_length 6 --updates 2 --length_reward 1"
        " --lr 1e-2 --steps 120 --save_every 20 --log_every 10",
        first="pretrain --tasks add --max_level 1 --d_model 16 --n_layers 1 --n_heads 2 --seq_len 20 --batch_size 16"
        " --steps 40 --eval_batches 0 --save_dir pretrained",
    ),
)


def command_lines(bench: Bench, row: Row) -> None:
    """Each program that is installed, some times over."""
    folder = bench.folder / "commands"
    folder.mkdir()
    _write_material(folder)
    for program in PROGRAMS:
        try:
            start = _executable(program.command)
        except FileNotFoundError as error:
            row.notes.append(f"{program.command} is skipped: {error}")
            continue
        _hurt(bench, row, program, _Runner(start, folder, bench.backend))
    if not row.trials:
        row.skipped = "; ".join(row.notes)


@dataclass(frozen=True)
class _Runner:
    """Starts a program in the folder of its material, its output in a file."""

    start: Sequence[str]
    folder: Path
    backend: str

    def popen(self, words: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
        with said.open("ab") as file:
            return subprocess.Popen(
                [*self.start, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )


def _hurt(bench: Bench, row: Row, program: Program, runner: _Runner) -> None:
    name = program.command.rpartition("/")[2]
    flags = [*program.flags.split(), "--backend", runner.backend, "--save_dir"]
    if program.first:
        _end(runner.popen([*program.first.split(), "--backend", runner.backend], runner.folder / f"{name}-first.said"))
    begun = time.monotonic()
    code = _end(runner.popen([*flags, f"whole/{name}"], runner.folder / f"{name}-whole.said"))
    duration = time.monotonic() - begun
    whole = Outcome.of(runner.folder / "whole" / name / program.inner)
    assert code == 0, f"{name}: {(runner.folder / f'{name}-whole.said').read_text()[-400:]}"
    for i in range(bench.count(TRIALS, 1)):
        what = f"--only commands --seed {bench.seed}, {name} {i}"
        saved, said = runner.folder / str(i) / name, runner.folder / f"{name}-{i}.said"  # its name is in the config
        row.trials += 1
        again = _stopped(runner, [*flags, f"{i}/{name}"], saved / program.inner, said)
        if not again:
            row.violations.append(f"{what}: stopped, it prints no command: {said.read_text()[-400:]}")
            continue
        before = Outcome.of(saved / program.inner).step
        _end(runner.popen(again, said), bench.draw("commands", name, i).uniform(0, duration))
        found = Outcome.of(saved / program.inner).step
        if found < before:
            row.lost_saves += 1
            row.violations.append(f"{what}: step {before} had been saved, found {found}")
        row.resumed += 1
        code = _end(runner.popen(again, said))
        wrong = differences(Outcome.of(saved / program.inner), whole) if code == 0 else [f"exit code {code}"]
        row.same += not wrong
        if wrong:
            row.violations.append(f"{what}: resumed, it differs: {'; '.join(wrong[:4])} {said.read_text()[-300:]}")


def _stopped(runner: _Runner, words: Sequence[str], run: Path, said: Path) -> list[str]:
    """Stop a run once it has logged something: the words of the command that it prints, without the program."""
    process = runner.popen(words, said)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    code = _end(process)
    printed = said.read_text(errors="replace").rpartition(RESUME)[2].splitlines() if code == 0 else []
    return shlex.split(printed[0])[3:] if printed and RESUME in said.read_text(errors="replace") else []


def _end(process: subprocess.Popen[bytes], kill_after: float = 0.0) -> int:
    """Wait for a process, for some time or for as long as it may take, and kill it then; its exit code."""
    try:
        return process.wait(kill_after or 10 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _executable(command: str) -> list[str]:
    """Words that start a program in this environment.

    Raises:
        FileNotFoundError: where it is not installed; the message says so.
    """
    if not command.startswith("apps/"):
        script = shutil.which(command, path=str(Path(sys.executable).parent))
        if script is None:
            raise FileNotFoundError(f"it is not installed beside {sys.executable}")
        return [script]
    if find_spec(command.removeprefix("apps/")) is None:
        raise FileNotFoundError("it is not installed")
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        if (folder / command / "__main__.py").is_file():
            return [sys.executable, str(folder / command)]
    raise FileNotFoundError(f"there is no {command} here; start lm-bench in the repository")


def _write_material(folder: Path) -> None:
    """A text with something to learn in it; a tokenizer and two token files."""
    text = "".join(f"line {i}: the square of {i} is {i * i}\n" for i in range(400))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    TOKENIZER.save(folder / "tokenizer")
    for name, count in (("train", 2000), ("validation", 200)):
        with TokenFileWriter(
            folder / f"{name}.npy", "uint16", vocab_size=TOKENIZER.vocab_size, fingerprint=TOKENIZER.fingerprint
        ) as file:
            file.write(random_walk(VOCABULARY, count), text_bytes=count, documents=1)
