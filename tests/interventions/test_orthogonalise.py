"""Orthogonalised weights are projecting out at every write; afterwards the model is as it was."""

import pytest
import torch

from interventions import At, Sequences, orthogonalise, orthogonalised, project_out, writes
from probing._models import identify
from probing._sites import Site


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "native"])
@pytest.mark.parametrize("rank", [1, 3])
def test_weights_equal_the_runtime_ablation_of_every_write(models, cases, random, family, rank):
    model, basis = models(family), random(rank, 24)
    run = Sequences.of(model, cases)
    before, parameters = run.logits(), dict(model.named_parameters())
    runtime = run.logits({site: At(project_out(basis[None])) for site in writes(model)})
    with orthogonalised(model, basis):
        logits = run.logits()
        stream = run.read([Site("resid_post", 2)])[Site("resid_post", 2)]
    torch.testing.assert_close(logits, runtime, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits, before, atol=1e-2)
    assert float((stream @ basis.T).abs().max()) < 1e-4
    assert torch.equal(run.logits(), before)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "native"])
def test_a_copy_is_a_model_of_its_own(models, cases, random, family):
    model, r = models(family), random(24)
    before = Sequences.of(model, cases).logits()
    copy = orthogonalise(model, r)
    with orthogonalised(model, r):
        wanted = Sequences.of(model, cases).logits()
    torch.testing.assert_close(Sequences.of(copy, cases).logits(), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(Sequences.of(model, cases).logits(), before)
    assert not {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert identify(copy, anew=True).digest != identify(model, anew=True).digest


def test_the_model_is_as_it_was_after_an_exception(gpt2, cases, random):
    before, parameters = Sequences.of(gpt2, cases).logits(), dict(gpt2.named_parameters())
    with pytest.raises(RuntimeError, match="inside"), orthogonalised(gpt2, random(24)):
        raise RuntimeError("inside")
    assert torch.equal(Sequences.of(gpt2, cases).logits(), before)
    assert all(parameter is parameters[name] for name, parameter in gpt2.named_parameters())


def test_what_cannot_be_orthogonalised_is_refused(models, random):
    for family, basis, message in (("gpt2", random(16), "16 wide"), ("gpt2", random(24) / 0, "must be finite"),
                                   ("gpt2", torch.zeros(24), "span nothing"), ("bert", random(24), "normalises")):
        before = dict(models(family).named_parameters())
        with pytest.raises(ValueError, match=message), orthogonalised(models(family), basis):
            pass
        assert all(parameter is before[name] for name, parameter in models(family).named_parameters())
