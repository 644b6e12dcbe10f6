"""What a label looks like from the input alone: features of the tokens, for the baselines below every probe."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_array

from tasks import LabelledPrompts

KINDS = ("token", "previous_token", "next_token", "bag_of_tokens", "position", "token_position")
MAX_BYTES = 4 << 30
_CELLS = 1 << 22  # of a block: features are counted in int64 before they become float32


def input_features(
    prompts: LabelledPrompts, kind: str = "bag_of_tokens", *, sparse: bool = False
) -> Float[ndarray, "example feature"] | csr_array:
    """Features of every example that need no model, float32: a probe on them says what the surface gives away.

    `token` is the one-hot code of the probed token, `previous_token` and `next_token` of its neighbours (with a code
    for none), `position` of its place, `token_position` of token and place as a pair (so that any function of the two
    is linear in it), and `bag_of_tokens` counts each token id in the prefix up to and including the probed token. A
    column stands for what occurs in these examples, in increasing order of id, position or pair; padding is never
    counted.

    Args:
        sparse: A `scipy.sparse.csr_array` instead, where a vocabulary is too wide for a full array.
    Raises:
        ValueError: An unknown kind, or a full array of more than 4 GiB.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    codes = _prefix_codes(prompts) if kind == "bag_of_tokens" else input_types(prompts, kind)
    shape = len(prompts), int(codes.max(initial=-1)) + 1
    if sparse:
        rows, columns = (np.concatenate(parts) for parts in zip(*_entries(prompts, codes, shape[1]), strict=True))
        return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)  # adds up repeated tokens
    if (size := 4 * shape[0] * shape[1]) > MAX_BYTES:
        raise ValueError(f"{kind} features of {shape[0]} examples x {shape[1]} columns take {size / 2**30:.1f} GiB; "
                         "pass sparse=True, or fewer examples")
    features, start = np.empty(shape, np.float32), 0
    for rows, columns in _entries(prompts, codes, shape[1]):
        out = features[start : rows[-1] + 1]
        out[:] = np.bincount((rows - start) * shape[1] + columns, minlength=out.size).reshape(out.shape)
        start += len(out)
    return features


def input_types(prompts: LabelledPrompts, kind: str = "token") -> Int[ndarray, " example"]:
    """The type of every example as a code from 0: its `token`, `previous_token`, `next_token`, `position`, or the pair
    `token_position`. A neighbour that is not there, or is padding, is a type of its own, the first."""
    prompt, pos = (prompts.examples[c].to_numpy() for c in ("prompt", "pos"))
    tokens, lengths = prompts.tokens.numpy().astype(np.int64), prompts.lengths.numpy()
    width = tokens.shape[1]
    keys = {
        "token": lambda: tokens[prompt, pos],
        "previous_token": lambda: np.where(pos > 0, tokens[prompt, pos - 1], -1),
        "next_token": lambda: np.where(pos + 1 < lengths[prompt], tokens[prompt, (pos + 1) % width], -1),
        "position": lambda: pos,
        "token_position": lambda: tokens[prompt, pos] * width + pos,
    }
    if kind not in keys:
        raise ValueError(f"kind of a type must be one of {', '.join(keys)}, not {kind!r}")
    return np.unique(keys[kind](), return_inverse=True)[1]


def _prefix_codes(prompts: LabelledPrompts) -> Int[ndarray, "prompt pos"]:
    """Column of each token; -1 after the last probed position of its prompt."""
    tokens = prompts.tokens.numpy()
    last = np.full(len(tokens), -1)
    np.maximum.at(last, prompts.examples["prompt"].to_numpy(), prompts.examples["pos"].to_numpy())
    read = np.arange(tokens.shape[1]) <= last[:, None]
    codes = np.full(tokens.shape, -1)
    codes[read] = np.unique(tokens[read], return_inverse=True)[1]
    return codes


def _entries(prompts: LabelledPrompts, codes: ndarray, n_columns: int) -> Iterator[tuple[ndarray, ndarray]]:
    """(row, column) of everything that counts, a block of examples at a time."""
    prompt, pos = (prompts.examples[c].to_numpy() for c in ("prompt", "pos"))
    size = max(1, _CELLS // max(n_columns, prompts.tokens.shape[1]))
    for start in range(0, len(pos), size):
        block = np.arange(start, min(start + size, len(pos)))
        if codes.ndim == 1:
            yield block, codes[block]
        else:
            row, place = np.nonzero(np.arange(codes.shape[1]) <= pos[block, None])
            yield block[row], codes[prompt[block[row]], place]
