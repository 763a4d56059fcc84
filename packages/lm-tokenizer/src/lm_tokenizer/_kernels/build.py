"""Compiles the kernels of an object file: `python -m lm_tokenizer._kernels.build FILE PATH`.

    kernels --Numba--> LLVM's language --linked, with an entry for each that takes numbers--> one module --> object file

The kernels are compiled without Numba's runtime, and what the object file leaves to be found elsewhere is checked: the
C library's functions on memory, and nothing else. How far it is, is written to standard output.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

from lm_tokenizer._kernels import objects
from lm_tokenizer._kernels.compiled import NO_MEMORY, Array, Kernel, Kind, numbers_of
from lm_tokenizer._kernels.with_numba import dispatcher

FROM_C = {"malloc", "calloc", "free", "memcpy", "memmove", "memset", "memset_pattern16", "memcmp", "bcmp", "bzero"}
"""What is in every C library, and on a Mac: what LLVM puts in the place of loops there."""
I64 = ir.IntType(64)


def variants_in(file: str) -> list[tuple[Kernel, str, tuple[Kind, ...]]]:
    """The kernels in an object file, each with the name of the variant and the kinds of its parameters."""
    names = objects.MODULES[file.partition("-")[0]]
    modules = [importlib.import_module(f"{objects.__package__}.{name}") for name in names]
    kernels = {value: None for module in modules for value in vars(module).values() if isinstance(value, Kernel)}
    every = [(kernel, *variant) for kernel in kernels for variant in kernel.variants()]
    return [(kernel, name, kinds) for kernel, of, name, kinds in every if of == file]


def object_code(file: str) -> bytes:
    """The content of an object file."""
    entries = ir.Module("entries")
    entries.triple = binding.get_process_triple()
    # No machine code is needed before all is linked: Numba gets some function, another one each time, for an address.
    cpu_target.target_context.get_executable = lambda *_: [].append
    linked, machine, variants = [], None, variants_in(file)
    for i, (kernel, name, kinds) in enumerate(variants):
        with contextlib.suppress(BrokenPipeError):  # the process that asked need not wait
            print(f"{i} of {len(variants)}", flush=True)
        function = dispatcher(kernel.function, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
        signature = tuple(_type_of(kind) for kind in kinds)
        function.compile(signature)
        result = function.overloads[signature]
        _add_entry(entries, name, result, kinds)
        with global_compiler_lock:
            result.library.finalize()
        linked.append(result.library.get_llvm_str())
        machine = result.library.codegen._tm
    module = binding.parse_assembly(str(entries))
    for text in linked:
        module.link_in(binding.parse_assembly(text))
    return _emitted(module, {name for _, name, _ in variants}, machine)


def _emitted(module: Any, names: set[str], machine: Any) -> bytes:
    """The machine code of a module, of which only the named functions are kept, and what they call."""
    for value in [*module.functions, *module.global_variables]:
        if not value.is_declaration and value.name not in names:
            value.linkage = "internal"
    tuning = binding.create_pipeline_tuning_options(speed_level=3)
    builder = binding.create_pass_builder(machine, tuning)
    passes = builder.getModulePassManager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, builder)
    module.verify()
    foreign = {value.name for value in [*module.functions, *module.global_variables] if value.is_declaration}
    foreign = {name for name in foreign if not name.startswith("llvm.")} - FROM_C
    if foreign:
        raise ValueError(f"the kernels need what is not theirs: {', '.join(sorted(foreign))}")
    return machine.emit_object(module)


def _type_of(kind: Kind) -> Any:
    """Numba's type of a kind of parameter."""
    if isinstance(kind, Array):
        return types.Array(from_dtype(kind.dtype), kind.dimensions, "C")
    if isinstance(kind, tuple):
        return types.Tuple([_type_of(item) for item in kind])
    if kind is None:
        return types.none
    if hasattr(kind, "_fields"):
        return types.NamedUniTuple(types.int64, len(kind._fields), kind)
    return {int: types.int64, np.uint64: types.uint64}[kind]


def _add_entry(entries: ir.Module, name: str, result: Any, kinds: tuple[Kind, ...]) -> None:
    """Add a function that takes numbers and calls a kernel with what they stand for."""
    context = result.target_context
    callee = context.declare_function(entries, result.fndesc)
    n_numbers = sum(map(numbers_of, kinds))
    entry = ir.Function(entries, ir.FunctionType(I64, [I64] * n_numbers), name)
    builder = ir.IRBuilder(entry.append_basic_block())
    numbers = iter(entry.args)
    values = [_value_of(context, builder, kind, numbers) for kind in kinds]
    status, value = context.call_conv.call_function(
        builder, callee, result.signature.return_type, result.signature.args, values
    )
    with cgutils.if_unlikely(builder, status.is_error):
        builder.ret(I64(NO_MEMORY))  # the only error there is
    if result.signature.return_type == types.none:
        builder.ret(I64(0))
    else:
        builder.ret(context.cast(builder, value, result.signature.return_type, types.int64))


def _value_of(context: Any, builder: Any, kind: Kind, numbers: Iterator[Any]) -> Any:
    """What some of an entry's numbers stand for."""
    if kind is None:
        return context.get_dummy_value()
    if isinstance(kind, Array):
        return _array_at(context, builder, _type_of(kind), [next(numbers) for _ in range(numbers_of(kind))])
    if isinstance(kind, tuple):
        values = [_value_of(context, builder, item, numbers) for item in kind]
        return context.make_tuple(builder, _type_of(kind), values)
    if hasattr(kind, "_fields"):
        return context.make_tuple(builder, _type_of(kind), [next(numbers) for _ in kind._fields])
    return next(numbers)


def _array_at(context: Any, builder: Any, kind: types.Array, numbers: list[Any]) -> Any:
    """An array over memory that is not its own: an address and the lengths."""
    address, *shape = numbers
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [I64(itemsize)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()


def main(file: str, target: str) -> None:
    """Write an object file, unless another process does so meanwhile."""
    path = Path(target)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except ImportError:  # Windows: the work may be done twice
            pass
        if objects.read(path) is None:
            objects.write(path, object_code(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
