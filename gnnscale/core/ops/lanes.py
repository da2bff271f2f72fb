"""What compiled loops over rows need of the machine: rows fetched ahead, narrow ones widened.

Neighbours' rows lie anywhere, so that the processor guesses none of them; asked for a dozen edges
before they are needed, they come while others are added up.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 12
"""Edges between a row's being asked for and its being needed."""
LINE = 64
"""Bytes that memory hands over at once."""
BYTE, HALF, WORD, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _fetch(builder: Any, place: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), WORD, WORD, WORD])
    asked = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(asked, [place, WORD(0), WORD(3), WORD(1)])  # to be read, to be kept, data


@intrinsic
def fetch(typing_context, table, row, byte):
    """Ask the memory for the line that holds byte ``byte`` of a row of a table; changes nothing.

    Shapes: table [n, ...], its entries side by side within a row.
    """

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        start = builder.mul(args[1], builder.extract_value(array.strides, 0))
        rows = builder.bitcast(array.data, BYTE.as_pointer())
        _fetch(builder, builder.gep(rows, [builder.add(start, args[2])]))
        return context.get_dummy_value()

    return types.void(table, types.int64, types.int64), generate


@intrinsic
def widened(typing_context, value):
    """A float as it is; 16 bits, int16, are those of a bfloat16 and become that float32."""
    if isinstance(value, types.Float):
        return value(value), lambda context, builder, signature, args: args[0]

    def generate(context, builder, signature, args):
        bits = builder.shl(builder.zext(args[0], WORD), WORD(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int16), generate


def adder(lanes: int, scaled: bool = False) -> Callable[..., Any]:
    """A compiled function of (indices, begin, end, q, column, scale, out), for compiled loops.

    out[:lanes] = sum over begin <= e < end of q[indices[e], column : column + lanes], in 16 bits:
    at most 256 rows. ``scaled``: each times scale[e], in 32 bits, which is not read otherwise.
    Nothing checks that columns and rows exist.

    Shapes: indices [E] int32, q [n, D] int8 or int16 with its columns side by side, scale [E]
    int16, out [lanes] int16, ``scaled`` int32.
    """
    sums, bytes_ = (WORD, 4) if scaled else (HALF, 2)

    @intrinsic
    def add(typing_context, indices, begin, end, q, column, scale, out):
        def generate(context, builder, signature, args):
            def pointer(k: int, to: ir.Type) -> Any:
                array = context.make_array(signature.args[k])(context, builder, args[k])
                return array, builder.bitcast(array.data, to.as_pointer())

            (_, rows), (table, codes), (_, factors), (_, put) = (
                pointer(0, WORD),
                pointer(3, BYTE),
                pointer(5, HALF),
                pointer(6, BYTE),
            )
            begin_, end_, stride = args[1], args[2], builder.extract_value(table.strides, 0)
            code = signature.args[3].dtype
            kind, size = context.get_value_type(code), LONG(code.bitwidth // 8)
            codes = builder.gep(codes, [builder.mul(args[4], size)])
            narrow, wide = ir.VectorType(kind, lanes), ir.VectorType(sums, lanes)

            def row(e: Any) -> Any:
                number = builder.sext(builder.load(builder.gep(rows, [e])), LONG)
                return builder.gep(codes, [builder.mul(number, stride)])

            start = builder.basic_block
            loop, done = (builder.function.append_basic_block(name) for name in ("rows", "done"))
            none, last = ir.Constant(wide, [0] * lanes), builder.sub(end_, LONG(1))
            builder.cbranch(builder.icmp_signed("<", begin_, end_), loop, done)

            builder.position_at_end(loop)
            e, total = builder.phi(LONG), builder.phi(wide)
            far = builder.add(e, LONG(AHEAD))
            far = builder.select(builder.icmp_signed("<", far, last), far, last)
            _fetch(builder, row(far))
            given = builder.load(builder.bitcast(row(e), narrow.as_pointer()), align=1)
            term = builder.sext(given, wide)
            if scaled:
                by = builder.sext(builder.load(builder.gep(factors, [e]), align=2), WORD)
                term = builder.mul(every(builder, by, wide), term)
            more = builder.add(total, term)
            following = builder.add(e, LONG(1))
            for phi, first, then in ((e, begin_, following), (total, none, more)):
                phi.add_incoming(first, start)
                phi.add_incoming(then, loop)
            builder.cbranch(builder.icmp_signed("<", following, end_), loop, done)

            builder.position_at_end(done)
            found = builder.phi(wide)
            found.add_incoming(none, start)
            found.add_incoming(more, loop)
            builder.store(found, builder.bitcast(put, wide.as_pointer()), align=bytes_)
            return context.get_dummy_value()

        ints = types.int64
        return types.void(indices, ints, ints, q, ints, scale, out), generate

    return add


def every(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """A value in all lanes of a vector."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, WORD(0))
    mask = ir.Constant(ir.VectorType(WORD, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)


KINDS = ("scaled", "sum", "max", "min", "squares")


def folder(kinds: tuple[str, ...], lanes: int) -> Callable[..., Any]:
    """A compiled function of (indices, begin, end, x, column, scale, out, high, low), for loops.

    Goes over the rows x[indices[e], column : column + lanes], begin <= e < end, each read once for
    all kinds, with the results in registers, and goes on from what out[k, column : column + lanes]
    holds, k a kind's place in ``KINDS``: ``sum``; ``scaled``, the sum of scale[e - begin] times the
    row; ``squares``, the sum of the row's; ``max`` or ``min``, and whose it is, the first e that
    has it (its last 32 bits), in high[column : column + lanes] or low. What a kind does not need is
    not read. Nothing checks that columns and rows exist.

    A plain loop keeps its result in memory, and of "keep the larger one" makes stores under a
    mask, which AMD's processors are slow at.

    Shapes: indices [E] int32, x [n, D] with its columns side by side, scale [..], out [5, D], both
    of the kind of x, high, low [D] int32.
    """
    whose = {"max": 7, "min": 8}

    @intrinsic
    def fold(typing_context, indices, begin, end, x, column, scale, out, high, low):
        def generate(context, builder, signature, args):
            real = context.get_value_type(signature.args[3].dtype)
            vector, numbers = ir.VectorType(real, lanes), ir.VectorType(WORD, lanes)
            size = signature.args[3].dtype.bitwidth // 8

            def array(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, args[k])

            def data(k: int, to: ir.Type) -> Any:
                return builder.bitcast(array(k).data, to.as_pointer())

            def times(value: Any, bytes_: int) -> Any:
                return builder.mul(value, LONG(bytes_))

            stride = builder.extract_value(array(3).strides, 0)
            offset = times(args[4], size)
            rows, first = data(0, WORD), builder.gep(data(3, BYTE), [offset])

            # where results are kept: of kind k its row of out, and the numbers of an extreme's rows
            between = builder.extract_value(array(6).strides, 0)
            kept: list[tuple[Any, int]] = []
            for kind in kinds:
                start = builder.add(times(between, KINDS.index(kind)), offset)
                row = builder.gep(data(6, BYTE), [start])
                kept.append((builder.bitcast(row, vector.as_pointer()), size))
                if kind in whose:
                    row = builder.gep(data(whose[kind], BYTE), [times(args[4], 4)])
                    kept.append((builder.bitcast(row, numbers.as_pointer()), 4))

            begin_, end_ = args[1], args[2]
            held = [builder.load(place, align=bytes_) for place, bytes_ in kept]
            start = builder.basic_block
            loop, done = (builder.function.append_basic_block(name) for name in ("rows", "done"))
            builder.cbranch(builder.icmp_signed("<", begin_, end_), loop, done)

            builder.position_at_end(loop)
            e, *now = (builder.phi(of.type) for of in (begin_, *held))
            number = builder.load(builder.gep(rows, [e]))
            at = builder.gep(first, [builder.mul(builder.sext(number, LONG), stride)])
            given = builder.load(builder.bitcast(at, vector.as_pointer()), align=size)
            then, before = [], iter(now)
            for kind in kinds:
                value = next(before)
                if kind in whose:
                    more = builder.fcmp_ordered(">" if kind == "max" else "<", given, value)
                    mine = every(builder, builder.trunc(e, WORD), numbers)
                    chosen = builder.select(more, mine, next(before))
                    then += [builder.select(more, given, value), chosen]
                elif kind == "scaled":
                    place = builder.gep(data(5, real), [builder.sub(e, begin_)])
                    by = every(builder, builder.load(place), vector)
                    then.append(builder.fadd(value, builder.fmul(by, given)))
                else:
                    term = builder.fmul(given, given) if kind == "squares" else given
                    then.append(builder.fadd(value, term))
            following = builder.add(e, LONG(1))
            again = builder.basic_block
            steps = zip((e, *now), (begin_, *held), (following, *then), strict=True)
            for phi, at_first, after in steps:
                phi.add_incoming(at_first, start)
                phi.add_incoming(after, again)
            builder.cbranch(builder.icmp_signed("<", following, end_), loop, done)

            builder.position_at_end(done)
            found = [builder.phi(value.type) for value in held]
            for phi, at_first, after in zip(found, held, then, strict=True):
                phi.add_incoming(at_first, start)
                phi.add_incoming(after, again)
            for phi, (place, bytes_) in zip(found, kept, strict=True):
                builder.store(phi, place, align=bytes_)
            return context.get_dummy_value()

        ints = types.int64
        return types.void(indices, ints, ints, x, ints, scale, out, high, low), generate

    return fold


SENT = ("scaled", "plain", "sloped", "max", "min")


def spreader(kinds: tuple[str, ...], lanes: int, ahead: int = 0) -> Callable[..., Any]:
    """A compiled function of (indices, begin, end, x, column, past, scale, sent, rows, high, low).

    Adds to x[indices[e], column : past], for begin <= e < end in turn, the kinds' sum, k being a
    kind's place in ``SENT`` and sent_k = sent[k, column : past]: ``scaled``, scale[e - begin]
    sent_k; ``plain``, sent_k; ``sloped``, sent_k times the row rows[indices[e]] at the same
    columns; ``max`` and ``min``, sent_k where high or low is e. These are the gradients in the rows
    of what ``folder`` makes of them. What a kind does not need is not read. Rows are asked for
    ``ahead`` edges before their use, beyond ``end`` as well. Nothing checks that columns and rows
    exist, nor that ``past - column`` is a multiple of ``lanes``.

    A row's columns come one after the other. Rows of a power of 2 would otherwise be written and
    read, in turn, at places whose last 12 bits are the same, which a processor takes for one place.

    Shapes: indices [E] int32, x, rows [n, D] with their columns side by side, scale [..],
    sent [5, D] or as many of its rows as are needed, all of the kind of x, high, low [D] int32.
    """
    whose = {"max": 9, "min": 10}

    @intrinsic
    def spread(typing_context, indices, begin, end, x, column, past, scale, sent, rows, high, low):
        def generate(context, builder, signature, args):
            real = context.get_value_type(signature.args[3].dtype)
            vector, numbers = ir.VectorType(real, lanes), ir.VectorType(WORD, lanes)
            size = signature.args[3].dtype.bitwidth // 8

            def array(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, args[k])

            def start(k: int, number: Any) -> Any:
                """The first byte of a row."""
                stride = builder.extract_value(array(k).strides, 0)
                first = builder.bitcast(array(k).data, BYTE.as_pointer())
                return builder.gep(first, [builder.mul(number, stride)])

            def some(row: Any, d: Any, bytes_: int = size, of: ir.Type = vector) -> Any:
                """The place of ``lanes`` entries of a row."""
                place = builder.gep(row, [builder.mul(d, LONG(bytes_))])
                return builder.bitcast(place, of.as_pointer())

            given = {kind: start(7, LONG(SENT.index(kind))) for kind in kinds}
            owners = {kind: start(whose[kind], LONG(0)) for kind in whose.keys() & set(kinds)}
            begin_, end_, none = args[1], args[2], ir.Constant(vector, None)
            last = builder.sub(builder.extract_value(array(0).shape, 0), LONG(1))

            def numbered(e: Any) -> Any:
                return builder.sext(builder.load(builder.gep(array(0).data, [e])), LONG)

            with cgutils.for_range_slice(builder, begin_, end_, LONG(1), intp=LONG) as (e, _):
                number, mine = numbered(e), every(builder, builder.trunc(e, WORD), numbers)
                to, from_ = start(3, number), start(8, number) if "sloped" in kinds else None
                if "scaled" in kinds:
                    factor = builder.load(builder.gep(array(6).data, [builder.sub(e, begin_)]))
                    factor = every(builder, factor, vector)
                if ahead:
                    far = builder.add(e, LONG(ahead))
                    far = builder.select(builder.icmp_signed("<", far, last), far, last)
                    far = start(3, numbered(far))
                steps = (args[4], args[5], LONG(lanes))
                with cgutils.for_range_slice(builder, *steps, intp=LONG) as (d, _):
                    if ahead:
                        for byte in range(0, lanes * size, LINE):
                            at = builder.add(builder.mul(d, LONG(size)), LONG(byte))
                            _fetch(builder, builder.gep(far, [at]))
                    more = None
                    for kind in sorted(kinds, key=lambda kind: kind != "plain"):
                        term = builder.load(some(given[kind], d), align=size)
                        if kind in whose:
                            here = builder.load(some(owners[kind], d, 4, numbers), align=4)
                            term = builder.select(builder.icmp_signed("==", here, mine), term, none)
                        elif kind == "scaled":
                            term = builder.fmul(factor, term)
                        elif kind == "sloped":
                            term = builder.fmul(builder.load(some(from_, d), align=size), term)
                        more = term if more is None else builder.fadd(more, term)
                    place = some(to, d)
                    more = builder.fadd(builder.load(place, align=size), more)
                    builder.store(more, place, align=size)
            return context.get_dummy_value()

        ints = types.int64
        taken = (indices, ints, ints, x, ints, ints, scale, sent, rows, high, low)
        return types.void(*taken), generate

    return spread


def blender(lanes: int, onto: bool = False) -> Callable[..., Any]:
    """A compiled function of (chosen, by, rows, column, out, at), for compiled loops.

    out[r, at : at + lanes] = sum over k of by[r, k] rows[k, column : column + lanes] for every r in
    ``chosen``, with sums in registers; ``onto``: beginning with what is there. Nothing checks that
    columns and rows exist.

    Shapes: chosen [..] int64, by [R, K], rows [K, C], out [R, D] with their columns side by side.
    """

    @intrinsic
    def blend(typing_context, chosen, by, rows, column, out, at):
        def generate(context, builder, signature, args):
            real = context.get_value_type(signature.args[2].dtype)
            vector, size = ir.VectorType(real, lanes), signature.args[2].dtype.bitwidth // 8

            def array(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, args[k])

            def place(k: int, number: Any, column: Any) -> Any:
                stride = builder.extract_value(array(k).strides, 0)
                start = builder.add(builder.mul(number, stride), builder.mul(column, LONG(size)))
                return builder.gep(builder.bitcast(array(k).data, BYTE.as_pointer()), [start])

            count = builder.extract_value(array(0).shape, 0)
            high = builder.extract_value(array(2).shape, 0)
            with cgutils.for_range(builder, count, intp=LONG) as outer:
                r = builder.load(builder.gep(array(0).data, [outer.index]))
                to = builder.bitcast(place(4, r, args[5]), vector.as_pointer())
                total = cgutils.alloca_once(builder, vector)
                none = ir.Constant(vector, None)
                builder.store(builder.load(to, align=size) if onto else none, total)
                with cgutils.for_range(builder, high, intp=LONG) as inner:
                    factor = builder.bitcast(place(1, r, inner.index), real.as_pointer())
                    row = builder.bitcast(place(2, inner.index, args[3]), vector.as_pointer())
                    term = builder.fmul(
                        every(builder, builder.load(factor), vector),
                        builder.load(row, align=size),
                    )
                    builder.store(builder.fadd(builder.load(total), term), total)
                builder.store(builder.load(total), to, align=size)
            return context.get_dummy_value()

        ints = types.int64
        return types.void(chosen, by, rows, ints, out, ints), generate

    return blend


def asker(lanes: int) -> Callable[..., Any]:
    """A compiled function of (indices, begin, end, x, column): ``fetch`` of many rows' columns.

    Asks for x[indices[e], column : column + lanes], begin <= e < end.

    Shapes: indices [E] int32, x [n, D] with its columns side by side.
    """

    @intrinsic
    def ask(typing_context, indices, begin, end, x, column):
        def generate(context, builder, signature, args):
            def array(k: int) -> Any:
                return context.make_array(signature.args[k])(context, builder, args[k])

            size = signature.args[3].dtype.bitwidth // 8
            stride = builder.extract_value(array(3).strides, 0)
            first = builder.bitcast(array(3).data, BYTE.as_pointer())
            first = builder.gep(first, [builder.mul(args[4], LONG(size))])
            with cgutils.for_range_slice(builder, args[1], args[2], LONG(1), intp=LONG) as (e, _):
                number = builder.sext(builder.load(builder.gep(array(0).data, [e])), LONG)
                row = builder.gep(first, [builder.mul(number, stride)])
                for byte in range(0, lanes * size, LINE):
                    _fetch(builder, builder.gep(row, [LONG(byte)]))
            return context.get_dummy_value()

        ints = types.int64
        return types.void(indices, ints, ints, x, ints), generate

    return ask
