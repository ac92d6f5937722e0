"""The neuron programs: what each node of `ir` computes, in the instructions of `ops`.

`run` is the one definition.  Engines call it with a machine, the node, the constants of the neurons
they hold, and the inputs of those neurons (sums already made); `verify` calls it on intervals.
"""

from collections.abc import Mapping

from mmfree_neuro.graph.machine import Machine, Value
from mmfree_neuro.graph.nodes import (
    GLU,
    HERE,
    MARK,
    MLGRU,
    ROOT,
    AnyNode,
    Embedding,
    Gain,
    Gains,
    Head,
    InverseRms,
    InverseRoot,
    Largest,
    MaxAbs,
    Norm,
    PartialSum,
    Quantise,
    QuantScale,
    Reciprocal,
    Relay,
    Rescale,
    Residual,
    Squares,
)
from mmfree_neuro.integers.fixedpoint import Ints, QType
from mmfree_neuro.integers.tables import (
    GATE_FRAC,
    POWER_SHIFT,
    RECIPROCAL_FIRST,
    ROOT_FIRST,
    ROOT_FRAC,
    SigmoidTable,
    inverse_root_guess,
    reciprocal_guess,
)

ONE = 1 << GATE_FRAC
ROOT_ONE = 1 << ROOT_FRAC
Constants = Mapping[str, Ints]
Inputs = Mapping[str, Value]
Outputs = dict[str, Value]


def _inverse_root(m: Machine, inputs: Inputs, inverse: InverseRoot) -> Value:
    total = m.read(inputs["total"])
    if inverse.low_bits:
        total = m.add(m.shl(total, inverse.low_bits), m.read(inputs["total.low"]))
    w, k = m.add(total, inverse.floor), 0
    for shift in (16, 8, 4, 2):
        limit = 1 << (31 - shift)
        small = m.lt(w, limit)
        w = m.select(small, m.shl(m.min(w, limit - 1), shift), w)
        k = m.select(small, m.add(k, shift // 2), k)
    top = m.max(m.add(m.mul_shr(w, 1, 26), -ROOT_FIRST), 0)
    y = m.lookup(inverse_root_guess(), top)
    for _ in range(inverse.newton):
        wyy = m.mul_shr(m.mul_shr(w, y, 31), y, ROOT_FRAC)
        y = m.clip(m.mul_shr(y, m.sub(3 * ROOT_ONE, wyy), ROOT_FRAC + 1), ROOT_ONE, 2 * ROOT_ONE)
    return m.mul_fit(y, m.lookup(inverse.powers, k), POWER_SHIFT, inverse.root)


def _reciprocal(m: Machine, largest: Value, reciprocal: Reciprocal) -> Value:
    a, k = m.max(largest, 1), 0
    for step in (16, 8, 4, 2, 1):
        limit = 1 << (31 - step)
        small = m.lt(a, limit)
        a = m.select(small, m.shl(m.min(a, limit - 1), step), a)
        k = m.select(small, m.add(k, step), k)
    top = m.max(m.add(m.mul_shr(a, 1, 26), -RECIPROCAL_FIRST), 0)
    y = m.lookup(reciprocal_guess(), top)
    for _ in range(reciprocal.newton):
        y = m.clip(
            m.mul_shr(y, m.sub(2 * ROOT_ONE, m.mul_shr(a, y, 31)), ROOT_FRAC),
            ROOT_ONE,
            2 * ROOT_ONE,
        )
    return m.mul_fit(y, m.lookup(reciprocal.powers, k), POWER_SHIFT, reciprocal.inverse)


def _square(m: Machine, z: Value, squares: Squares, constants: Constants, qtype: QType) -> Value:
    """The whole square."""
    u = m.mul_fit(
        z, constants["squares"] if squares.gains is not None else 1, squares.shift, squares.width
    )
    return m.mul_fit(u, u, squares.square_shift, qtype)


def _sent(m: Machine, squares: Squares, square: Value) -> Outputs:
    """A square as it is sent: whole, or in two digits."""
    if not squares.low_bits:
        return {"sq": m.send(square)}
    low = m.bit_and(square, (1 << squares.low_bits) - 1)
    return {"sq": m.send(m.mul_shr(square, 1, squares.low_bits)), "sq.low": m.send(low)}


def _scales(m: Machine, node: MLGRU | GLU | Residual | Head, inputs: Inputs) -> dict[str, Value]:
    """The scales that a program has before it reads any: its own root, where it finds that."""
    return {} if node.root is None else {ROOT: _inverse_root(m, inputs, node.root)}


def _rescaled(
    m: Machine, inputs: Inputs, port: str, rescale: Rescale, qtype: QType, scales: dict[str, Value]
) -> Value:
    """The sum of a port as a value; `scales` are those that the program has already, to which the
    one that is read here is added."""
    total = m.read(inputs[port])
    if rescale.scale is not None:
        if rescale.scale not in scales:
            scales[rescale.scale] = m.read(inputs[rescale.scale])
        total = m.mul_shr(total, scales[rescale.scale], rescale.shift)
    return m.mul_fit(total, rescale.factor.mantissa, rescale.factor.shift, qtype)


def _gained(
    m: Machine, node: AnyNode, gains: Gains | None, constants: Constants, z: Value
) -> Outputs:
    """A value times the gains of every product, as it is sent; nothing without gains."""
    if gains is None:
        return {}
    return {
        p: m.send(m.mul_fit(z, constants[f"gains.{p}"], shift, node.output(p).qtype))
        for p, shift in gains.shifts.items()
    }


def _slot(m: Machine, node: MLGRU, inputs: Inputs) -> tuple[Value, Value]:
    """Which of a neuron's states a token is for, and whether it is to be taken as zero."""
    if node.slots == 1:
        return 0, 0
    told = m.read(inputs[HERE])
    return m.add(m.mul_shr(told, 1, 1), -1), m.bit_and(told, 1)


def _mlgru(
    m: Machine, node: MLGRU, table: SigmoidTable, constants: Constants, inputs: Inputs, state: Value
) -> tuple[Outputs, Value]:
    scales = _scales(m, node, inputs)
    i = _rescaled(m, inputs, "i", node.rescale["i"], node.i_type, scales)
    f = m.sigmoid(
        _rescaled(m, inputs, "f", node.rescale["f"], node.f_type, scales), node.f_type.frac, table
    )
    g = _rescaled(m, inputs, "g", node.rescale["g"], node.g_type, scales)
    if node.bounds is not None:
        bound = constants["bounds"]
        f = m.add(bound, m.mul_round(m.sub(ONE, bound), f, GATE_FRAC))
    to_state = GATE_FRAC + node.i_type.frac - node.state.frac
    c = m.mul_fit(i, m.sigmoid(i, node.i_type.frac, table), to_state, node.state)

    def step(h: Value, f: Value, c: Value) -> Value:
        return m.fit(m.add(c, m.mul_round(f, m.sub(h, c), GATE_FRAC)), node.state)

    h, state = m.scan(step, state, f, c, *_slot(m, node, inputs))
    swish = m.mul_round(h, m.sigmoid(h, node.state.frac, table), GATE_FRAC)
    v_type, sq_type = node.output("v").qtype, node.squares.whole(node.output("sq").qtype)
    v = m.mul_fit(m.mul_round(g, constants["gains"], node.gain_shift), swish, node.v_shift, v_type)
    sq = _square(m, v, node.squares, constants, sq_type)
    if node.eps is not None:
        u = m.mul_fit(g, 1, node.g_shift, node.squares.width)
        sq = m.fit(
            m.add(sq, m.mul_fit(m.mul_shr(u, u, 15), node.eps.mantissa, node.eps.shift, sq_type)),
            sq_type,
        )
    folded = _gained(m, node, node.folded, constants, v)
    return {"v": m.send(v), **_sent(m, node.squares, sq), **folded}, state


def _max_abs(m: Machine, node: MaxAbs, inputs: Inputs) -> Value:
    largest = m.abs(m.read(inputs["v"][0]))
    for other in inputs["v"][1:]:
        largest = m.max(largest, m.abs(m.read(other)))
    return m.send(largest)


def _largest(m: Machine, node: Largest, constants: Constants, inputs: Inputs) -> Outputs:
    """The values one after another: a later one takes the place of an earlier only if it is
    larger."""
    largest = m.read(inputs["value"][0])
    word = 0 if node.first_level else m.read(inputs["word"][0])
    for k in range(1, node.arity):
        value = m.read(inputs["value"][k])
        if k >= node.fewest:  # where the last neuron has no value
            value = m.select(m.lt(k, constants["members"]), value, largest)
        larger = m.lt(largest, value)
        largest = m.select(larger, value, largest)
        word = m.select(larger, k if node.first_level else m.read(inputs["word"][k]), word)
    if node.first_level:
        word = m.add(word, constants["first"])
    sent = {"value": m.send(largest)} if len(node.outputs) > 1 else {}
    return {"word": m.send(word)} | sent


def _quant_scale(m: Machine, node: QuantScale, inputs: Inputs) -> Outputs:
    root = _inverse_root(m, inputs, node.inverse)
    outputs = {HERE: m.send(1)}
    for port, shift in node.scale_shift.items():
        largest = m.read(inputs[f"max.{port}"])
        scale_type = node.output(f"scale.{port}").qtype
        outputs[f"scale.{port}"] = m.send(m.mul_fit(largest, root, shift, scale_type))
    return outputs


def _quantise(m: Machine, node: Quantise, inputs: Inputs) -> Outputs:
    codes = {}
    for port, reciprocal in node.reciprocals.items():
        inverse = _reciprocal(m, m.read(inputs[f"max.{port}"]), reciprocal)
        value, qtype = m.read(inputs[f"v.{port}"]), node.output(port).qtype
        codes[port] = m.send(m.mul_fit(value, inverse, node.shifts[port], qtype))
    return codes


def _with_squares(
    m: Machine, node: Embedding | Residual, constants: Constants, x: Value
) -> Outputs:
    whole = node.squares.whole(node.output("sq").qtype)
    square = _square(m, x, node.squares, constants, whole)
    folded = _gained(m, node, node.folded, constants, x)
    return {"x": m.send(x), **_sent(m, node.squares, square), **folded}


def run(
    m: Machine,
    node: AnyNode,
    table: SigmoidTable,
    constants: Constants,
    inputs: Inputs,
    state: Value = None,
) -> tuple[Outputs, Value]:
    """What a node's neurons send for one token, by output, and their state after it.

    `constants` and `inputs` hold the same neurons; an input is a sum where it is made of many
    messages, and a list of `arity` values where the node reads a group.  What the Embedding reads,
    `Embedding.read` gives.
    """
    match node:
        case Embedding():
            x_type = node.output("x").qtype
            x = m.mul_fit(m.read(inputs["x"]), m.read(inputs["scale"]), node.shift, x_type)
            here = m.read(inputs[MARK]) if node.slots > 1 else 1
            return {**_with_squares(m, node, constants, x), HERE: m.send(here)}, None
        case InverseRms():
            return {"r": m.send(_inverse_root(m, inputs, node.inverse))}, None
        case Norm():
            t = m.mul_shr(m.read(inputs["x"]), m.read(inputs[ROOT]), node.pre_shift)
            return _gained(m, node, node.gains, constants, t), None
        case Gain():
            return _gained(m, node, node.gains, constants, m.read(inputs["x"])), None
        case MaxAbs():
            return {"max": _max_abs(m, node, inputs)}, None
        case QuantScale():
            return _quant_scale(m, node, inputs), None
        case Quantise():
            return _quantise(m, node, inputs), None
        case MLGRU():
            return _mlgru(m, node, table, constants, inputs, state)
        case GLU():
            scales = _scales(m, node, inputs)
            gate = _rescaled(m, inputs, "gate", node.rescale["gate"], node.gate_type, scales)
            up = _rescaled(m, inputs, "up", node.rescale["up"], node.gate_type, scales)
            swish = m.mul_round(gate, m.sigmoid(gate, node.gate_type.frac, table), GATE_FRAC)
            v = m.mul_fit(swish, up, node.v_shift, node.output("v").qtype)
            whole = node.squares.whole(node.output("sq").qtype)
            square = _square(m, v, node.squares, constants, whole)
            folded = _gained(m, node, node.folded, constants, v)
            return {"v": m.send(v), **_sent(m, node.squares, square), **folded}, None
        case Residual():
            x_type = node.output("x").qtype
            scales = _scales(m, node, inputs)
            y = _rescaled(m, inputs, "y", node.rescale["y"], x_type, scales)
            added = m.add(m.read(inputs["x"]), y)
            return _with_squares(m, node, constants, m.fit(added, x_type)), None
        case Head():
            scales, logits = _scales(m, node, inputs), node.output("logits").qtype
            y = _rescaled(m, inputs, "y", node.rescale["y"], logits, scales)
            return {"logits": m.send(y)}, None
        case Largest():
            return _largest(m, node, constants, inputs), None
        case Relay():
            return {HERE: m.send(m.read(inputs[HERE]))}, None
        case PartialSum():
            return {"sum": m.send(m.read(inputs["y"]))}, None
