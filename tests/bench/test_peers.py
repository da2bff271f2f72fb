import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import CATALOG, SMALL

from gnnscale.bench.peers import connect
from gnnscale.bench.peers.with_pyg import WORKER
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import build, originate
from gnnscale.bench.workloads import Epoch
from gnnscale.core.errors import UsageError
from gnnscale.overrides import normalise

PYG = os.environ.get("GNNSCALE_PYG_PYTHON")
no_pyg = pytest.mark.skipif(
    not PYG or not Path(PYG).is_file(),
    reason="no environment with torch-geometric ($GNNSCALE_PYG_PYTHON; docs/measuring.md)",
)
MODELS = {
    "gcn": ["architecture=gcn", "architecture.hidden=4"],
    "gcn_deep": ["architecture=gcn", "architecture.hidden=16", "architecture.depth=3",
                 "architecture.norm=batch"],
    "gcn_stem": ["architecture=gcn", "architecture.stem=true", "architecture.residual=true",
                 "architecture.norm=layer"],
    "sage": ["architecture=sage", "architecture.hidden=16"],
    "sage_max": ["architecture=sage", "architecture.aggr=max"],
    "gat": ["architecture=gat", "architecture.hidden=16", "architecture.heads=4",
            "architecture.out_heads=2"],
    "gin": ["architecture=gin", "architecture.hidden=8"],
    "mlp": ["architecture=mlp", "architecture.depth=3"],
    "sign": ["architecture=sign", "sampler=precompute_sign", "sampler.powers=2"],
}  # fmt: skip
PAIRS = [  # two by default, the others take as long
    ("gat", "full"),
    ("sage", "neighbor"),
    *(
        pytest.param(model, sampler, marks=pytest.mark.process)
        for model in ("gcn", "sage", "gat", "gin", "mlp")
        for sampler in ("full", "neighbor")
        if (model, sampler) not in (("gat", "full"), ("sage", "neighbor"))
    ),
    ("sign", "precompute_sign"),
]
MORE = [("egc", "full"), ("egc", "neighbor"), ("egc", "saint"), ("gcn", "saint"), ("sage", "saint")]
"""PyG has these, too."""
NAMES = {  # our parameter names within one convolution -> DGL's, and whether it is transposed
    "gcn": {"weight": ("weight", False), "bias": ("bias", False)},
    "sage": {"neighbor.weight": ("fc_neigh.weight", False),
             "neighbor.bias": ("fc_self.bias", False),
             "self.weight": ("fc_self.weight", False), "pool.weight": ("fc_pool.weight", False),
             "pool.bias": ("fc_pool.bias", False)},
    "gat": {"weight": ("fc.weight", True), "left": ("attn_l", False), "right": ("attn_r", False)},
    "gin": {"eps": ("eps", False), "mlp.0.weight": ("apply_func.0.weight", False),
            "mlp.0.bias": ("apply_func.0.bias", False), "mlp.1.weight": ("apply_func.1.weight",
            False), "mlp.1.bias": ("apply_func.1.bias", False),
            "mlp.3.weight": ("apply_func.3.weight", False),
            "mlp.3.bias": ("apply_func.3.bias", False)},
}  # fmt: skip


@pytest.fixture
def subject(tmp_path):
    def make(*words):
        typed = normalise([*SMALL, *words], CATALOG)
        return build(originate(None, typed, CATALOG, frozenset()), tmp_path / "s")

    return make


def transfer(ours, theirs, kind):
    """Our weights into the peer's stack."""
    if kind == "sign":
        given = {k: v for k, v in ours.state_dict().items() if "q_" not in k}
        theirs.load_state_dict({k.replace(".0.1.", ".").replace("head.1", "head"): v
                                for k, v in given.items()})  # fmt: skip
        return
    with torch.no_grad():
        for name in ("encoder", "head"):
            if hasattr(theirs, name):
                getattr(theirs, name).load_state_dict(
                    {k: v for k, v in getattr(ours, name).state_dict().items() if "q_" not in k}
                )
        for k, layer in enumerate(ours.layers):
            conv = theirs.convs[k]
            target = dict(conv.named_parameters()) | dict(conv.named_buffers())
            for name, value in layer.conv.named_parameters():
                if kind == "gat" and name == "bias":
                    target["bias"].copy_(value if not conv.averaged else
                                         value.repeat(conv._num_heads))  # fmt: skip
                    continue
                other, turned = NAMES[kind][name]
                value = value.T if turned else value
                target[other].copy_(value.view(target[other].shape))
            for name, value in layer.norm.named_parameters():
                dict(theirs.norms[k].named_parameters())[name].copy_(value)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "mlp"])
def test_dgls_layers_compute_the_same_logits(subject, name):
    """With our weights, the peer's model is our model: the comparison is of like with like."""
    mine = subject(*MODELS[name])
    peer = connect("dgl", mine, Bench(), Path())
    run, kind = mine.run, name.split("_")[0]
    torch.manual_seed(3)
    with torch.no_grad():
        for p in run.model.parameters():
            p.uniform_(-0.5, 0.5)
    transfer(run.model, peer.model, kind)
    want = run.inference(run.model, run.data, torch.arange(60), run.device)
    got = peer.logits()
    assert want.std() > 0.01
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dgls_model_has_our_size(subject, name):
    mine = subject(*MODELS[name])
    peer = connect("dgl", mine, Bench(), Path())
    own = sum(p.numel() for p in mine.run.model.parameters())
    extra = 0
    if name == "gat":  # DGL keeps one bias per averaged head, we keep one
        extra = 3 * (2 - 1)
    assert peer.about["parameters"] == own + extra


@pytest.mark.process
@pytest.mark.parametrize(("model", "sampler"), PAIRS)
def test_bench_against_dgl(measured, model, sampler):
    found, _, _ = measured("peer=dgl", f"architecture={model}", f"sampler={sampler}")
    (versus,) = found.versus
    assert versus["label"] == "dgl"
    kept = {"full", "query_1", "query_4", "step", "epoch"}
    if model == "mlp" and sampler == "neighbor":
        kept -= {"step", "epoch"}
        assert any("reads no neighbours" in n for n in versus["measurement"]["notes"])
    assert set(versus["ratios"]) == kept
    for name in kept:
        assert versus["ratios"][name]["end2end"]["n"] == 3
    assert set(found.workloads) == {"full", "query_1", "query_4", "step", "epoch"}
    assert versus["measurement"]["versions"]["dgl"]


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_peers_memory_is_measured_as_ours_is(measured):
    found, said, _ = measured(
        "peer=dgl", "bench.workloads=[full,epoch]", "dataset.nodes=20000", "dataset.features=512",
        "bench.memory=true",
    )  # fmt: skip
    (versus,) = found.versus
    theirs = versus["measurement"]["memory"]
    for phase in ("load", "full", "epoch"):
        assert theirs[phase]["mib"] > 0.5 * found.memory[phase]["mib"]
    # graph and features once more, and what an epoch makes
    assert theirs["epoch"]["mib"] > theirs["load"]["mib"]
    assert said["versus"][0]["measurement"]["memory"] == theirs


def test_other_samplers_are_not_compared_with_something_else(measured):
    found, _, _ = measured("peer=dgl", "sampler=saint", "bench.workloads=[full,epoch]")
    (versus,) = found.versus
    assert set(versus["ratios"]) == {"full"}
    assert "no loader for sampler=saint" in versus["measurement"]["notes"][-1]
    assert set(found.workloads) == {"full", "epoch"}


@pytest.mark.parametrize(("peer", "model"), [("dgl", "egc"), ("pyg", "appnp")])
def test_an_architecture_without_a_layer_there_is_refused_by_name(measured, peer, model):
    with pytest.raises(UsageError, match=f"peer={peer}: has no layer for architecture={model}"):
        measured(f"peer={peer}", f"architecture={model}")


@pytest.mark.parametrize(("words", "said"), [
    (["architecture=sign", "sampler=precompute_sign", "architecture.head=ffn"],
     "type architecture.head=paper"),
    (["architecture=sign", "sampler=precompute"], "type sampler=precompute_sign"),
    (["architecture=sign", "sampler=precompute_sign", "sampler.diffusions=1"],
     r"sampler\.diffusions=0 sampler\.triangles=0"),
    (["architecture=egc", "architecture.aggregators=[symadd,max]"],
     r"type architecture\.self_loops=all"),
])  # fmt: skip
def test_what_a_peer_builds_otherwise_is_refused(measured, words, said):
    with pytest.raises(UsageError, match=f"peer=pyg: .*{said}"):
        measured("peer=pyg", *words)


def test_pyg_needs_its_environment(measured, monkeypatch):
    monkeypatch.delenv("GNNSCALE_PYG_PYTHON", raising=False)
    with pytest.raises(UsageError, match=r"peer=pyg: .*bench\.pyg_python=ENV/bin/python"):
        measured("peer=pyg")
    with pytest.raises(UsageError, match=r"bench\.pyg_python=/nowhere: no such file"):
        measured("peer=pyg", "bench.pyg_python=/nowhere")


def test_a_worker_that_dies_is_told_of(measured, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(UsageError, match="peer=pyg: its process has ended"):
        measured("peer=pyg", f"bench.pyg_python={fake}")


@no_pyg
@pytest.mark.parametrize(("model", "sampler"), [*PAIRS, *MORE])
def test_bench_against_pyg(measured, model, sampler):
    found, _, _ = measured("peer=pyg", f"architecture={model}", f"sampler={sampler}",
                           f"bench.pyg_python={PYG}")  # fmt: skip
    (versus,) = found.versus
    assert {"full", "step", "epoch"} <= set(versus["ratios"])
    assert versus["ratios"]["epoch"]["end2end"]["n"] == 3
    assert "torch_sparse" in versus["measurement"]["versions"]
    own = found.cost["parameters"]
    assert versus["measurement"]["parameters"] == own


@no_pyg
def test_pygs_model_learns_from_its_requests(subject, tmp_path):
    mine = subject("architecture=gcn", "architecture.dropout=0", "optimizer.lr=0.1",
                   "optimizer.weight_decay=0")  # fmt: skip
    peer = connect("pyg", mine, Bench(pyg_python=PYG), tmp_path / "p")
    rows, data = mine.run.data.splits["train"], mine.run.data
    before = peer.logits()
    assert before.shape == (60, 3)
    assert torch.equal(before, peer.logits())
    request = peer.request(Epoch(), "end2end")
    for _ in range(100):
        request()
    score = data.task.score(peer.logits()[rows], data.y[rows])
    assert score > 0.9
    assert score > data.task.score(before[rows], data.y[rows])
    peer.close()


@no_pyg
def test_pyg_has_no_inductive_mean_with_itself(measured):
    with pytest.raises(UsageError, match="PyG has no SAGEConv with aggr=gcn"):
        measured("peer=pyg", "architecture=sage", "architecture.aggr=gcn",
                 f"bench.pyg_python={PYG}")  # fmt: skip


LOGITS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from pyg_worker import Worker
worker = Worker(sys.argv[2])
worker.build(["SGD", {"lr": 0.1}], None, 0)
given = np.load(sys.argv[3])
state = {name: torch.from_numpy(given[name]) for name in given}
print(worker.model.load_state_dict(state, strict=False).unexpected_keys)
worker.logits(sys.argv[4])
"""
WITH_PYG = {
    "egc_s": ["architecture=egc", "architecture.hidden=16"],
    "egc_m": ["architecture=egc", "architecture.hidden=16", "architecture.self_loops=all",
              "architecture.aggregators=[symadd,max,mean]", "architecture.heads=4"],
    "egc_bare": ["architecture=egc", "architecture.hidden=16", "architecture.stem=false",
                 "architecture.aggregators=[add,std]", "architecture.out_heads=3"],
    "sign": MODELS["sign"],
}  # fmt: skip


@no_pyg
@pytest.mark.parametrize("name", WITH_PYG)
def test_pygs_layers_compute_the_same_logits(subject, tmp_path, name):
    mine = subject(*WITH_PYG[name])
    peer = connect("pyg", mine, Bench(pyg_python=PYG), tmp_path)
    peer.close()
    model, run = mine.run.model, mine.run
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-0.5, 0.5)
    named = {"conv.mix.": "comb_lin.", "conv.weight": "bases_lin.weight", "conv.bias": "bias"}
    state = {}
    for key, value in model.state_dict().items():
        if name == "sign":
            key = key.replace(".0.1.", ".").replace("head.1", "head")
        elif key.startswith("layers."):
            _, k, rest = key.split(".", 2)
            part = next((part for part in named if rest.startswith(part)), None)
            rest = f"norms.{k}." + rest.removeprefix("norm.") if part is None else (
                f"convs.{k}." + rest.replace(part, named[part]))  # fmt: skip
            key, value = rest, value.T if part == "conv.weight" else value
        state[key] = value.numpy()
    np.savez(tmp_path / "weights.npz", **state)
    files = (tmp_path / "pyg.npz", tmp_path / "weights.npz", tmp_path / "logits.npy")
    done = subprocess.run([PYG, "-c", LOGITS, str(WORKER.parent), *map(str, files)],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "[]"
    want = run.inference(run.model, run.data, torch.arange(60), run.device)
    assert want.std() > 0.01
    torch.testing.assert_close(
        torch.from_numpy(np.load(tmp_path / "logits.npy")), want, rtol=1e-4, atol=1e-4
    )
