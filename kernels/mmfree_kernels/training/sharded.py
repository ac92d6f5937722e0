"""A model whose weights, gradients and moments are divided among processes, by torch's own FSDP2.

Every block is a unit, and so are the embeddings and the head where they share no matrix.  The
whole matrices of a unit are in memory while it computes, forward and again backward: float32, as
they are trained, so codes and scales are those of one process to the bit.  Beyond that a process
keeps its share of weights, gradients and moments, and the activations of its share of the batch.
The next unit is gathered, and the gradients of the last one are reduced, while a unit computes.

Nothing is captured as a CUDA graph, for the memory of gathered matrices is given out and taken back
at every use: a step launches its kernels one by one, which large models hide.

To import this takes torch most of a second, so it is imported where it is needed alone.
"""

import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mmfree_kernels.float_model.model import HGRNBitModel, Unit, initialise
from mmfree_kernels.training.ranks import Ranks
from mmfree_neuro.errors import RunFailed, shown
from mmfree_neuro.files.reading import Misfit
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import hardened
from mmfree_neuro.model.tensors import Float32

BLOCKS = "model.layers."
NAMES = {
    "pathlib": ["PosixPath"],
    "pathlib._local": ["PosixPath"],  # so called in Python 3.13
    "torch": ["Size", "float32"],
    "torch.distributed.checkpoint.filesystem": ["_StorageInfo"],
    "torch.distributed.checkpoint.metadata": [
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ],
    "torch.serialization": ["_get_layout"],
}
"""What the index of parts is made of, by module."""
REDUCE = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""Its first name is that of torch 2.13."""
First = Callable[[str, torch.Size], Tensor]
"""The first values of a parameter, by its name and shape."""


def fresh(config: ModelConfig, seed: int) -> First:
    """The weights that `HGRNBitModel.initialise` gives one process, asked for in the order of
    parameters."""
    generator = torch.Generator().manual_seed(seed)

    def values(name: str, shape: torch.Size) -> Tensor:
        value = torch.ones(shape) if len(shape) == 1 else torch.zeros(shape)
        initialise(name, value, config.num_hidden_layers, generator=generator)
        return value

    return values


def divided(config: ModelConfig, first: First, ranks: Ranks) -> HGRNBitModel:
    """A model with those values, of which this process keeps its share.

    No process ever has more than a block, and what is outside of blocks, in whole.
    """
    mesh, reduced = init_device_mesh(ranks.device.type, (ranks.count,)), _Reduced(ranks.device)
    with torch.device("meta"):
        model = HGRNBitModel(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for block, inside in groupby(shapes, _block):
        for name in inside:
            path, _, last = name.rpartition(".")
            value = first(name, shapes[name]).to(ranks.device)
            setattr(model.get_submodule(path), last, nn.Parameter(value))
        if block is not None:
            unit = model.model.layers[block]
            _divide(unit, mesh, reduced, again=block < config.num_hidden_layers - 1)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embeddings.weight
    else:
        _divide(model.model.embeddings, mesh, reduced).set_unshard_in_backward(False)
        _divide(model.lm_head, mesh, reduced, again=False)
    _divide(model, mesh, reduced, again=False)
    return model


def _block(name: str) -> int | None:
    """The block that a parameter belongs to."""
    return int(name.split(".")[2]) if name.startswith(BLOCKS) else None


class _Reduced:
    """How gradients are reduced: as torch does it, with memory of the stream that computes.

    torch's allocator keeps what one stream has freed for that stream.  FSDP reduces on a stream of
    its own, so shares of gradients could not have the memory of the activations that they follow.
    FSDP orders the two streams before it reduces, and again before the optimiser.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        with torch.cuda.stream(self.stream):
            return torch.empty(size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        work: dist.Work | None = REDUCE(output_tensor, input_tensor, op, group, async_op)
        return work


def _divide(
    unit: nn.Module, mesh: DeviceMesh, reduced: _Reduced, *, again: bool = True
) -> FSDPModule:
    """Divide a unit, which is gathered `again` for the backward pass, or stays so where that comes
    next."""
    fully_shard(unit, mesh=mesh, reshard_after_forward=again)
    assert isinstance(unit, FSDPModule)
    if isinstance(unit, Unit):
        register_fsdp_forward_method(unit, "run")
    if hasattr(unit, "set_custom_reduce_scatter"):  # from torch 2.8 on
        unit.set_custom_reduce_scatter(reduced)  # type: ignore[arg-type]  # torch asks for no more
    return unit


def let_go(model: nn.Module) -> None:
    """Free what a pass without a backward pass has left gathered."""
    for unit in model.modules():
        if isinstance(unit, FSDPModule):
            unit.reshard()


def own_part(parameter: Tensor) -> Tensor:
    """What this process has of a parameter that is divided."""
    assert isinstance(parameter, DTensor)
    return parameter.to_local()


@torch.no_grad()
def place(target: Tensor, whole: Tensor) -> None:
    """Give a parameter, or a moment, the values of a tensor that every process has in whole.

    Raises Misfit where that has another shape.
    """
    if whole.shape != target.shape:
        raise Misfit("a moment or a weight has another shape than the model's")
    if isinstance(target, DTensor):
        mesh, placements = target.device_mesh, target.placements
        whole = distribute_tensor(whole.to(target.device), mesh, placements, src_data_rank=None)
    target.copy_(whole)


class Gathered(Mapping[str, Float32]):
    """The tensors of a model as its published checkpoint stores them, hardened.

    Looking one up gathers it, one matrix at a time, so all processes must look up the same ones in
    the same order.
    """

    def __init__(self, model: HGRNBitModel) -> None:
        self.shapes = model.config.shapes()
        self.parameters = dict(model.named_parameters())

    def gather(self, name: str) -> Tensor:
        """A tensor in whole, where the model is."""
        parameter = self.parameters[name].detach()
        assert isinstance(parameter, DTensor)
        return parameter.full_tensor()

    def __getitem__(self, name: str) -> Float32:
        return hardened(name, self.gather(name).cpu().numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def save_parts(folder: Path, tensors: dict[str, Any]) -> None:
    """Write this process's part of tensors into a new folder, as all others do; RunFailed, in all,
    where one of them cannot."""
    try:
        save(tensors, storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        raise RunFailed(f"{folder}: cannot be written ({_first(error)})") from None


def load_parts(folder: Path, tensors: dict[str, Any]) -> None:
    """Fill tensors, divided or not, with what any number of processes has written.

    Raises Misfit where the files are not those of such tensors.
    """
    reader = _Reader(folder)
    reader.open()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks that one process loads by itself
            load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise Misfit(f"{folder.name} cannot be read ({_first(error)})") from None


def _first(error: CheckpointException) -> str:
    why, _ = next(iter(error.failures.values()))
    return shown(str(why))


class _Reader(FileSystemReader):
    """Reads parts; their index, a pickle, may name nothing but what such an index is made of."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def open(self) -> None:
        """Misfit where the index is none."""
        try:
            content = (self.folder / ".metadata").read_bytes()
            self.index = _Index(io.BytesIO(content)).load()
            if not isinstance(self.index, Metadata):
                raise Misfit(f"it holds a {type(self.index).__name__}")
        except OSError as error:
            raise Misfit(f"{self.folder.name} has no index ({error.strerror})") from None
        except Exception as error:  # a damaged pickle fails in a dozen ways
            raise Misfit(
                f"{self.folder.name} has no index that can be read ({shown(str(error))})"
            ) from None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        return self.index


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
