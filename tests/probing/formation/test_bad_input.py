"""What cannot be measured is refused with one clear error, where it is first known."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from probing import extract
from probing.formation import (
    Curve,
    alignment_gains,
    compare_layers,
    kernel_regime,
    layer_moments,
    mutual_knn,
    regime,
    stitch,
    two_nn,
)
from tasks import LabelledPrompts, split_by_group

X = np.random.default_rng(0).normal(size=(40, 6))
ALIGNED = pd.DataFrame({"layer": ["0"], "relation": "RGA", "side": "in", "value": 0.5})


def one_layer_is_used():
    net = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})
    return layer_moments(net, lambda m, x: m["used"](x).pow(2).sum(1), [torch.ones(3, 4)], ["unused"])


@pytest.mark.parametrize("wrong, said", [
    (lambda: mutual_knn(X, X[:-1]), "40 and 39 rows; similarity needs the same examples in both"),
    (lambda: compare_layers({"0": X}, {"0": X[:-1]}), "40 and 39 rows"),
    (lambda: stitch(X, X[1:], np.arange(40) % 2, np.arange(4), np.arange(40) < 20), "40 and 39 rows"),
    (lambda: two_nn(np.r_[X, X[:3]]), r"6 of 43 rows equal another one, .* np.unique\(X, axis=0\)"),
    (one_layer_is_used, "no gradient reaches the layer 'unused'"),
    (lambda: alignment_gains(ALIGNED, ALIGNED.assign(layer="1")), "different layers .* one architecture"),
    (lambda: regime({"a": X}, {"a": X[:, :3]}), "checkpoints of one architecture"),
    (lambda: kernel_regime({"a": X}, {"b": X}), "checkpoints of one architecture"),
    (lambda: Curve("c", np.arange(1, 7), np.arange(6.0)), "begins at step 0, .* save the untrained model too"),
], ids=["different n", "different n by layer", "different n to stitch", "duplicate rows", "no gradient",
        "architectures", "architectures by shape", "architectures by name", "no step 0"])
def test_one_clear_error(wrong, said):
    with pytest.raises(ValueError, match=said) as error:
        wrong()
    assert "\n" not in str(error.value)


def prompts(order):
    token = np.asarray(order)
    examples = pd.DataFrame({"prompt": np.arange(30), "pos": 0, "group": token, "split": split_by_group(token, 0),
                             "odd/token": token % 2})
    return LabelledPrompts("toy", torch.from_numpy(token)[:, None], torch.ones(30, dtype=torch.long), examples,
                           classes={"odd": ("no", "yes")})


def test_rows_of_one_number_that_are_of_other_prompts_are_not_paired():
    model = TransformerBridge.boot_native(dict(d_model=16, n_layers=1, n_heads=2, d_head=8, d_mlp=32, d_vocab=30,
                                               n_ctx=4, act_fn="gelu")).eval()
    one, same, turned = (extract(model, prompts(order), cache=False, random_init=None)
                         for order in (range(30), range(30), range(29, -1, -1)))
    with pytest.raises(ValueError, match="rows are not paired: the two were read from different tokens"):
        compare_layers(one, turned)
    table = compare_layers(one, same, k=3, n_null=20)
    assert table[table["control"] == "best_of_pairs"]["value"].to_numpy() == pytest.approx(1)
