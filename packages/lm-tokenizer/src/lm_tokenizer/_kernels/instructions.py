"""LLVM instructions that Numba's Python lacks: wide compares, unaligned loads, prefetches, atomics, on raw addresses.

An address is an int64. Nothing is checked here: every caller proves that what it reads and writes is its own.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
LANES = 64  # bytes of a block: one bit each in a uint64


def _pointer(builder, address, kind):
    return builder.inttoptr(address, ir.PointerType(kind))


def _load(builder, address, kind):
    return builder.load(_pointer(builder, address, kind), align=1)


def _splat(value):
    return ir.Constant(ir.VectorType(I8, LANES), [value] * LANES)


@intrinsic
def block_masks(typingctx, address):
    """One bit each of the 64 bytes at `address`: ASCII letters, digits, white space, spaces, apostrophes, non-ASCII;
    line feeds or carriage returns, slashes, ASCII capitals."""
    if not isinstance(address, types.Integer):
        return None

    def codegen(context, builder, signature, arguments):
        block = _load(builder, arguments[0], ir.VectorType(I8, LANES))

        def equal(character):
            return builder.icmp_unsigned("==", block, _splat(ord(character)))

        def within(vector, first, count):
            return builder.icmp_unsigned("<", builder.sub(vector, _splat(first)), _splat(count))

        letters = within(builder.or_(block, _splat(0x20)), ord("a"), 26)
        white = builder.or_(equal(" "), within(block, 9, 5))
        newlines, high = builder.or_(equal("\n"), equal("\r")), builder.icmp_signed("<", block, _splat(0))
        masks = [letters, within(block, ord("0"), 10), white, equal(" "), equal("'"), high,
                 newlines, equal("/"), within(block, ord("A"), 26)]  # fmt: skip
        bits = [builder.bitcast(mask, I64) for mask in masks]
        return context.make_tuple(builder, signature.return_type, bits)

    return types.UniTuple(types.uint64, 9)(types.int64), codegen


@intrinsic
def load_u8(typingctx, address):
    """The byte at an address."""

    def codegen(context, builder, signature, arguments):
        return _load(builder, arguments[0], I8)

    return types.uint8(types.int64), codegen


@intrinsic
def load_u32(typingctx, address):
    """Four bytes at an address, which need not be aligned."""

    def codegen(context, builder, signature, arguments):
        return _load(builder, arguments[0], I32)

    return types.uint32(types.int64), codegen


@intrinsic
def load_u64(typingctx, address):
    """Eight bytes at an address, which need not be aligned."""

    def codegen(context, builder, signature, arguments):
        return _load(builder, arguments[0], I64)

    return types.uint64(types.int64), codegen


@intrinsic
def item_u32(typingctx, address, index):
    """Element `index` of the uint32 at `address`."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.gep(_pointer(builder, arguments[0], I32), [arguments[1]])
        return builder.load(pointer, align=4)

    return types.uint32(types.int64, types.int64), codegen


@intrinsic
def set_item_u32(typingctx, address, index, value):
    """Write element `index` of the uint32 at `address`."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.gep(_pointer(builder, arguments[0], I32), [arguments[1]])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint32), codegen


@intrinsic
def item_u64(typingctx, address, index):
    """Element `index` of the uint64 at `address`."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.gep(_pointer(builder, arguments[0], I64), [arguments[1]])
        return builder.load(pointer, align=8)

    return types.uint64(types.int64, types.int64), codegen


@intrinsic
def set_item_u64(typingctx, address, index, value):
    """Write element `index` of the uint64 at `address`."""

    def codegen(context, builder, signature, arguments):
        pointer = builder.gep(_pointer(builder, arguments[0], I64), [arguments[1]])
        builder.store(arguments[2], pointer, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint64), codegen


@intrinsic
def store_u64(typingctx, address, value):
    """Write eight bytes at an address, which need not be aligned."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], _pointer(builder, arguments[0], I64), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), codegen


@intrinsic
def store_u32(typingctx, address, value):
    """Write four bytes at an address, which need not be aligned."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], _pointer(builder, arguments[0], I32), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32), codegen


@intrinsic
def store_u8(typingctx, address, value):
    """Write a byte at an address."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], _pointer(builder, arguments[0], I8), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint8), codegen


@intrinsic
def store_u16(typingctx, address, value):
    """Write the low two bytes of a uint32 at an address, which need not be aligned."""

    def codegen(context, builder, signature, arguments):
        low = builder.trunc(arguments[1], I16)
        builder.store(low, _pointer(builder, arguments[0], I16), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32), codegen


@intrinsic
def copy_16(typingctx, target, source):
    """Copy 16 bytes."""

    def codegen(context, builder, signature, arguments):
        kind = ir.VectorType(I8, 16)
        builder.store(_load(builder, arguments[1], kind), _pointer(builder, arguments[0], kind), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def copy_ids_u32(typingctx, target, source):
    """Copy four uint32."""

    def codegen(context, builder, signature, arguments):
        kind = ir.VectorType(I32, 4)
        builder.store(_load(builder, arguments[1], kind), _pointer(builder, arguments[0], kind), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def copy_ids_u16(typingctx, target, source):
    """Copy four uint32 as four uint16."""

    def codegen(context, builder, signature, arguments):
        wide, narrow = ir.VectorType(I32, 4), ir.VectorType(I16, 4)
        ids = builder.trunc(_load(builder, arguments[1], wide), narrow)
        builder.store(ids, _pointer(builder, arguments[0], narrow), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line of an address."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [I8.as_pointer()], kind)
        pointer = _pointer(builder, arguments[0], I8)
        builder.call(function, [pointer, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def trailing_zeros(typingctx, bits):
    """Position of the lowest set bit of a uint64; 64 where there is none."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], I1(0))

    return types.int64(types.uint64), codegen


@intrinsic
def leading_zeros(typingctx, bits):
    """Number of zero bits above the highest set bit of a uint64 that is not 0."""

    def codegen(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], I1(1))

    return types.int64(types.uint64), codegen


@intrinsic
def count_bits(typingctx, bits):
    """Number of set bits of a uint64."""

    def codegen(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


@intrinsic
def load_acquire(typingctx, address):
    """A uint64, aligned; what its writer wrote before releasing it is seen too."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0], I64), "acquire", 8)

    return types.uint64(types.int64), codegen


@intrinsic
def store_release(typingctx, address, value):
    """Publish a uint64, aligned, with everything written before it."""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0], I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), codegen


@intrinsic
def claim(typingctx, address, value):
    """Put `value` where a uint64 is 0; whether this thread did."""

    def codegen(context, builder, signature, arguments):
        outcome = builder.cmpxchg(_pointer(builder, arguments[0], I64), I64(0), arguments[1], "acq_rel", "acquire")
        return builder.extract_value(outcome, 1)

    return types.boolean(types.int64, types.uint64), codegen


@intrinsic
def fetch_add(typingctx, address, value):
    """Add to an int64 that threads share; what it was before."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments[0], I64), arguments[1], "monotonic")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def least_of_16(typingctx, address):
    """The smallest of 16 uint32."""

    def codegen(context, builder, signature, arguments):
        kind = ir.VectorType(I32, 16)
        name = "llvm.vector.reduce.umin.v16i32"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [kind]), name)
        return builder.call(function, [_load(builder, arguments[0], kind)])

    return types.uint32(types.int64), codegen


@intrinsic
def find_in_8(typingctx, address, key, shift):
    """One bit each of 8 uint64 at `address`: whether it is `key` above the lowest `shift` bits; whether all ones."""
    result = types.UniTuple(types.uint64, 2)

    def codegen(context, builder, signature, arguments):
        kind = ir.VectorType(I64, 8)
        lanes = _load(builder, arguments[0], kind)

        def splat(value):
            vector = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
            zeros = ir.Constant(ir.VectorType(I32, 8), [0] * 8)
            return builder.shuffle_vector(vector, ir.Constant(kind, ir.Undefined), zeros)

        def bits(mask):
            return builder.zext(builder.bitcast(mask, I8), I64)

        same = builder.icmp_unsigned("==", builder.lshr(lanes, splat(arguments[2])), splat(arguments[1]))
        empty = builder.icmp_signed("==", lanes, ir.Constant(kind, [-1] * 8))
        return context.make_tuple(builder, signature.return_type, [bits(same), bits(empty)])

    return result(types.int64, types.uint64, types.uint64), codegen


def _new_array(typingctx, shape, dtype, function):
    """The signature and the code of `new_array` and `new_zeros`: `function` is the C library's calloc or malloc."""
    element = dtype.dtype if isinstance(dtype, types.DType) else dtype.instance_type
    dimensions = len(shape) if isinstance(shape, types.BaseTuple) else 1
    lengths = types.UniTuple(types.int64, dimensions) if isinstance(shape, types.BaseTuple) else types.int64
    result = types.Array(element, dimensions, "C")

    def codegen(context, builder, signature, arguments):
        lengths = cgutils.unpack_tuple(builder, arguments[0]) if signature.args[0] != types.int64 else [arguments[0]]
        itemsize = context.get_abi_sizeof(context.get_data_type(element))
        strides = [I64(itemsize)]
        for length in lengths[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        n_bytes = builder.add(builder.mul(strides[0], lengths[0]), I64(8))  # never 0, for which none may be given
        sizes = [n_bytes] if function == "malloc" else [n_bytes, I64(1)]
        kind = ir.FunctionType(I8.as_pointer(), [I64] * len(sizes))
        memory = builder.call(cgutils.get_or_insert_function(builder.module, kind, function), sizes)
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, memory)):
            context.call_conv.return_user_exc(builder, MemoryError, ("the tokenizer's kernels",))
        array = context.make_array(result)(context, builder)
        data = builder.bitcast(memory, context.get_data_type(element).as_pointer())
        populate_array(array, data=data, shape=lengths, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()

    return result(lengths, dtype), codegen


@intrinsic
def new_array(typingctx, shape, dtype):
    """An array in memory that `free_array` gives back, of whatever content. Raises MemoryError."""
    return _new_array(typingctx, shape, dtype, "malloc")


@intrinsic
def new_zeros(typingctx, shape, dtype):
    """`new_array` of zeros."""
    return _new_array(typingctx, shape, dtype, "calloc")


@intrinsic
def free_array(typingctx, array):
    """Give the memory of a `new_array` back."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "free")
        builder.call(function, [builder.bitcast(data, I8.as_pointer())])
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def copy_bytes(typingctx, target, source, n_bytes):
    """Copy bytes between addresses; what they span does not overlap."""

    def codegen(context, builder, signature, arguments):
        target, source, n_bytes = arguments
        cgutils.raw_memcpy(builder, _pointer(builder, target, I8), _pointer(builder, source, I8), n_bytes, I64(1))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
