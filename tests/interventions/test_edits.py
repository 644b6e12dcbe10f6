"""Edits are what their formulas say, case by case."""

import pytest
import torch

from interventions import compose, hook, move_to, patch_from, project_out, reflect, steer

ROWS = torch.tensor([2, 0, 3])


@pytest.fixture
def x(random):
    return random(3, 8, dtype=torch.float64)


def test_steering_adds_each_case_its_own_direction(x, random):
    v = random(4, 8, dtype=torch.float64)
    torch.testing.assert_close(steer(v, 2.5)(x, ROWS), x + 2.5 * v[ROWS])
    torch.testing.assert_close(steer(v[0], -1)(x, ROWS), x - v[0])
    assert torch.equal(steer(v, 0.0)(x, ROWS), x)


def test_an_edit_never_writes_into_its_input(x, random):
    before, v, m = x.clone(), random(4, 8), random(4, 8)
    for edit in (steer(v), move_to(v, 1.0), project_out(v), reflect(v, m), patch_from(m), patch_from(m, v)):
        edit(x, ROWS)
        assert torch.equal(x, before)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_moving_to_a_target_reaches_it_whatever_the_scale_of_the_directions(x, random, scale):
    read, write = random(4, 8, dtype=torch.float64) * scale, random(4, 8, dtype=torch.float64) / scale
    target = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) * scale
    for w in (None, write):
        moved = move_to(read, target, w)(x, ROWS)
        torch.testing.assert_close((moved * read[ROWS]).sum(-1), target[ROWS])
        along = (read if w is None else w)[ROWS]
        along = along / along.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(moved - x, ((moved - x) * along).sum(-1, keepdim=True) * along)  # nowhere else
        half = move_to(read, target, w, alpha=0.5)(x, ROWS)
        torch.testing.assert_close(half, (x + moved) / 2)


def test_one_class_mean_distance_moves_negatives_onto_positives(random):
    negative, positive = random(500, 8, dtype=torch.float64), random(500, 8, dtype=torch.float64) + 1
    probe = random(8, dtype=torch.float64)
    r, gap = probe / probe.norm(), positive.mean(0) - negative.mean(0)
    edited = steer((gap @ r) * r)(negative, torch.arange(500))
    torch.testing.assert_close((edited @ r).mean(), (positive @ r).mean())
    torch.testing.assert_close(edited - torch.outer(edited @ r, r), negative - torch.outer(negative @ r, r))


@pytest.mark.parametrize("rank", [1, 3])
def test_projecting_out_leaves_the_reference_mean_in_the_subspace_and_the_rest_alone(x, random, rank):
    basis, mu = random(4, rank, 8, dtype=torch.float64), random(8, dtype=torch.float64)
    for mean in (None, mu):
        edit = project_out(basis, mean)
        out, wanted = edit(x, ROWS), (torch.zeros(8, dtype=torch.float64) if mean is None else mean)
        inside = torch.einsum("bkd,bd->bk", basis[ROWS], out - wanted)
        torch.testing.assert_close(inside, torch.zeros(3, rank, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(edit(out, ROWS), out)  # idempotent
        assert torch.linalg.matrix_rank((out - x)[0:1]) <= rank
    shared = project_out(basis[:1])(x, ROWS)
    torch.testing.assert_close(shared, project_out(basis[:1].expand(4, -1, -1))(x, ROWS))


def test_projecting_out_the_mean_difference_leaves_equal_class_means(random):
    y = torch.arange(400) % 2
    x = random(400, 8, dtype=torch.float64) + y[:, None] * torch.linspace(0, 2, 8, dtype=torch.float64)
    gap = x[y == 1].mean(0) - x[y == 0].mean(0)
    out = project_out(gap, x.mean(0))(x, torch.arange(400))
    torch.testing.assert_close(out[y == 1].mean(0), out[y == 0].mean(0), atol=1e-6, rtol=0)


def test_reflecting_twice_is_no_edit_and_swaps_the_class_means(random):
    a, b = random(8, dtype=torch.float64), random(8, dtype=torch.float64)
    edit = reflect(b - a, (a + b) / 2)
    one = torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(edit(a[None], one)[0], b)
    torch.testing.assert_close(edit(edit(a[None] + 1, one), one)[0], a + 1)


def test_patching_moves_only_the_component_in_the_subspace(x, random):
    basis, source = random(1, 3, 8, dtype=torch.float64), random(4, 8, dtype=torch.float64)
    moved = patch_from(source, basis)(x, ROWS)
    q = torch.linalg.qr(basis[0].T).Q
    torch.testing.assert_close(moved @ q, source[ROWS] @ q)
    torch.testing.assert_close(moved - moved @ q @ q.T, x - x @ q @ q.T)
    full = torch.eye(8, dtype=torch.float64)[None]
    torch.testing.assert_close(patch_from(source, full)(x, ROWS), patch_from(source)(x, ROWS))
    torch.testing.assert_close(patch_from(source)(x, ROWS), source[ROWS])


def test_composing_applies_the_first_edit_first(x, random):
    v, w = random(4, 8, dtype=torch.float64), random(8, dtype=torch.float64)
    both = compose(steer(v), project_out(w))
    torch.testing.assert_close(both(x, ROWS), project_out(w)(x + v[ROWS], ROWS))
    assert torch.equal(compose()(x, ROWS), x)


def test_a_hook_edits_only_its_position(random):
    resid, v = random(3, 5, 8), random(4, 8)
    out = hook(steer(v), ROWS, torch.tensor([0, 4, -2]))(resid)
    moved = (out != resid).any(-1)
    assert moved.nonzero().tolist() == [[0, 0], [1, 4], [2, 3]]
    torch.testing.assert_close(out[1, 4], resid[1, 4] + v[0])
    torch.testing.assert_close(hook(steer(v), ROWS)(resid)[:, -1], resid[:, -1] + v[ROWS])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: steer(torch.tensor([[1.0, torch.nan], [1.0, 1.0]])), "not finite for 1 of 2 cases"),
    (lambda: project_out(torch.tensor([1.0, torch.inf])), "not finite"),
    (lambda: project_out(torch.ones(1, 2, 4)), "linearly dependent"),
    (lambda: reflect(torch.zeros(4), torch.ones(4)), "dependent or zero"),
    (lambda: move_to(torch.eye(4)[0], 1.0, torch.eye(4)[1]), "orthogonal in 1 of 1 cases"),
    (lambda: steer(torch.ones(2, 3, 4)), "wants 2 axes"),
    (lambda: patch_from(torch.ones(4), torch.ones(5)), "basis is 5 wide, source 4"),
])
def test_an_impossible_edit_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_edit_that_does_not_fit_says_what_it_wants(x):
    with pytest.raises(ValueError, match="6 wide, the activations are 8 wide"):
        steer(torch.ones(6))(x, ROWS)
    with pytest.raises(ValueError, match="given for 2 cases, but case 3"):
        steer(torch.ones(2, 8))(x, ROWS)
    with pytest.raises(ValueError, match="outside the sequence of 5 tokens"):
        hook(steer(torch.ones(8)), ROWS, 7)(torch.zeros(3, 5, 8))
    with pytest.raises(ValueError, match="names 3 cases, the batch has 2"):
        hook(steer(torch.ones(8)), ROWS)(torch.zeros(2, 5, 8))
