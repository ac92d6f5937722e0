from numpy import int32, uint8
from numpy.typing import NDArray

def legal(data: NDArray[uint8], /) -> bool: ...
def levels() -> dict[str, int]: ...
def product(
    level: int,
    data: NDArray[uint8],
    x: NDArray[int32],
    out: NDArray[int32],
    bits: int,
    start: int,
    stop: int,
    mask: int,
    threads: int,
    /,
) -> None: ...
