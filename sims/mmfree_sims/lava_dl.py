"""Ternary matrices in the HDF5 container that lava-dl's netx reads.

netx can hold one ternary input of a node as a 'dense' layer: its matrix, and nothing else of the
node.  The layer ends in a Sigma neuron, which adds up what arrives and sends it on, so with whole
numbers as messages

    network = hdf5.Network(net_config=str(path), input_message_bits=8)

sends, one step later, matrix @ (the sum of all messages so far): the product itself after a first
message, and after later ones where each message is the difference to the value before.  Without
`input_message_bits` netx would take every message for a one.
"""

from pathlib import Path

import numpy as np

from mmfree_neuro.errors import EngineError, InputError
from mmfree_neuro.files.writing import whole_file
from mmfree_neuro.integers.ternary import Codes

WEIGHT_EXPONENT = 7
"""netx reads a ternary 1 as 2^7 with the exponent -7, so Dense holds sums that are 2^7 times as
large."""
ACCUMULATOR_HIGH = (1 << 31) - 1
MESSAGE_LARGEST = 128


def export_dense(matrix: Codes, path: Path) -> None:
    """Write one ternary matrix [out, in] as a layer that netx loads; the file appears whole or not
    at all.

    Raises InputError for a matrix that netx would not compute exactly for messages of 8 bits.
    """
    _check(matrix)
    try:
        import h5py
    except ModuleNotFoundError as missing:
        raise EngineError(
            "the lava-dl exchange needs h5py; install it with the 'lava-dl' extra as "
            "docs/install.md says"
        ) from missing
    rows, columns = matrix.shape
    with whole_file(path) as scratch, h5py.File(scratch, "w") as file:
        file["layer/0/type"] = np.array([b"input"])
        file["layer/0/shape"] = np.array([columns])
        file["layer/1/type"] = np.array([b"dense"])
        file["layer/1/shape"] = np.array([rows])
        file["layer/1/weight"] = matrix.astype(np.int8)
        file["layer/1/neuron/type"] = np.array([b"SDNN"])
        file["layer/1/neuron/sigma_output"] = True


def _check(matrix: Codes) -> None:
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(
            f"the matrix has shape {list(matrix.shape)}, must be [out, in] with at least one entry"
        )
    wrong = matrix[(matrix < -1) | (matrix > 1) | (matrix != np.rint(matrix))]
    if wrong.size:
        raise InputError(f"the matrix holds {wrong[0]}, must hold only -1, 0 and 1")
    if not (matrix == 1).any():
        raise InputError(
            "the matrix holds no 1, must hold one: netx scales the weights by the largest"
        )
    fullest = int(np.count_nonzero(matrix, axis=1).max())
    most = ACCUMULATOR_HIGH // (MESSAGE_LARGEST << WEIGHT_EXPONENT)
    if fullest > most:
        raise InputError(
            f"a row of the matrix has {fullest} entries other than 0, must have at most {most} "
            "for netx"
        )
