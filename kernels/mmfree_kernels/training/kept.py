"""What a training run keeps: the state from which it resumes, and its model as it is published.

A process that holds the whole model writes both at every save: `training.pt`, and the published
files.  Where the model is divided (`sharded`), each process writes its part into a new folder
beside `training.pt`, which then names that folder, and after that older folders go: a save that is
interrupted leaves the one before.  The published files are written at the end.  Either state can be
read by any number of processes, whether they divide the model or not.
"""

import hashlib
import json
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from mmfree_kernels.float_model.model import HGRNBitModel, to_checkpoint
from mmfree_kernels.training.ranks import ALONE, Ranks
from mmfree_kernels.training.recipe import DECAY, Recipe
from mmfree_neuro.errors import InputError, RunFailed, shown
from mmfree_neuro.files.reading import Misfit, opened, reading
from mmfree_neuro.files.writing import save_text, whole_file, written
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.names import harden
from mmfree_neuro.model.checkpoint import Checkpoint, write

STATE = "training.pt"
A_STATE = "the state of a training run"
TOKENIZER = "tokenizer.json"
FILES = STATE, "config.json", "model.safetensors", TOKENIZER
"""What a run leaves in its folder; a tokenizer where it was given one."""
PARTS = re.compile(r"training-\d+-[0-9a-f]{8}")
"""The name of a folder with the parts of a divided model: the step, and a number by chance."""
MOMENTS = "exp_avg", "exp_avg_sq"


@dataclass
class Run:
    """A model that is being trained, and the folder that it is kept in."""

    folder: Path
    model: HGRNBitModel
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    ranks: Ranks = ALONE
    sharded: bool = False
    """Whether the model is divided among the processes."""
    tokenizer: str | None = None
    """The content of the `tokenizer.json` that is kept beside the weights."""
    kept: int | None = None
    """The step that the files in the folder are of, where they are of this run."""

    @property
    def path(self) -> Path:
        """The state from which a run resumes."""
        return self.folder / STATE

    def save(self, step: int) -> None:
        """Keep what was reached; RunFailed where that cannot be written, or is worth nothing."""
        if self.sharded:
            self._save_parts(step)
        else:
            self._save_whole(step)
        self.kept = step

    def _save_whole(self, step: int) -> None:
        if not _finite(self.model.parameters()):
            self.fail(step, "weights are not finite")
        if self.ranks.leads:
            self._publish(harden(to_checkpoint(self.model)))
            whole = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
            self._write(step, whole)

    def _save_parts(self, step: int) -> None:
        from mmfree_kernels.training import sharded

        if not self.ranks.all(_finite(map(sharded.own_part, self.model.parameters()))):
            self.fail(step, "weights are not finite")
        name = f"training-{step}-{self.ranks.agreed(secrets.randbits(32)):08x}"
        try:
            sharded.save_parts(self.folder / name, self._tensors())
        except RunFailed:
            if self.ranks.leads:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            raise
        if self.ranks.leads:
            self._write(step, {"parts": name})

    def publish(self) -> None:
        """Write the published files of a model that is divided, with all other processes; RunFailed
        where that cannot be done."""
        from mmfree_kernels.training.sharded import Gathered

        gathered = Gathered(self.model)
        if self.ranks.leads:
            self._publish(Checkpoint(self.model.config, gathered))
        else:
            for name in gathered:
                gathered.gather(name)

    def _publish(self, checkpoint: Checkpoint[ModelConfig]) -> None:
        try:
            if self.tokenizer is not None:
                save_text(self.folder / TOKENIZER, self.tokenizer, durable=True)
            write(self.folder, checkpoint, durable=True)
        except InputError as error:
            raise RunFailed(str(error)) from None

    def _write(self, step: int, what: dict[str, Any]) -> None:
        """Let the state be this, and let the parts of others go."""
        settings = _settings(self.model.config, self.recipe, self.tokenizer)
        try:
            with whole_file(self.path, durable=True) as scratch:
                try:
                    torch.save(what | {"settings": settings, "step": step}, scratch)
                except RuntimeError as error:  # torch's own word for a full disk
                    raise InputError(
                        f"{self.path}: cannot be written ({shown(str(error))})"
                    ) from None
            with written(self.folder):
                for path in self.folder.iterdir():
                    if PARTS.fullmatch(path.name) and path.name != what.get("parts"):
                        shutil.rmtree(path)
        except InputError as error:
            raise RunFailed(str(error)) from None

    def _tensors(self) -> dict[str, Any]:
        """Weights, moments and steps by name; moments that are not there yet are made."""
        named = dict(self.model.named_parameters())
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                moments = self.optimiser.state[parameter]
                if not moments:
                    device = parameter.device if group["fused"] else "cpu"
                    moments["step"] = torch.zeros((), device=device)
                    moments.update({name: torch.zeros_like(parameter) for name in MOMENTS})
        kinds = "step", *MOMENTS
        state = {
            kind: {n: self.optimiser.state[p][kind] for n, p in named.items()} for kind in kinds
        }
        return {"weight": named, **state}

    def fail(self, step: int, what: str) -> NoReturn:
        """End a run that has come to nothing."""
        rest = (
            "nothing was kept"
            if self.kept is None
            else f"what was reached after {self.kept} is kept in {self.folder}"
        )
        raise RunFailed(
            f"training stopped after {step} steps, because {what}; {rest}; try a lower learning "
            "rate"
        )

    def resume(self) -> int:
        """Go on from the state in the folder: the steps that were done."""
        settings = _settings(self.model.config, self.recipe, self.tokenizer)
        with reading(self.path, InputError, A_STATE), opened(self.path):
            device = "cpu" if self.sharded else str(self.model.lm_head.weight.device)
            state = _loaded(self.path, device, mmap=self.sharded)
            if not _same_run(state["settings"], settings, state["step"]):
                raise InputError(
                    f"{self.path}: belongs to a run with other settings: "
                    f"{json.dumps(state['settings'])}"
                )
            step = state["step"]
            if type(step) is not int or not 0 <= step <= self.recipe.steps:
                raise Misfit(f"step is {shown(step)}, must be 0 … {self.recipe.steps}")
            self._take(state)
        self.kept = step
        return step

    def _take(self, state: dict[str, Any]) -> None:
        """Weights and moments from a state, whole or in parts."""
        if "parts" in state:
            from mmfree_kernels.training.sharded import load_parts

            if not isinstance(state["parts"], str) or not PARTS.fullmatch(state["parts"]):
                raise Misfit(f"parts is {shown(state['parts'])}, must name a folder of parts")
            load_parts(self.folder / state["parts"], self._tensors())
        elif self.sharded:
            self._divide(state)
        else:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            for parameter, moments in self.optimiser.state.items():
                if any(moments[name].shape != parameter.shape for name in MOMENTS):
                    raise Misfit("a moment has another shape than its weight")

    def _divide(self, state: dict[str, Any]) -> None:
        """Take this process's share of a state that is whole."""
        from mmfree_kernels.training.sharded import place

        tensors = self._tensors()
        for name, weight in tensors["weight"].items():
            place(weight, state["model"][name])
        ordered = [p for group in self.optimiser.param_groups for p in group["params"]]
        for number, moments in state["optimiser"]["state"].items():
            for kind, value in moments.items():
                place(self.optimiser.state[ordered[number]][kind], value)


def _settings(config: ModelConfig, recipe: Recipe, tokenizer: str | None) -> dict[str, Any]:
    digest = None if tokenizer is None else hashlib.sha256(tokenizer.encode()).hexdigest()
    return {"config": asdict(config), "recipe": asdict(recipe), "tokenizer_sha256": digest}


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _same_run(stored: Any, wanted: dict[str, Any], step: Any) -> bool:
    """Whether a run may go on with these settings: the same, or with a stable rate that has not
    begun to fall another number of steps."""
    if stored == wanted:
        return True
    recipe = wanted["recipe"]
    with suppress(TypeError, KeyError):
        others = stored | {"recipe": stored["recipe"] | {"steps": recipe["steps"]}}
        stable = min(stored["recipe"]["steps"], recipe["steps"]) * (1 - DECAY)
        return bool(recipe["schedule"] == "wsd" and others == wanted and step <= stable)
    return False


def _loaded(path: Path, device: str, *, mmap: bool) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on files that it then refuses
            state: dict[str, Any] = torch.load(
                path, map_location=device, mmap=mmap, weights_only=True
            )
    except Exception:  # a damaged pickle fails in a dozen ways, and torch says so at length
        raise InputError(f"{path}: not readable as {A_STATE}") from None
    if not isinstance(state, dict):
        raise Misfit(f"holds a {type(state).__name__}, must hold a dict")
    whole = () if "parts" in state else ("model", "optimiser")
    for name in (*whole, "settings", "step"):
        if name not in state:
            raise Misfit(f"has no {name}, must have one")
    return state
