"""The door for users of lm-evaluation-harness: `import mmfree_neuro.harness` makes it know the
model `mmfree`.

    import mmfree_neuro.harness
    from lm_eval import simple_evaluate

    simple_evaluate("mmfree", {"graph": "model.graph", "engine": "fast"}, tasks=["piqa"])

`mmfree-neuro eval` does this on the command line.  As for the models of transformers there, nothing
is put before a text unless `add_bos_token` is set, and a context is cut on the left to `max_length`
tokens.  Needs lm_eval: `pip install 'mmfree-neuro[eval]'`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import InputError
from mmfree_neuro.lowering.scheme import DEFAULT, scheme_named
from mmfree_neuro.pipeline.engines import default_scorer
from mmfree_neuro.pipeline.scoring import Texts, scored
from mmfree_neuro.run.sampling import Sampling

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as missing:
    raise ImportError(
        f"mmfree_neuro.harness needs {missing.name}, which is not installed; install it with the "
        "eval extra: pip install 'mmfree-neuro[eval]'"
    ) from None

MAX_LENGTH = 2048
"""Of a text, in tokens: `max_position_embeddings` of the published models, which the harness cuts
their texts to."""
NEW_TOKENS = 256
"""What a text goes on by where a task does not say, as the harness has it."""


@register_model("mmfree")
class MMFreeLM(TemplateLM):
    """A checkpoint on engine `float`, or a checkpoint, graph or mapping on any other."""

    def __init__(
        self,
        graph: str,
        engine: str | None = None,
        scheme: str = DEFAULT,
        root: str = "after",
        calibrate: str = "stdlib",
        in_flight: int | None = None,
        max_length: int = MAX_LENGTH,
        add_bos_token: bool = False,
        as_bytes: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """`graph` is a path, or the name of a published model that lies in the local cache;
        `engine` is `gpu` where there is a GPU, else `fast`, unless named; `in_flight` is how many
        sequences it has under way, 128 on `gpu` and 8 on others unless told.  What the harness
        itself gives every model, a batch size and a device, changes nothing."""
        super().__init__()
        for name, value in (("in_flight", in_flight), ("max_length", max_length)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, must be at least 1")
        self.engine = default_scorer() if engine is None else engine
        model = scored(
            Path(graph),
            self.engine,
            scheme_named(scheme, root),
            in_flight,
            calibrate,
            as_bytes=as_bytes,
        )
        self.texts, self.max_length, self.add_bos = Texts(model), max_length, add_bos_token

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return next(iter(self.texts.model.eos), self.texts.first)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        return self.texts.first

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_more: Any
    ) -> list[int]:
        """The tokens of a text."""
        before = self.add_bos if add_special_tokens is None else add_special_tokens
        return [*([self.texts.first] if before else []), *self.texts.encode(string)]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_more: Any,
    ) -> list[tuple[float, bool]]:
        pairs = []
        for _, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise InputError(
                    f"a continuation has {len(continuation)} tokens, must have at most "
                    f"{self.max_length} (max_length)"
                )
            over = max(0, len(context) + len(continuation) - (self.max_length + 1))
            pairs.append((context[over:] or [self.prefix_token_id], continuation))
        found = self.texts.score(pairs)
        for (texts, _, _), one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, one)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The logarithm of how likely each text is, in windows of `max_length` tokens; those of all
        texts are scored together."""
        pairs: list[tuple[list[int], list[int]]] = []
        counts = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(pairs)
            pairs += [make_disjoint_window(window) for window in windows]
            counts.append(len(pairs) - before)
        likely = iter(self.texts.score(pairs))
        found = [sum(one for one, _ in islice(likely, count)) for count in counts]
        for request, one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, one)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What each context goes on with, up to the first of the texts that a task stops at."""
        asked = [(request.args, _how(request.args[1])) for request in requests]
        found = [""] * len(asked)
        for sampling in dict.fromkeys(how.sampling for _, how in asked):
            numbers = [k for k, (_, how) in enumerate(asked) if how.sampling == sampling]
            contexts, most = [], []
            for k in numbers:
                (context, _), how = asked[k]
                most.append(how.most)
                tokens = self.tok_encode(context) or [self.prefix_token_id]
                contexts.append(tokens[-max(1, self.max_length - how.most) :])
            for k, text in zip(numbers, self.texts.go_on(contexts, most, sampling), strict=True):
                arguments, how = asked[k]
                found[k] = _until(text, how.stops)
                self.cache_hook.add_partial("generate_until", arguments, found[k])
        return found


@dataclass(frozen=True)
class _How:
    """How a task has texts continued."""

    most: int
    stops: tuple[str, ...]
    sampling: Sampling


def _how(asked: dict[str, Any]) -> _How:
    """It, in the words of the harness.  Raises InputError for what no engine does."""
    known = dict(normalize_gen_kwargs(asked, NEW_TOKENS))
    most, stops = known.pop("max_gen_toks"), known.pop("until")
    drawn, temperature = known.pop("do_sample", False), known.pop("temperature", 0.0)
    sampling = Sampling(float(temperature) if drawn else 0.0, int(known.pop("seed", 0)))
    if known:
        raise InputError(
            f"the task asks for {', '.join(sorted(known))} in generation, must do with a "
            "temperature, a seed, a number of tokens and texts to stop at"
        )
    return _How(most, tuple(stops), sampling)


def _until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    for stop in stops:
        if stop:
            text = text.partition(stop)[0]
    return text
