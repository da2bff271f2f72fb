import math

import pytest
import torch
import torch.nn.functional as F
from compositions import toy, train
from torch import nn

from gnnscale import session
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.dataset.synthetic_graphs import SyntheticGraphs
from gnnscale.stage._fakes import Fakes, Statistics, arm, entropy
from gnnscale.stage.synthesize import Synthesize, read
from gnnscale.train import checkpoint

TEACHER = {
    "run": None, "architecture": "gin",
    "overrides": ["trainer.epochs=30", "architecture.stem=true"],
}  # fmt: skip


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_estimated_gradient_is_that_of_all_structures_enumerated():
    k, n = 4, 1_000_000
    phi = torch.tensor([0.3, -1.2, 0.0, 2.0], dtype=torch.float64)
    table = torch.randn(2**k, 2, generator=draw(), dtype=torch.float64)  # losses of two graphs
    owner = torch.tensor([0, 0, 1, 1])
    powers = 2 ** torch.arange(k)

    def losses(there):  # any function of the whole structure
        return table[(there.long() * powers).sum(-1)]

    free = phi.clone().requires_grad_()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * k)
    p = torch.sigmoid(free)
    chance = (every * p + (1 - every) * (1 - p)).prod(1)
    expected = (chance.unsqueeze(1) * losses(every.bool())).sum(0)
    exact = torch.stack([
        torch.autograd.grad(expected[owner[e]], free, retain_graph=True)[0][e] for e in range(k)
    ])  # fmt: skip
    u = torch.rand(n, k, generator=draw(1), dtype=torch.float64)

    def both(there):
        return losses(there).T

    found = torch.stack([
        (both(u > torch.sigmoid(-phi)) - both(u < torch.sigmoid(phi)))[owner[e]] * (u[:, e] - 0.5)
        for e in range(k)
    ])  # fmt: skip
    error = found.std(1) / n**0.5
    assert ((found.mean(1) - exact).abs() < 4 * error).all()
    assert (exact.abs() > 10 * error).any()
    for row in range(50):  # and that is what the function computes, draw by draw
        torch.testing.assert_close(arm(losses, phi, u[row], owner), found[:, row])


def test_certain_structures_have_no_gradient():
    phi = torch.tensor([60.0, -60.0], dtype=torch.float64)
    u = torch.rand(2, generator=draw(), dtype=torch.float64)
    assert not arm(lambda there: there.double(), phi, u, torch.arange(2)).any()


def test_statistics_of_batch_norms_by_hand():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    z = torch.randn(50, 3, generator=draw())
    with torch.no_grad():
        for norm, rows in ((model[0], z), (model[2], model[1](model[0](z)))):
            norm.running_mean.copy_(rows.mean(0))
            norm.running_var.copy_(rows.var(0, unbiased=False))
        model[2].running_mean.copy_(model[1](model[0](z)).mean(0))
        model[2].running_var.copy_(model[1](model[0](z)).var(0, unbiased=False))
    with Statistics(model) as found:
        model(z)
    assert found.total < 1e-5
    with Statistics(model) as found:
        model[0](z + torch.tensor([3.0, 4.0, 0.0]))
    torch.testing.assert_close(found.total, torch.tensor(5.0), atol=1e-4, rtol=1e-4)
    with Statistics(model) as found:
        model[0](2 * z - z.mean(0))
    torch.testing.assert_close(found.total, 3 * z.var(0, unbiased=False).norm())
    model(z)
    assert found.total > 1, "nothing is heard any more"


def test_entropy_of_one_kind_and_of_all():
    assert entropy(100 * torch.eye(7)) < 1e-6
    torch.testing.assert_close(entropy(torch.zeros(4, 7)), torch.tensor(math.log(7)))


def test_edges_are_all_pairs_of_different_nodes_of_one_graph(dense):
    fakes = Fakes(torch.tensor([3, 1, 4]), 5, 2, draw())
    assert len(fakes.phi) == 3 * 2 + 0 + 4 * 3
    whole = dense(fakes.graph(torch.ones(18, dtype=torch.bool)))
    blocks = torch.block_diag(*[torch.ones(n, n) - torch.eye(n) for n in (3, 1, 4)])
    assert torch.equal(whole, blocks.double())
    assert torch.equal(fakes.owner, fakes.segment[fakes.src])
    some = torch.rand(18, generator=draw()) < 0.5
    want = torch.zeros(8, 8, dtype=torch.float64)
    want[fakes.dst[some], fakes.src[some]] = 1
    assert torch.equal(dense(fakes.graph(some)), want)


@pytest.fixture
def one_hot(monkeypatch):
    """Nodes of the toy graphs are of one of three kinds, by which the classes differ."""
    load = SyntheticGraphs.load

    def kinds(self, seed):
        data = load(self, seed)
        owner = torch.repeat_interleave(torch.arange(data.items), data.offsets.diff())
        noise = torch.rand(data.nodes, generator=draw()) < 0.2
        kind = torch.where(noise, 2, data.y[owner] % 2)
        return data.with_(x=F.one_hot(kind, 3).float())

    monkeypatch.setattr(SyntheticGraphs, "load", kinds)


def student(steps, **changes):
    checked = toy(
        {"teacher": TEACHER, "dataset": {"graphs": 40}, "trainer": {"epochs": 3}, **changes},
        architecture="gcn", sampler="graphs", distillation=["logit"], recipe="gfkd",
    )  # fmt: skip
    stage = checked.parts["recipe"][1].arguments
    stage.update(graphs=12, nodes_min=4, nodes_max=6, steps=steps, decay_every=60)
    return checked


def test_the_teacher_is_surer_of_what_was_made_for_it(one_hot, tmp_path):
    found = {}
    for steps in (0, 80):
        checked = student(steps)
        (record,) = train(checked, tmp_path / str(steps))
        assert isinstance(record, Record)
        run = session.reopened(checked, 0, tmp_path / str(steps))
        fakes = read(tmp_path / f"{steps}/seed-0/fakes.npz", run.data)
        assert fakes.items == 12
        assert ((fakes.offsets.diff() >= 4) & (fakes.offsets.diff() <= 6)).all()
        assert set(fakes.x.sum(1).tolist()) == {1.0}
        teacher = session.teach(checked, 0, run.data)
        before = {n: v.clone() for n, v in teacher.model.state_dict().items()}
        logits = teacher.inference(teacher.model, fakes, torch.arange(12), torch.device("cpu"))
        found[steps] = F.cross_entropy(logits, fakes.y).item()
        kept = checkpoint.load(teacher.folder / "checkpoint.pt")
        weights = kept["model"] if kept["best"] is None else kept["best"]
        assert all(torch.equal(before[n], weights[n]) for n in before), "the teacher has moved"
    assert found[80] < 0.7 * found[0]


def test_made_once_and_the_same_again(one_hot, tmp_path):
    train(student(5), tmp_path / "a")
    first = tmp_path / "a/seed-0/fakes.npz"
    content, stamp = first.read_bytes(), first.stat().st_mtime_ns
    (tmp_path / "a/seed-0/record.json").unlink()
    train(student(5), tmp_path / "a")
    assert first.stat().st_mtime_ns == stamp
    train(student(5), tmp_path / "b")
    assert (tmp_path / "b/seed-0/fakes.npz").read_bytes() == content
    train(student(5, seed=1), tmp_path / "c")
    assert (tmp_path / "c/seed-1/fakes.npz").read_bytes() != content


def test_other_data_and_teachers_are_refused(tmp_path, one_hot, monkeypatch):
    edged = {**TEACHER, "architecture": "gine"}
    with pytest.raises(UsageError, match="the teacher reads features of edges"):
        train(student(1, teacher=edged), tmp_path / "a")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="nodes have no one-hot kind"):
        train(student(1), tmp_path / "b")
    with pytest.raises(UsageError, match="nodes_max=3 is below nodes_min=10"):
        Synthesize(nodes_min=10, nodes_max=3)
