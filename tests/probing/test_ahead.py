"""Batches side by side: the same bits, in the same order, whatever the number of threads; and when memory runs out."""

import threading

import pytest
import torch

from probing._ahead import in_order
from probing._extract import extract
from probing._forward import is_out_of_memory
from probing._models import load_model
from probing._reading import read_batches
from probing._sites import Site
from probing._store import Store
from tests.probing.ragged import prompts_of

MANY = prompts_of((9, 4, 12, 20, 3, 17) * 7, seed=3)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- in order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_results_come_in_the_order_of_the_items(n):
    assert list(in_order(lambda: lambda x: x * x, range(50), n)) == [x * x for x in range(50)]


def test_each_thread_has_a_call_of_its_own_and_one_torch_thread(threads):
    threads(2)
    both, made = threading.Barrier(2, timeout=60), []

    def make():
        made.append(threading.get_ident())
        return lambda x: (both.wait(), torch.get_num_threads(), threading.get_ident())[1:]

    seen = list(in_order(make, range(8), 2))
    assert {n for n, _ in seen} == {1} and len({thread for _, thread in seen}) == 2 and len(made) == 2
    assert torch.get_num_threads() == 2
    later = []
    (thread := threading.Thread(target=lambda: later.append(torch.get_num_threads()))).start()
    thread.join()
    assert later == [2]


def test_the_first_error_in_order_is_raised_and_nothing_runs_after_the_iterator_is_closed():
    done = []
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda: lambda x: done.append(1 / (x - 20)), range(1000), 2))
    assert len(done) < 30
    some = in_order(lambda: done.append, range(1000), 2)
    next(some)
    some.close()
    n = len(done)
    assert n < 40 and not [t for t in threading.enumerate() if t.name.startswith("reading")] and len(done) == n


# --- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["gpt2_dir", "llama_dir", "neox_dir", "encoder_dir"])
def test_the_bits_do_not_depend_on_the_number_of_threads(folder, request, threads, tmp_path):
    """Also those of Llama, where dividing one operation among 2 or 3 threads does change them."""
    model, stores = load_model(request.getfixturevalue(folder), device="cpu"), []
    for n in (1, 2, 3):
        threads(n)
        acts = extract(model, MANY, cache=tmp_path / str(n), batch_size=2, random_init=None)
        stores.append(contents(acts.path))
    assert stores[0] == stores[1] == stores[2]


def test_nothing_is_run_twice_and_nothing_above_the_last_site(gpt2_dir, threads):
    """Counted on the Hugging Face modules: blocks 0 and 1 once per batch, block 2, final norm and head never."""
    model, counts = load_model(gpt2_dir, device="cpu"), {}

    class Counting(torch.nn.LayerNorm):
        def forward(self, x):
            counts[self.place] = counts.get(self.place, 0) + 1
            return super().forward(x)

    for name, module in model.original_model.named_modules():
        if type(module) is torch.nn.LayerNorm:
            module.__class__, module.place = Counting, name.replace("_original_component.", "")
    for n in (1, 2):
        threads(n)
        batches = read_batches(model, MANY, [Site("resid_post", 1), Site("z", 0)], batch_size=5)  # 9 batches
        counts.clear()
        rows = torch.cat([batch.rows for batch, kept in batches])
        assert rows.sort().values.tolist() == list(range(len(MANY)))
        assert len(counts) == 4 and set(counts.values()) == {9}, counts
        assert all(".h.0." in place or ".h.1." in place for place in counts)


# --- memory ----------------------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """An activation function on a device with room for `room` prompts of 20 tokens at a time."""

    room: float = 1e9

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.shape[0] * x.shape[1] > 20 * Small.room:
            raise torch.OutOfMemoryError(f"cannot allocate {x.numel() * 4} bytes")
        return self.inner(x)


@pytest.fixture
def small(gpt2_dir, monkeypatch):
    monkeypatch.setattr(Small, "room", 1e9)
    model = load_model(gpt2_dir, device="cpu")
    for module in list(model.original_model.modules()):
        if isinstance(module._modules.get("act"), torch.nn.Module):
            module.act = Small(module.act)
    return model


def contents(store):
    return {p.name: p.read_bytes() for p in store.iterdir()}


@pytest.mark.parametrize("n", [1, 2])
def test_where_memory_runs_out_batches_are_halved_from_that_shard_on_and_the_records_say_so(small, tmp_path, n, threads,
                                                                                            monkeypatch, capsys):
    threads(n)
    monkeypatch.setattr("probing._plan.SHARD_BATCHES", 2)
    whole = extract(small, MANY, cache=tmp_path / "whole", batch_size=6, random_init=None)
    Small.room = 3
    acts = extract(small, MANY, cache=tmp_path / "small", batch_size=6, random_init=None)
    halved = [Store.open(acts.path).record(i).get("halved", 0) for i in range(4)]
    assert halved == [1, 1, 1, 1] and "every batch is cut in 2" in capsys.readouterr().err
    assert acts.identity == whole.identity  # the plan is the same, its records tell how it was run
    for site in acts:
        assert torch.allclose(acts[site], whole[site], atol=1e-5)
    streamed = list(read_batches(small, MANY, batch_size=6))
    assert max(len(batch.prompts) for batch, _ in streamed) == 3
    for batch, kept in streamed:
        assert all(torch.equal(x, acts[site][batch.rows]) for site, x in kept.items())


def test_a_run_that_ran_out_of_memory_and_was_interrupted_continues_to_the_same_bytes(small, tmp_path, monkeypatch):
    """Memory runs out at the third shard, for good; interrupted in the fourth; it has room again when resumed."""
    monkeypatch.setattr("probing._plan.SHARD_BATCHES", 1)

    def run(cache, stop=10**9):
        Small.room = 1e9

        def report(done, total):
            if done >= 12:
                Small.room = 1  # 6 prompts of 12 tokens are too many from here on, 3 are not
            if done >= stop:
                raise KeyboardInterrupt

        return extract(small, MANY, cache=cache, batch_size=6, random_init=None, progress=report)

    whole = run(tmp_path / "whole")
    records = [Store.open(whole.path).record(i).get("halved", 0) for i in range(7)]
    assert records[:2] == [0, 0] and records == sorted(records) and records[-1] > 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", stop=27)
    Small.room = 1e9
    again = extract(small, MANY, cache=tmp_path / "again", batch_size=6, random_init=None)
    assert contents(again.path) == contents(whole.path)


def test_a_single_prompt_that_is_too_much_is_an_error_that_says_what_to_do(small, tmp_path):
    Small.room = 0.5
    with pytest.raises(MemoryError, match=r"no memory for prompt \d+ alone, \d+ tokens on cpu: shorten .*device_map"):
        list(read_batches(small, prompts_of((20,) * 4, share=0.2), [Site("resid_post", 0)], batch_size=2))


@pytest.mark.parametrize(("error", "is_it"), [
    (torch.OutOfMemoryError("CUDA out of memory."), True), (MemoryError(), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                  "to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"), True),
    (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False)])
def test_what_counts_as_running_out_of_memory(error, is_it):
    assert is_out_of_memory(error) == is_it


def test_torchs_own_allocator_on_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
