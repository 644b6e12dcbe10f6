"""Two scores to record: what a linear probe reads, and the six alignments."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy import ndarray
from transformer_lens.model_bridge import TransformerBridge

from tasks import LabelledPrompts

from .._extract import extract
from .._fitting import fit_and_choose
from .._logistic import LogisticProbe
from .._models import load_model
from .._question import Question
from .._ridge import RidgeProbe
from .._score import gains, value_of
from .._sites import Site
from .._splits import splits_of
from ._alignment import alignments
from ._linear_layers import Batch, layer_moments

PENALTIES = (0.01, 0.1, 1.0)


def probe_score(prompts: LabelledPrompts, label: str, sites: Sequence[Site] | None = None
                ) -> Callable[[Any], tuple[ndarray, ndarray]]:
    """Model -> (gain, size) per group of test of the linear probe (logistic for classes, ridge for numbers), fitted on
    train at the site that is best on validation: accuracy, or R2 per target.

    Args:
        sites: Among which to choose; the embedding and the stream after every block, unless given.

    The model is a `TransformerBridge`, or one of transformers', of which a copy is read.
    """
    def score(model: Any) -> tuple[ndarray, ndarray]:
        with _bridge(model) as bridge:
            acts = extract(bridge, prompts, sites, cache=False, random_init=None)
        asked = Question.of(prompts, label, splits_of(acts, prompts))
        choices = [LogisticProbe(C=c, tol=1e-2) for c in PENALTIES] if asked.n_classes else [RidgeProbe()]
        guesses = [fit_and_choose(choices, np.asarray(acts[site]), [asked])[0].guess for site in acts]
        best = max(guesses, key=lambda guess: value_of(gains(asked, guess, "validation")))
        return gains(asked, best, "test")

    return score


def alignment_score(loss: Callable[[Any, Batch], Any], parts: Sequence[Batch], *,
                    keep: Callable[[Batch], Any] | None = None) -> Callable[[Any], dict[str, ndarray]]:
    """Model -> the six alignments (`out-RGA`, ...), mean over linear layers, one number per part of the data.

    A matrix of zeros, as in blocks that start as the identity, aligns with nothing: its layer counts as much as the
    rotated eigenvectors of the others (0 where there are none), so that its coming to life is no alignment.

    Args:
        loss, keep: As in `layer_moments`.
        parts: Batches of held-out examples, each measured by itself, so that they can be resampled.
    """
    def score(model: Any) -> dict[str, ndarray]:
        found: dict[str, list[float]] = {}
        for part in parts:
            table = alignments(layer_moments(model, loss, [part], keep=keep, zeros=True), n_null=1)
            for (side, relation), rows in table.groupby(["side", "relation"], sort=False):
                null = rows["null"][rows["value"].notna()].mean()
                value = rows["value"].fillna(null).fillna(0.0).mean()
                found.setdefault(f"{side}-{relation}", []).append(value)
        return {name: np.array(values) for name, values in found.items()}

    return score


@contextmanager
def _bridge(model: Any) -> Iterator[TransformerBridge]:
    """The model as it is now; a copy of one in training, which is left alone."""
    if isinstance(model, TransformerBridge):
        yield model
        return
    if not hasattr(model, "save_pretrained"):
        raise ValueError(f"a probe reads a TransformerBridge or a model of transformers, not a {type(model).__name__}; "
                         "write a score of your own: it takes the model and returns one number per item")
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        yield load_model(folder)
