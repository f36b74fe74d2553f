"""The harness on small sizes: every op runs, wrong results are not timed, and results survive the way to a file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vistok.bench import OPS, Inputs, Provider, Shape, cases, read_rows, run
from vistok.bench.case import Case, Result, in_chunks
from vistok.bench.exact import check_search, fault_of_indices, nearest
from vistok.bench.run import Settings, chunk_size, run_case
from vistok.bench.search import draw
from vistok.errors import VistokError

FAST = Settings(quick=True, repeats=1, memory=False)
COMPILED = "compiled cdist + argmin"


def without_compiling(case: Case) -> Case:
    return replace(case, providers=tuple(p for p in case.providers if not p.compiled))


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_right_and_timed_or_says_why_not(op):
    for number, case in enumerate(cases(op, quick=True)):
        rows = run_case(without_compiling(case), number, FAST)
        for row in rows:
            assert (row.median_s is not None and row.correct == "yes") or row.note, row
        assert rows[0].provider == "vistok" and rows[0].commit is not None


def test_every_op_has_a_case_at_full_size_too():
    for op in OPS:
        for quick, full in zip(cases(op, quick=True), cases(op), strict=False):
            assert full.op == quick.op == op and full.shape.num_latents > quick.shape.num_latents


def wrong(inputs):
    return lambda given: Result(torch.zeros(len(given.latents), dtype=torch.int64))


def broken(inputs):
    raise RuntimeError("no such thing\nand more")


def case_of(*providers: Provider) -> Case:
    return Case("nearest_code", "forward", Shape(32, 16, 4), draw, check_search, providers)


def test_a_wrong_or_failing_peer_is_named_and_not_timed():
    peers = case_of(
        Provider("wrong", wrong), Provider("broken", broken), Provider("absent", wrong, "no_such_module")
    )
    rows = {row.provider: row for row in run_case(peers, 0, FAST)}
    assert "indices are wrong" in rows["wrong"].correct and rows["wrong"].median_s is None
    assert rows["broken"].note == "failed: RuntimeError: no such thing"
    assert rows["absent"].note == "not installed"


def test_a_wrong_result_of_our_own_fails_the_whole_run(monkeypatch):
    monkeypatch.setitem(OPS, "nearest_code", lambda quick: [case_of(Provider("vistok", wrong, ours=True))])
    with pytest.raises(VistokError, match="vistok's own result is wrong"):
        run(["nearest_code"], FAST)


def test_unknown_ops_and_devices_are_refused():
    with pytest.raises(VistokError, match="no benchmark 'nearest'"):
        run(["nearest"], FAST)
    if not torch.cuda.is_available():
        with pytest.raises(VistokError, match="no CUDA device"):
            run(["fsq"], replace(FAST, device="cuda"))


def test_rows_come_back_from_their_file_and_are_drawn(tmp_path, monkeypatch):
    small = [without_compiling(case) for case in cases("nearest_code", quick=True)]
    monkeypatch.setitem(OPS, "nearest_code", lambda quick: small)
    rows = run(["nearest_code"], FAST, tmp_path)
    assert read_rows(tmp_path / "bench.csv") == rows
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_the_exact_search_is_the_reference_far_from_the_origin_too():
    from vistok_kernels.vq import reference

    latents, codebook = torch.randn(40, 3) + 1e4, torch.randn(70, 3) + 1e4
    assert torch.equal(nearest(latents, codebook)[1], reference.nearest_code(latents, codebook))


def test_near_ties_are_counted_and_farther_codes_are_faults():
    codebook = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    latents = torch.tensor([[1e-7, 0.0], [-0.5, 0.0]])
    assert fault_of_indices(latents, codebook, torch.tensor([0, 0])) == (None, 1)
    assert fault_of_indices(latents, codebook, torch.tensor([1, 1])) == ("1 of 2 indices are wrong", 0)
    assert fault_of_indices(latents, codebook, torch.tensor([1, 3]))[0] is not None


def test_latents_that_do_not_fit_go_in_chunks():
    provider = Provider("peer", lambda inputs: work, bytes_per_pair=2.0**40)
    case = case_of(provider)

    def work(given: Inputs) -> Result:
        return Result(nearest(given.latents, given.codebooks[0])[1])

    assert chunk_size(case, provider, "cpu") == 1
    inputs = case.inputs("cpu")
    assert torch.equal(in_chunks(work, inputs, 5).indices, work(inputs).indices)
    (row,) = run_case(case, 0, FAST)
    assert row.note == "in chunks of 1 latents" and row.correct == "yes"
