"""A register of float32 numbers as one value inside Numba kernels, so that a loop is vector code by construction.

Numba leaves vectorising to the compiler, which gives up where many arrays might overlap. Here a kernel says
what it means: ``z = tanh(load(gates, i))`` loads ``VECTOR`` numbers, and ``f * c + (1.0 - f) * z`` is
arithmetic on as many: eight, or sixteen on processors with AVX-512. Pointers are to float32, or to uint16 for
bfloat16, which is widened as it is loaded and rounded to nearest even as it is stored.

exp is within 5e-7 of exact relative to it where it is above e^-20, tanh and sigmoid within 3e-7 absolutely.
"""

# mypy: disable-error-code="misc,untyped-decorator,no-untyped-def"

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.processor import converts_bf16


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite lacks."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)

    def __str__(self) -> str:
        return "bfloat"


_FLOATS = ir.VectorType(ir.FloatType(), VECTOR)
_INTS = ir.VectorType(ir.IntType(32), VECTOR)
_SHORTS = ir.VectorType(ir.IntType(16), VECTOR)
_POINTERS = (types.CPointer(types.float32), types.CPointer(types.uint16))


class Floats(types.Type):
    """The Numba type of ``VECTOR`` float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{VECTOR}")


floats = Floats()


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


def _all(builder: Any, value: Any, kind: Any = _FLOATS) -> Any:
    """Return a vector with ``value`` in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)


def _constant(value: int) -> Any:
    return ir.Constant(_INTS, [value] * VECTOR)


def _operand(builder: Any, kind: Any, value: Any) -> Any:
    """Return an operand as a vector: a scalar goes into every lane."""
    if kind == floats:
        return value
    return _all(builder, value if kind == types.float32 else builder.fptrunc(value, ir.FloatType()))


# What arithmetic is declared for: two vectors, or a vector and a scalar on either side.
_MIXED = [signature(floats, floats, floats)]
for _scalar in (types.float32, types.float64):
    _MIXED += [signature(floats, floats, _scalar), signature(floats, _scalar, floats)]


def _define(function: Any, instruction: str) -> None:
    """Let ``function`` of the operator module work on vectors, and on vectors with scalars."""

    class _Typing(ConcreteTemplate):
        cases = _MIXED

    infer_global(function)(_Typing)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = [_operand(builder, kind, value) for kind, value in zip(sig.args, args, strict=True)]
        return getattr(builder, instruction)(*pair, flags=("contract",))

    for case in _MIXED:
        lower_builtin(function, *case.args)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_function, _instruction)


def _address(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


@intrinsic
def load(typing: Any, pointer: Any, index: Any) -> Any:
    """Return the ``VECTOR`` numbers from ``pointer[index]`` on."""
    if pointer not in _POINTERS:
        return None
    short = pointer == _POINTERS[1]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(builder, args[0], args[1], _SHORTS if short else _FLOATS)
        if not short:
            return builder.load(address, align=4)
        wide = builder.zext(builder.load(address, align=2), _INTS)
        return builder.bitcast(builder.shl(wide, _constant(16)), _FLOATS)

    return floats(pointer, types.intp), generate


@intrinsic
def store(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write ``VECTOR`` numbers to ``pointer[index]`` and on."""
    if pointer not in _POINTERS or value != floats:
        return None
    short = pointer == _POINTERS[1]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = _rounded(builder, args[2]) if short else args[2]
        address = _address(builder, args[0], args[1], _SHORTS if short else _FLOATS)
        builder.store(value, address, align=2 if short else 4)
        return context.get_constant(types.int32, 0)

    return types.int32(pointer, types.intp, floats), generate


def _rounded(builder: Any, value: Any) -> Any:
    """Return bfloat16 bits, rounded to nearest, ties to even; what is not a number stays so."""
    if converts_bf16():
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(_BFloat(), VECTOR)), _SHORTS)
    # bfloat16 is the upper half of float32; half of its last digit, less one where
    # that digit is even, rounds it
    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, _constant(16)), _constant(1))
    near = builder.add(builder.add(bits, _constant(0x7FFF)), odd)
    near = builder.select(builder.fcmp_unordered("uno", value, value), _constant(0x7FC00000), near)
    return builder.trunc(builder.lshr(near, _constant(16)), _SHORTS)


@intrinsic
def one(typing: Any, pointer: Any, index: Any) -> Any:
    """Return ``pointer[index]`` as a float32."""
    if pointer not in _POINTERS:
        return None
    short = pointer == _POINTERS[1]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(builder.gep(args[0], [args[1]]))
        if not short:
            return value
        wide = builder.zext(value, ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(pointer, types.intp), generate


@intrinsic
def stream(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write ``VECTOR`` float32 numbers past the caches, where the address is a multiple of their size."""
    if pointer != _POINTERS[0] or value != floats:
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        written = builder.store(args[2], _address(builder, args[0], args[1], _FLOATS), align=4 * VECTOR)
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_constant(types.int32, 0)

    return types.int32(pointer, types.intp, floats), generate


@intrinsic
def prefetch(typing: Any, pointer: Any, index: Any) -> Any:
    """Ask for what is at ``pointer[index]``, which may be anywhere, to be near when it is read."""
    return _prefetch(pointer, write=0)


@intrinsic
def prefetch_to_write(typing: Any, pointer: Any, index: Any) -> Any:
    """Ask for the place ``pointer[index]``, which may be anywhere, to be near when it is written."""
    return _prefetch(pointer, write=1)


def _prefetch(pointer: Any, write: int) -> Any:
    if pointer not in _POINTERS:
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        options = [ir.Constant(ir.IntType(32), value) for value in (write, 3, 1)]  # to all caches; data, not code
        builder.call(function, [address, *options])
        return context.get_constant(types.int32, 0)

    return types.int32(pointer, types.intp), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Return a vector with ``value`` in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _operand(builder, sig.args[0], args[0])

    return floats(value), generate


@intrinsic
def lanes_from(typing: Any, first: Any) -> Any:
    """Return 1 in lane ``first`` and those behind it, 0 before."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = ir.Constant(_INTS, list(range(VECTOR)))
        bound = _all(builder, builder.trunc(args[0], ir.IntType(32)), _INTS)
        ones = ir.Constant(_FLOATS, [1.0] * VECTOR)
        return builder.select(builder.icmp_signed(">=", number, bound), ones, ir.Constant(_FLOATS, [0.0] * VECTOR))

    return floats(types.intp), generate


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """Return the sum of all lanes."""
    return _reduction(value, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def largest(typing: Any, value: Any) -> Any:
    """Return the largest of all lanes."""
    return _reduction(value, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def _reduction(value: Any, combine: Any) -> Any:
    if value != floats:
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0]
        width = VECTOR
        while width > 1:  # halves onto halves
            half = width // 2
            lanes = [(lane + half) % width for lane in range(width)]
            order = ir.Constant(_INTS, [*lanes, *range(width, VECTOR)])
            moved = builder.shuffle_vector(vector, ir.Constant(_FLOATS, ir.Undefined), order)
            vector = combine(builder, vector, moved)
            width = half
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(floats), generate


def _elementwise(name: str, arguments: int) -> Any:
    """Return an intrinsic that is LLVM's function ``name`` on each lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * arguments)
        function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{VECTOR}f32")
        return builder.call(function, args)

    return floats(*[floats] * arguments), generate


@intrinsic
def square_root(typing: Any, value: Any) -> Any:
    """Return the square root of each number."""
    return _elementwise("llvm.sqrt", 1)


@intrinsic
def nearest(typing: Any, value: Any) -> Any:
    """Return each number rounded to a whole one."""
    return _elementwise("llvm.rint", 1)


@intrinsic
def fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, in one rounding where the machine does so natively."""
    return _elementwise("llvm.fmuladd", 3)


@intrinsic
def lower(typing: Any, a: Any, b: Any) -> Any:
    """Return the lesser of each pair; ``a`` where one is not a number."""
    return _chosen(">")


@intrinsic
def upper(typing: Any, a: Any, b: Any) -> Any:
    """Return the greater of each pair; ``a`` where one is not a number."""
    return _chosen("<")


@intrinsic
def where_below(typing: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """Return x where a < b, else y."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, second, if_below, otherwise = args
        return builder.select(builder.fcmp_ordered("<", first, second), if_below, otherwise)

    return floats(floats, floats, floats, floats), generate


def _chosen(sign: str) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = args
        return builder.select(builder.fcmp_ordered(sign, a, b), b, a)

    return floats(floats, floats), generate


@intrinsic
def _raised(typing: Any, value: Any, shifted: Any) -> Any:
    """Return value * 2^n, where n are the lowest bits of ``shifted`` = n + 1.5 * 2^23."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.bitcast(args[0], _INTS)
        power = builder.shl(builder.bitcast(args[1], _INTS), _constant(23))  # n in the bits of the exponent
        return builder.bitcast(builder.add(value, power), _FLOATS)

    return floats(floats, floats), generate


@intrinsic
def fetch_add(typing: Any, pointer: Any, amount: Any) -> Any:
    """Add to an int64 that threads share; return what it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", args[0], args[1], "seq_cst")

    return types.int64(types.CPointer(types.int64), types.int64), generate


@intrinsic
def fetch_add_at(typing: Any, pointer: Any, index: Any, amount: Any) -> Any:
    """Add to ``pointer[index]``, an int64 that threads share; return what it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(types.CPointer(types.int64), types.int64, types.int64), generate


@intrinsic
def number(typing: Any, bits: Any) -> Any:
    """Take an int64 for the bits of a float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


def _caster(kind: Any, text: str) -> Any:
    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

        return types.CPointer(kind)(types.int64), generate

    cast.__doc__ = text
    return cast


as_float32 = _caster(types.float32, "Take an address for that of float32 numbers.")
as_bfloat16 = _caster(types.uint16, "Take an address for that of bfloat16 numbers.")
as_int32 = _caster(types.int32, "Take an address for that of int32 numbers.")
as_int64 = _caster(types.int64, "Take an address for that of int64 numbers.")
as_bool = _caster(types.uint8, "Take an address for that of booleans.")


_SHIFT = 12582912.0  # 1.5 * 2^23: what is added to it is rounded to a whole number, which its lowest bits hold


@njit
def exp_near(x):
    """Return e^x for x between -87 and 87: 2^n times a polynomial (minimax, degree 5) in the rest."""
    shifted = fused(x, splat(1.44269504), splat(_SHIFT))
    r = fused(x, splat(1.44269504), _SHIFT - shifted)
    p = fused(splat(0.001327647129073739), r, splat(0.009675540961325169))
    p = fused(p, r, splat(0.05550713092088699))
    p = fused(p, r, splat(0.24022120237350464))
    p = fused(p, r, splat(0.6931469440460205))
    return _raised(fused(p, r, splat(1.0)), shifted)


@njit
def exp(x):
    """Return e^x, and below -87 and above 87 that of these."""
    return exp_near(lower(upper(x, splat(-87.0)), splat(87.0)))


@njit
def decline(x):
    """Return e^-x for x between -25 and 25 (beyond them that of the nearer): 1 / (1 + it) is sigmoid to 2e-11.

    Products of three of them stay far inside float32, so that several sigmoids can share one division.
    """
    return exp_near(lower(upper(0.0 - x, splat(-25.0)), splat(25.0)))


@njit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(0.0 - x))


@njit
def tanh_parts(x):
    """Return a numerator and a positive denominator whose ratio is tanh: rational inside +-7.9, where it is 1."""
    x = lower(upper(x, splat(-7.90531110763549805)), splat(7.90531110763549805))
    s = x * x
    p = fused(splat(-2.76076847742355e-16), s, splat(2.00018790482477e-13))
    p = fused(p, s, splat(-8.60467152213735e-11))
    p = fused(p, s, splat(5.12229709037114e-08))
    p = fused(p, s, splat(1.48572235717979e-05))
    p = fused(p, s, splat(6.37261928875436e-04))
    p = fused(p, s, splat(4.89352455891786e-03))
    q = fused(splat(1.19825839466702e-06), s, splat(1.18534705686654e-04))
    q = fused(q, s, splat(2.26843463243900e-03))
    q = fused(q, s, splat(4.89352518554385e-03))
    return x * p, q


@njit
def tanh(x):
    """Return the hyperbolic tangent."""
    p, q = tanh_parts(x)
    return p / q
