import pytest
import torch

from gnnscale.core.ops.bits import sign
from gnnscale.graph.nearest import nearest


def brute(x, k, segment):
    """Rows by (squared distance, index), one at a time."""
    found = []
    for i in range(len(x)):
        own = [j for j in range(len(x)) if segment[j] == segment[i]]
        far = {j: float((x[i] - x[j]).square().sum()) for j in own}
        found.append(sorted(own, key=lambda j: (far[j], j))[:k])
    return found


def rows(graph):
    return [
        graph.indices[a:b].tolist() for a, b in zip(graph.indptr, graph.indptr[1:], strict=False)
    ]


@pytest.mark.parametrize("columns", [1, 3, 64, 70])
@pytest.mark.parametrize("space", ["euclid", "hamming"])
def test_nearest_by_distance_then_index(space, columns):
    draw = torch.Generator().manual_seed(columns)
    x = torch.randn(40, columns, generator=draw, dtype=torch.float64)
    x[::7] = x[0]  # equal rows are tied in any space
    segment = torch.tensor([0] * 17 + [1] * 3 + [3] * 20)
    compared = sign(x) if space == "hamming" else x
    for k in (1, 4, 40):
        assert rows(nearest(x, k, segment, space)) == brute(compared, k, segment)
    assert rows(nearest(x, 5, None, space)) == brute(compared, 5, torch.zeros(40))


def test_hamming_distance_is_a_quarter_of_the_squared_euclidean_one():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 100, generator=draw)
    signs = sign(x)
    differ = (signs[:, None] != signs[None]).sum(2)
    assert torch.equal(4 * differ.float(), (signs[:, None] - signs[None]).square().sum(2))
    found = nearest(x, 30, None, "hamming")
    far = differ[found.dst.long(), found.indices.long()].view(30, 30)
    assert (far.diff() >= 0).all()
    assert torch.equal(found.indices.view(30, 30)[:, 0], torch.arange(30).int()), "itself, at 0"
    # the general path gives the same rows
    assert rows(nearest(signs, 7, None, "euclid")) == rows(nearest(x, 7, None, "hamming"))


def test_segments_must_ascend():
    with pytest.raises(ValueError, match="must stand together"):
        nearest(torch.randn(3, 2), 1, torch.tensor([0, 1, 0]))
