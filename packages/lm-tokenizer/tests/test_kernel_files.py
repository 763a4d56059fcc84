"""The kernels' machine code: kept on disk, loaded without Numba, and never taken on trust."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding

import lm_tokenizer
from lm_tokenizer import Tokenizer, reference, tokenizer
from lm_tokenizer._kernels import compiled, objects
from lm_tokenizer._kernels.merge import fill_pairs, merge_long
from lm_tokenizer.engine import Engine
from lm_tokenizer.vocab import Vocabulary


def run(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRAIN_AND_ENCODE = """
import sys
from pathlib import Path
from lm_tokenizer import Tokenizer
text = Path(sys.argv[1]).read_text()
tokenizer = Tokenizer.train([text], 420, progress=False)
assert tokenizer.decode(tokenizer.encode(text * 400)) == text * 400
print(tokenizer.fingerprint, "numba" in sys.modules)
"""


@pytest.fixture
def text_file(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(text * 5)
    return path


def test_once_compiled_the_kernels_run_without_numba(text_file: Path) -> None:
    here = Tokenizer.train([text_file], 420, progress=False)  # compiles what is missing
    large = text_file.read_text() * 400
    assert here.decode(here.encode(large)) == large
    fingerprint = Tokenizer(reference.train([text_file.read_text()], 420)).fingerprint
    assert run(TRAIN_AND_ENCODE, text_file) == f"{fingerprint} False"


def test_where_the_package_cannot_be_written_the_code_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    package, source = tmp_path / "lm_tokenizer", Path(lm_tokenizer.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_kernels" / "__pycache__").write_text("a file where a folder is wanted, as good as no permission")
    code = "from lm_tokenizer._kernels import objects; print(objects.folder())"
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": "",
                   "XDG_CACHE_HOME": str(tmp_path / "cache")}  # fmt: skip
    kept = Path(run(code, **environment))
    assert kept.parent == tmp_path / "cache"
    assert kept.is_dir()
    environment["XDG_CACHE_HOME"] = str(package / "_kernels" / "__pycache__")  # not a folder either
    assert run(code, **environment) == "None"


def test_code_that_cannot_be_kept_is_built_in_a_folder_that_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def build(file: str, path: Path, progress: bool) -> bytes:
        folders.append(path.parent)
        objects.write(path, b"code")
        return objects.read(path) or b""

    monkeypatch.setattr(objects, "folder", lambda: None)
    monkeypatch.setattr(objects, "_built", build)
    assert objects._code_of("encoding", progress=False) == b"code"
    assert not folders[0].exists()


def test_a_file_that_is_cut_off_or_damaged_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, code = tmp_path / "encoding.o", bytes(range(256))
    objects.write(path, code)
    whole = path.read_bytes()
    assert objects.read(path) == code
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(objects, "path_of", lambda file: path)
    monkeypatch.setattr(objects, "_built", lambda file, path, progress: b"new")
    for wrong in [b"", *(whole[:n] for n in range(1, len(whole), 7)), whole + b"x",
                  *(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 11))]:  # fmt: skip
        path.write_bytes(wrong)
        assert objects._code_of("encoding", progress=False) == b"new"
    path.write_bytes(whole)
    assert objects._code_of("encoding", progress=False) == code


def test_no_two_kinds_of_machine_share_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def name() -> str:
        objects._target.cache_clear()
        return objects._target()

    names = [name()]
    features = binding.get_host_cpu_features()
    wanted = next(feature for feature, there in features.items() if there)
    with monkeypatch.context() as patch:
        fewer = type(features)({**features, wanted: False})
        patch.setattr(binding, "get_host_cpu_features", lambda: fewer)
        names.append(name())
    for where, value in {"get_host_cpu_name": "another", "get_process_triple": "aarch64-unknown-linux-gnu"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(binding, where, lambda value=value: value)
            names.append(name())
    for setting in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT"):
        with monkeypatch.context() as patch:
            patch.setenv(setting, "1")
            names.append(name())
    with monkeypatch.context() as patch:
        patch.setattr("llvmlite.__version__", "99")
        names.append(name())
    assert len(set(names)) == len(names)
    assert name() == names[0]


def test_where_the_code_cannot_be_built_numba_calls_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(file: str, path: Path, progress: bool) -> bytes:
        raise objects.BuildError("the tokenizer's kernels could not be compiled: a reason")

    monkeypatch.setattr(objects, "_loaded", {})
    monkeypatch.setattr(objects, "read", lambda path: None)
    monkeypatch.setattr(objects, "_built", build)
    with pytest.warns(UserWarning, match="could not be compiled: a reason; Numba calls them instead"):
        assert compiled.load("encoding") is None


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(objects.BuildError, match="could not be compiled: KeyError: 'no such file'"):
        objects._built("no such file", tmp_path / "x.o", progress=False)


def test_the_readable_path_goes_on_while_the_kernels_are_compiled(
    plain: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        running = True

        def poll(self) -> int | None:
            return None if self.running else 0

    started = [Process()]
    path = tmp_path / "encoding.o"
    monkeypatch.setattr(objects, "_loaded", {})
    monkeypatch.setattr(objects, "_building", {})
    monkeypatch.setattr(objects, "path_of", lambda file: path)
    monkeypatch.setattr(objects, "_start", lambda file, path: started.pop())
    monkeypatch.delitem(sys.modules, "lm_tokenizer.engine", raising=False)
    one = Tokenizer(plain)
    assert one._is_small(tokenizer.SMALL - 1)
    assert started  # nothing is compiled for a little text
    process = started[0]
    assert one._is_small(tokenizer.SMALL)
    assert not started
    assert one._is_small(tokenizer.SMALL)
    assert not one._is_small(tokenizer.SMALL_WHILE_COMPILING)
    process.running = False
    assert not one._is_small(1)
    objects._building.clear()
    objects.write(path, b"code")
    assert objects.is_ready("encoding")
    assert not objects._building


DECODE = """
import sys, numpy as np
from pathlib import Path
from lm_tokenizer import Tokenizer
from lm_tokenizer.engine import Engine
tokenizer = Tokenizer.load(sys.argv[1])
engine = Engine(tokenizer.vocabulary)
whole = bytes(engine.decode(np.arange(tokenizer.vocab_size)))
print(whole == b"".join(tokenizer.vocabulary.tokens), "numba" in sys.modules)
"""


def test_numba_may_call_the_kernels_itself(plain: Vocabulary, tmp_path: Path) -> None:
    Tokenizer(plain).save(tmp_path)
    assert run(DECODE, tmp_path, LM_TOKENIZER_KERNELS="numba") == "True True"


def test_a_kernel_takes_no_array_of_another_kind() -> None:
    good = np.zeros((1, 2), np.int64), np.zeros(64, np.uint64)
    fill_pairs(*good, np.uint64(61))
    for wrong in [(good[0].astype(np.int32), good[1]), (good[0][0], good[1]), (good[0], np.zeros(128, np.uint64)[::2]),
                  (good[0], good[1].astype(">u8"))]:  # fmt: skip
        with pytest.raises(TypeError, match="a kernel takes"):
            fill_pairs(*wrong, np.uint64(61))


def test_memory_that_is_not_there_is_an_error_of_python(plain: Vocabulary) -> None:
    with pytest.raises(MemoryError):
        merge_long(0, 1 << 50, Engine(plain)._model, 0)
