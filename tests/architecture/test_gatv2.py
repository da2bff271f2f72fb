import pytest
import torch
from torch import nn

from gnnscale.architecture.gat import GATConv
from gnnscale.architecture.gatv2 import GATv2, GATv2Conv
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop

NEED = Need(1, loops="edges")


def randomised(conv):
    for p in conv.parameters():
        nn.init.normal_(p)
    return conv


def twin(conv, d_in, size, heads, share):
    oracle = dgl.nn.GATv2Conv(d_in, size, heads, share_weights=share).double()
    right = conv.left if share else conv.right
    oracle.load_state_dict({
        "fc_src.weight": conv.left.weight, "fc_src.bias": conv.left.bias,
        "fc_dst.weight": right.weight, "fc_dst.bias": right.bias,
        "attn": conv.attention.unsqueeze(0),
    })  # fmt: skip
    return oracle


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("heads", "size"), [(1, 4), (3, 4), (8, 1)])
def test_concatenated_layer_equals_gatv2conv(six_dgl, layer, features, heads, size, share):
    torch.manual_seed(0)
    conv = randomised(GATv2Conv(5, heads * size, heads, True, 0.0, share).double())
    want = twin(conv, 5, size, heads, share)(dgl.add_self_loop(six_dgl), features).flatten(1)
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


def test_averaged_layer_equals_gatv2conv(six_dgl, layer, features):
    torch.manual_seed(0)
    conv = randomised(GATv2Conv(5, 4, 3, False, 0.0).double())
    want = twin(conv, 5, 4, 3, False)(dgl.add_self_loop(six_dgl), features).mean(1)
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


def test_layer_by_dense_matrices_with_an_output_bias(layer, features, six, dense):
    torch.manual_seed(0)
    conv = randomised(GATv2Conv(5, 4, 1, True, 0.0, bias=False, out_bias=True).double())
    left, right = features @ conv.left.weight.T, features @ conv.right.weight.T
    e = nn.functional.leaky_relu(left.unsqueeze(0) + right.unsqueeze(1), 0.2) @ conv.attention[0]
    near = dense(six) + torch.eye(6, dtype=torch.float64)
    a = e.masked_fill(near == 0, -torch.inf).softmax(1)
    torch.testing.assert_close(layer(conv, NEED, features), a @ left + conv.bias)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("concat", [True, False])
def test_layer_gradient(check_gradient, features, concat, share):
    conv = GATv2Conv(5, 4, 2, concat, 0.0, share, out_bias=True).double()
    check_gradient(conv, NEED, features)


# -- the dictionary lookup (Brody et al., sec. 4.1) ------------------------------------------------

K = 6


@pytest.fixture
def lookup():
    """Keys 0..K-1 with (word, value) point to queries K..2K-1 with a word: which value has it?"""
    draw = torch.Generator().manual_seed(0)
    values, eye = torch.randperm(K, generator=draw), torch.eye(K, dtype=torch.float64)
    words = torch.randperm(K, generator=draw)
    x = torch.zeros(2 * K, 2 * K, dtype=torch.float64)
    x[:K] = torch.cat([eye[words], eye[values]], 1)
    x[K:, :K] = eye
    src, dst = torch.arange(K).repeat(K), torch.arange(K, 2 * K).repeat_interleave(K)
    return whole_hop(Adjacency.from_edges(src, dst, 2 * K), Need(1)), x, values[words.argsort()]


def scores(conv, hop, x):
    """[K queries, K keys] of one head."""
    seen = []
    conv.q_attention.quantizer = lambda e, hop: seen.append(e) or e
    out = conv(hop, x, None)[K:]
    return seen[0][:, 0].view(K, K), out


def test_weights_exist_that_look_every_word_up(lookup):
    """a . leaky(l_j + r_i) = -c |word_j - word_i| where columns come with both signs."""
    hop, x, wanted = lookup
    conv = GATv2Conv(2 * K, 3 * K, 1, True, 0.0, bias=False).double()
    word, value = torch.eye(2 * K, dtype=torch.float64).split(K)
    with torch.no_grad():
        conv.left.weight.copy_(torch.cat([word, -word, value]))
        conv.right.weight.copy_(torch.cat([-word, word, 0 * value]))
        conv.attention.copy_(torch.cat([-torch.ones(2 * K), torch.zeros(K)]) * 50)
    found, out = scores(conv, hop, x)
    assert torch.equal(x[found.argmax(1), K:].argmax(1), wanted)
    torch.testing.assert_close(
        out[:, 2 * K :], nn.functional.one_hot(wanted, K).double(), rtol=1e-9, atol=1e-9
    )


def test_gat_ranks_the_keys_alike_for_every_query_whatever_its_weights(lookup):
    hop, x, _ = lookup
    different = 0
    for seed in range(20):
        torch.manual_seed(seed)
        old, new = (
            randomised(make(2 * K, 8, 1, True, 0.0).double()) for make in (GATConv, GATv2Conv)
        )
        ranks = nn.functional.leaky_relu(scores(old, hop, x)[0], 0.2).argsort(1)
        assert (ranks == ranks[0]).all()
        ranks = scores(new, hop, x)[0].argsort(1)
        different += bool((ranks != ranks[0]).any())
    assert different >= 18


# -- memory ----------------------------------------------------------------------------------------


def test_edges_hold_one_number_per_head_and_none_per_column():
    kept = []
    for degree in (5, 50):
        src = torch.arange(100).repeat_interleave(degree)
        dst = (src + 1 + torch.arange(degree).repeat(100)) % 100
        hop = whole_hop(Adjacency.from_edges(src, dst, 100), NEED)
        conv, sizes = GATv2Conv(16, 64, 2, True, 0.0), []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            conv(hop, torch.randn(100, 16, requires_grad=True), None).sum().backward()
        kept.append((sum(sizes), hop.graph.n_edges))
    (few, e), (many, ten) = kept
    assert many - few <= 3 * 2 * (ten - e)  # 2 heads, at most three such tensors; columns are 64


# -- the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"heads": 2, "out_heads": 3, "depth": 3, "norm": "layer", "residual": True},
        {"heads": 4, "stem": True, "norm": "batch", "share_weights": True, "out_bias": True},
    ],
)
def test_model(check_model, options):
    check_model(lambda shape: GATv2(shape, hidden=8, **options))


def test_counts(parameters):
    """DGL's 8 x 8 on Cora: two maps with biases and a vector per head, no output bias."""
    first, second = 2 * (1433 * 64 + 64) + 64, 2 * (64 * 7 + 7) + 7
    assert parameters(GATv2(Shape(1433, 7), hidden=64, heads=8)) == first + second
    shared = GATv2(Shape(1433, 7), hidden=64, heads=8, share_weights=True, bias=False)
    assert parameters(shared) == 1433 * 64 + 64 + 64 * 7 + 7


def test_heads_must_divide_hidden():
    message = r"architecture\.hidden=10: must be divisible by architecture\.heads=4; choose .*=12"
    with pytest.raises(UsageError, match=message):
        GATv2(Shape(5, 3), hidden=10, heads=4)
