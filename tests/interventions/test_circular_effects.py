"""On a model that answers from a circle, the whole state, its components, the circle and a random plane do ever less.
"""

import numpy as np
import pytest
import torch
import transformers
from sklearn.decomposition import PCA

from interventions import LastToken, circular_edit, logit_difference, patch_from
from interventions._pair_run import random_subspaces
from probing import CircularProbe, Site, load_model
from probing._circular import on_circle

D, DAYS, SITE = 24, 7, Site("resid_post", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Prompts of 2 to 12 tokens that end in a day. The stream holds the day's point on a circle, something of the day
    alone, and its place; the answer follows mostly the circle."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_embd=D, n_head=2, n_positions=12, vocab_size=1 + 2 * DAYS,
                                     tie_word_embeddings=False)
    model = transformers.GPT2LMHeadModel(config)
    free = np.linalg.qr(np.c_[np.ones(D), rng.normal(size=(D, D - 1))])[0][:, 1:].T  # the norm takes away the mean
    days = on_circle(np.arange(DAYS), DAYS) @ free[:2]
    own = free[2 : 2 + DAYS]
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()  # the block adds nothing
        model.transformer.wte.weight[1 : 1 + DAYS] = torch.from_numpy(4 * days + own).float()
        model.transformer.wpe.weight.copy_(torch.from_numpy(0.3 * rng.normal(size=(12, D - 1)) @ free))
        model.lm_head.weight.zero_()
        model.lm_head.weight[1 + DAYS :] = torch.from_numpy(days + 0.5 * own).float()
    folder = tmp_path_factory.mktemp("weekdays")
    model.save_pretrained(folder)
    lengths = torch.arange(2, 13).repeat_interleave(DAYS)
    tokens = torch.randint(1, 1 + DAYS, (len(lengths), 12), generator=torch.Generator().manual_seed(0))
    day = torch.arange(len(lengths)) % DAYS
    tokens[torch.arange(len(lengths)), lengths - 1] = 1 + day
    return LastToken(load_model(folder, device="cpu"), tokens, lengths), day


def test_the_full_patch_does_most_and_a_random_plane_least(run):
    run, day = run
    _, acts = run.logits(read=[SITE])
    X = acts[SITE]
    probe = CircularProbe(period=DAYS).fit(X.numpy(), day.numpy())
    wanted = (day + 1 + torch.arange(len(day)) // DAYS % (DAYS - 1)) % DAYS
    donors = torch.tensor([int((day == k).nonzero()[-1 - i % 5, 0]) for i, k in enumerate(wanted)])  # of another place
    components = torch.from_numpy(PCA(5).fit(X.numpy()).components_)[None]
    planes = [space.basis.float()[None] for space in random_subspaces(D, 2, 20)]
    edits = [patch_from(X[donors]), patch_from(X[donors], components), circular_edit(probe, wanted.numpy()),
             *(patch_from(X[donors], plane) for plane in planes)]

    def gained(logits, places):
        answers = 1 + DAYS
        return logit_difference(logits, answers + wanted[places], answers + day[places])[:, None]

    before, full, pca, circle, *random = run.measure([{}, *({SITE: edit} for edit in edits)], gained).mean((1, 2))
    assert full > pca > circle > max(random)
    assert full > 0 > before and circle - before > 0.6 * (full - before)
    np.testing.assert_allclose((run.logits({SITE: edits[0]}).argmax(1) - 1 - DAYS), wanted)
    read = probe.predict(run.logits({SITE: edits[2]}, read=[SITE])[1][SITE].numpy())
    np.testing.assert_allclose(on_circle(read, DAYS), on_circle(wanted.numpy(), DAYS), atol=1e-4)
