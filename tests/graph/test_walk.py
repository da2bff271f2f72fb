"""Rows taken from tables, and GraphSAINT's weight of an edge."""

import numpy as np
import pytest
import torch

from gnnscale.graph.walk import CLIP, UNSEEN, correction, take

KINDS = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(50, 33), (50, 2, 7), (50, 1), (50, 0)])
def test_rows_are_those_of_indexing(kind, shape):
    table = (100 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(kind)
    at = torch.tensor([49, 0, 7, 7, 48])
    for given in (table, table.transpose(0, 1).contiguous().transpose(0, 1)):
        out = take(given, at)
        assert out.dtype == kind
        assert torch.equal(out, table[at])
    assert take(table, at[:0]).shape == (0, *shape[1:])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_entries_are_those_of_indexing(kind):
    table = torch.arange(50).to(kind)
    at = torch.tensor([49, 0, 7, 7])
    assert torch.equal(take(table, at), table[at])


@pytest.mark.parametrize("wrong", [50, -1])
def test_rows_that_are_not_there(wrong):
    with pytest.raises(IndexError):
        take(torch.zeros(50, 3), torch.tensor([0, wrong]))


def test_correction_by_hand():
    # two targets held 6 and 0 times; edges held 3, 0 (counts once), 1 and 100,000 times
    indptr, edges = np.array([0, 3, 4]), np.array([5, 2, 0, 4])
    held = np.array([1, 9, 0, 9, 100_000, 3], np.int32)
    out = np.empty(4, np.float32)
    correction(indptr, edges, np.array([6, 0], np.int32), held, out)
    assert out.tolist() == [2.0, 6.0, 6.0, np.float32(UNSEEN)]
    correction(indptr, edges, np.array([10**6, 0], np.int32), held, out)
    assert out[1] == CLIP
