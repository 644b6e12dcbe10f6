"""After the edit its probe reads what was asked for, and what should stay has stayed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from interventions import At, GradientEdit, LastToken, Sequences, circular_edit, compose, magnitude_edit
from probing import CircularProbe, MLPProbe, OnionProbe
from probing._circular import circular_error
from probing._sites import Site

ROWS = torch.arange(12)


@pytest.fixture(scope="module")
def weekdays():
    """(probe, activations, labels): days on a circle in 24 dimensions, and much that is not."""
    rng = np.random.default_rng(0)
    t = np.arange(210) % 7
    plane = np.linalg.qr(rng.normal(size=(24, 2)))[0].T
    circle = np.stack([np.cos(2 * np.pi * t / 7), np.sin(2 * np.pi * t / 7)], 1)
    X = rng.normal(size=(210, 24)) * 0.3 + 4 * circle @ plane + rng.normal(size=24)
    return CircularProbe(period=7, n_components=None).fit(X, t), torch.from_numpy(X[:12]).float(), t[:12]


def test_a_circular_edit_is_read_as_its_label_and_moves_in_the_plane_only(weekdays):
    probe, x, t = weekdays
    goals = np.array([0, 1, 2, 3, 4, 5, 6, 0.5, 2.25, 6.9, 3, 3])  # also between two days
    edited = circular_edit(probe, goals)(x, ROWS)
    assert circular_error(probe.predict(edited.numpy()), goals, 7) < 1e-5
    np.testing.assert_allclose(edited, probe.place(x.numpy(), goals), atol=1e-5)
    moved = (edited - x).double()
    torch.testing.assert_close(probe.read.project(moved), moved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(circular_edit(probe, goals)(edited, ROWS), edited, atol=1e-5, rtol=1e-5)
    one = circular_edit(probe, 3)(x, ROWS)
    torch.testing.assert_close(one[[3, 10]], edited[[3, 10]])


def test_radius_and_rest_of_a_circular_edit(weekdays):
    probe, x, t = weekdays
    for radius in (0, 0.5, 2.0):
        came = probe.transform(circular_edit(probe, 2, radius=radius)(x, ROWS).numpy())
        np.testing.assert_allclose(np.hypot(*came.T), radius, atol=1e-4)
    published = circular_edit(probe, t, rest="mean")(x, ROWS)
    np.testing.assert_allclose(published, probe.place(np.tile(probe.mean_, (12, 1)), t), atol=1e-5)


def test_a_magnitude_edit_changes_one_token_of_an_onion():
    rng = np.random.default_rng(1)
    tokens, E = rng.integers(0, 5, (400, 3)), rng.normal(size=(5, 24))
    X = np.einsum("t,ntd->nd", np.array([1, 0.3, 0.09]), E[tokens])
    probe = OnionProbe().fit(X, tokens)
    old, new = tokens[:12, 1], (tokens[:12, 1] + 1) % 5
    edited = magnitude_edit(probe, 1, old, new)(torch.from_numpy(X[:12]), ROWS)
    wanted = tokens[:12].copy()
    wanted[:, 1] = new
    np.testing.assert_array_equal(probe.predict(edited.numpy()), wanted)
    back = magnitude_edit(probe, 1, new, old)(edited, ROWS)
    torch.testing.assert_close(back, torch.from_numpy(X[:12]))


@pytest.fixture(scope="module")
def network():
    """(probe, activations, labels) of two targets that no direction separates: the parities of two pairs of signs."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(4000, 24)).astype(np.float32)
    y = np.stack([(X[:, 0] * X[:, 1] > 0), (X[:, 2] * X[:, 3] > 0)], 1).astype(int)
    probe = MLPProbe(hidden=64, epochs=30, batch_size=256, lr=1e-2).fit(X, y)
    assert (probe.predict(X) == y).mean() > 0.95
    return probe, torch.from_numpy(X), y


def test_a_gradient_edit_is_read_as_asked_and_other_targets_stay(network):
    probe, X, y = network
    x, rows = X[:200], torch.arange(200)
    was = probe.predict(x.numpy())
    edit = GradientEdit(probe, torch.from_numpy(1 - was[:, 0]))
    edited = edit(x, rows)
    now = probe.predict(edited.numpy())
    assert edit.arrived(edited, rows).float().mean() >= 0.95
    assert (now[:, 0] == 1 - was[:, 0]).mean() >= 0.95
    assert (now[:, 1] == was[:, 1]).mean() > 0.98
    truth = (edited[:, 0] * edited[:, 1] > 0).int().numpy()
    assert (truth == 1 - was[:, 0]).mean() > 0.8  # the label itself has changed, not just the probe's mind
    length = 0.02 * edit._spread
    assert float(x.norm(dim=1).mean()) / 3 < edit._spread < 3 * float(x.norm(dim=1).mean())
    assert float((edited - x).norm(dim=1).min()) >= length / 2 and torch.equal(X[:200], x)


def test_the_gradient_is_that_of_autograd(network):
    probe, X, _ = network
    x, to, target = X[:20].clone().requires_grad_(), torch.arange(20) % 2, torch.arange(20) // 2 % 2
    edit = GradientEdit(probe, to, target, keep=0.3)
    log_p = edit._log_probabilities(x)
    was = log_p.argmax(1).detach()
    own = F.nll_loss(log_p[torch.arange(20), :, target], to, reduction="sum")
    rest = F.nll_loss(log_p[torch.arange(20), :, 1 - target], was[torch.arange(20), 1 - target], reduction="sum")
    wanted, = torch.autograd.grad(own + 0.3 * rest, x)
    found, reading = edit._gradient(x.detach(), to, target, was)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(reading, log_p.detach()[torch.arange(20), to, target].exp())


def test_a_row_that_is_read_as_asked_is_not_moved_and_rows_do_not_mix(network):
    probe, X, y = network
    edit = GradientEdit(probe, 1, sure=0.6)
    x, rows = X[:50], torch.arange(50)
    edited, there = edit(x, rows), edit.arrived(x, rows)
    assert there.any() and torch.equal(edited[there], x[there])
    assert (edited[~there] != x[~there]).any(1).all()
    torch.testing.assert_close(edit(x[7:9], rows[7:9]), edited[7:9], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edit(edited, rows), edited)


def test_every_row_moves_a_target_of_its_own_as_if_it_were_edited_alone(network):
    probe, X, _ = network
    x, rows = X[:60], torch.arange(60)
    was = torch.from_numpy(probe.predict(x.numpy()))
    target, to = rows % 2, 1 - was[rows, rows % 2]
    edited = GradientEdit(probe, to, target)(x, rows)
    for t in (0, 1):
        mine = target == t
        alone = GradientEdit(probe, to[mine], t)(x[mine], torch.arange(int(mine.sum())))
        torch.testing.assert_close(edited[mine], alone, atol=1e-4, rtol=1e-4)
    now = torch.from_numpy(probe.predict(edited.numpy()))
    assert (now[rows, target] == to).float().mean() >= 0.95
    assert (now[rows, 1 - target] == was[rows, 1 - target]).float().mean() > 0.95


def test_all_of_them_run_inside_a_model(gpt2, cases, weekdays, network):
    site, edit = Site("resid_post", 1), GradientEdit(network[0], 1)
    both = compose(circular_edit(weekdays[0], 3), edit)
    run = Sequences.of(gpt2, cases)
    edited = run.read([site], {site: At(both)})[site]
    assert (network[0].predict(edited[:, 0].numpy())[:, 0] == 1).all()
    with torch.inference_mode():
        torch.testing.assert_close(LastToken.of(gpt2, cases).logits({site: both}), run.logits({site: both}),
                                   atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("make", "message"), [
    (lambda probe: GradientEdit(probe, 2), "0 to 1; got"),
    (lambda probe: GradientEdit(probe, 1, target=2), "targets 0 to 1"),
    (lambda probe: GradientEdit(probe, 1, target=torch.tensor([0, -1])), r"targets 0 to 1, target \[-1, 0\] came"),
    (lambda probe: GradientEdit(probe, torch.ones(2, dtype=torch.long), torch.zeros(3, dtype=torch.long)),
     "to is given for 2 cases, target for 3"),
    (lambda probe: GradientEdit(probe, 1, sure=1.0), "0 < sure < 1"),
    (lambda probe: GradientEdit(probe, 1)(torch.ones(3, 5), torch.arange(3)), "reads 24 dimensions"),
    (lambda probe: GradientEdit(probe, torch.ones(2, dtype=torch.long))(torch.ones(3, 24), torch.arange(3)), "case 2"),
])
def test_an_impossible_gradient_edit_is_refused(network, make, message):
    with pytest.raises(ValueError, match=message):
        make(network[0])
