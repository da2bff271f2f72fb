"""Integer models: what fake quantization computes, without floats where codes are."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale import finished, session
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.bench.memory import held
from gnnscale.core.batch import Memo
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.coded import Coded
from gnnscale.core.record import Record
from gnnscale.core.site import fake, sites
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization.integer import Integer, IntegerWeight, describe, pack, unpack
from gnnscale.quantization.qat import QAT
from gnnscale.stage.evaluate import model_bytes, parameter_count
from gnnscale.train import checkpoint

ARCHITECTURES = ["gcn", "sage", "gat", "gatv2", "gin", "egc", "sgc", "appnp", "gcnii", "mlp", "pna",
                 "lgcn", "cluster_gcn", "high_order"]  # fmt: skip


def quantized(tmp_path, name="run", how=None, changes=None, **chosen):
    """A trained run with fake quantization."""
    changes = {"trainer": {"epochs": 4}, **(changes or {})}
    chosen = {"quantization": "qat", "architecture": "gcn", **chosen}
    checked = toy({"quantization": {"momentum": 0.5, **(how or {})}, **changes}, **chosen)
    train(checked, tmp_path / name)
    return tmp_path / name


def converted(folder, **chosen):
    return finished.convert(folder, None, [], CATALOG, frozenset())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packed_codes_come_back(bits):
    for n in (0, 1, 7, 8, 33):
        codes = torch.randint(0, 2**bits, (n,))
        packed = pack(codes, bits)
        assert packed.dtype == torch.uint8
        assert len(packed) == -(-n * bits // 8)
        assert torch.equal(unpack(packed, bits, n).long(), codes)


HOW = {
    "8": {},
    "4": {"weight_bits": 4, "activation_bits": 4},
    "affine": {"symmetric_weights": False, "per_channel": False},
}


# parts of a code that float32's own rounding may move a value by, 255 codes at most
TIE = 5e-4


def pairs():
    """Every architecture with every format.

    By default all in int8, and in the other formats the usual four (make test-processes: all).
    """
    for name in ARCHITECTURES:
        for how, changes in HOW.items():
            rare = how != "8" and name not in ("gcn", "gat", "sage", "gin", "gcnii", "cluster_gcn")
            marks = [pytest.mark.process] if rare else []
            yield pytest.param(name, changes, id=f"{name}-{how}", marks=marks)


@pytest.mark.parametrize(("architecture", "how"), list(pairs()))
def test_every_architecture_computes_what_fake_quantization_does(architecture, how, tmp_path):
    folder = quantized(tmp_path, how=how, architecture=architecture)
    out, (about,) = converted(folder)
    # a code that is one apart moves those of the next layers, so this is not site by site
    assert about["codes"]["equal"] >= 0.95
    assert about["agree"] >= 0.95
    before = Record.load(folder / "seed-0/record.json")
    after = Record.load(out / "seed-0/record.json")
    assert before.parameters == after.parameters
    assert after.sites.items() <= before.sites.items()  # sites that nothing ever passed have none
    assert after.latency_ms is not None
    assert before.latency_ms is None
    if architecture == "mlp":  # it has no hops to walk along; its two maps are compared above
        assert about["codes"]["equal"] >= 0.999
        return
    total = ties = 0
    for at, theirs, ours in seen(finished._trained(session.load_plan(folder), 0, folder),
                                 finished._trained(session.load_plan(out), 0, out)):  # fmt: skip
        # Which neighbour a value half-way between two codes goes to is float32's rounding. There
        # are many such values where an aggregate is a mean of codes of its own scale.
        tie = ((at - at.floor()) - 0.5).abs() < TIE
        apart = (ours - theirs).abs()
        assert apart.max() <= 1
        assert not apart[~tie].any()
        total, ties = total + apart.numel(), ties + int(tie.sum())
    assert total > ties * 8


@torch.no_grad()
def seen(before, after):
    """Of every site: its input in codes before rounding, and the codes of fake and of integer.

    Each site of the integer model hands on what the fake one did: all are given the same codes.
    """
    batch = whole_batch(before.data, before.model.need)
    levels = list(before.model.encode(batch.inputs))
    memo = Memo(batch, levels[-1])
    for k, hop in enumerate(batch.hops):
        given, made, handed, outs = {}, {}, {}, []

        def look(name, quantizer, args, out, given=given, handed=handed):
            if name not in given and isinstance(out, torch.Tensor) and hasattr(quantizer, "grid"):
                grid = quantizer.grid
                given[name] = args[0].double() / grid.scale + grid.zero
                handed[name] = out

        def replace(name, quantizer, args, out, made=made, handed=handed):
            if name in made or name not in handed:
                return None
            rows = out.values() if isinstance(out, Coded) else out
            made[name] = (rows / quantizer.grid.scale).round()
            return quantizer.forward(handed[name])

        for run, what in ((before, look), (after, replace)):
            layer = run.model.layers[k]
            hooks = [site.quantizer.register_forward_hook(partial(what, name))
                     for name, site in sites(layer)
                     if site.role != "weight" and site.quantizer is not None]  # fmt: skip
            outs.append(layer(hop, levels[-1], memo))
            for hook in hooks:
                hook.remove()
        levels.append(outs[0])
        for name, ours in made.items():
            yield given[name], (handed[name] / grid(before, k, name)).round(), ours


def grid(run, k, name):
    """The scale of a site of a layer."""
    return dict(sites(run.model.layers[k]))[name].quantizer.grid.scale


@pytest.mark.parametrize("sampler", ["full", "saint", "neighbor", "gas", "shadow_khop", "graphs"])
def test_every_kind_of_sampler_has_its_integer_model(sampler, tmp_path):
    folder = quantized(tmp_path, sampler=sampler, architecture="gin")
    _, (about,) = converted(folder)
    assert about["codes"]["equal"] >= 0.99


@pytest.mark.parametrize("quantization", ["ptq", "degree"])
def test_other_trainings_have_their_integer_models(quantization, tmp_path):
    recipe = "ptq" if quantization == "ptq" else "supervised"
    folder = quantized(tmp_path, quantization=quantization, recipe=recipe)
    out, (about,) = converted(folder)
    assert about["codes"]["equal"] >= 0.999
    assert json.loads((out / "seed-0/codes.json").read_text()) == about


@pytest.mark.parametrize("architecture", ["gcn", "sage", "gin", "edgeconv", "mlp"])
def test_signs_are_bits(architecture, tmp_path):
    changes = {} if architecture == "edgeconv" else {"architecture": {"depth": 3}}
    folder = quantized(tmp_path, quantization="binary", architecture=architecture, changes=changes,
                       how={"center": True})  # fmt: skip
    out, (about,) = converted(folder)
    assert about["codes"]["equal"] == 1
    assert about["logits"] < 1e-4
    assert about["agree"] == 1
    before, after = (Record.load(f / "seed-0/record.json") for f in (folder, out))
    assert before.parameters == after.parameters
    assert before.sites == after.sites
    assert set(after.sites.values()) == {1}
    stored = checkpoint.load(out / "seed-0/checkpoint.pt")["model"]
    for name in after.sites:
        if f"{name}.quantizer.words" in stored:
            assert f"{name.removesuffix('q_weight')}weight" not in stored


def test_stacks_of_binary_matrices_are_refused_by_name(tmp_path):
    folder = quantized(tmp_path, quantization="binary", architecture="pna")
    with pytest.raises(UsageError, match=r"q_weight is a stack of binary matrices"):
        converted(folder)
    assert not (tmp_path / "run-integer").exists()


@pytest.mark.parametrize("how", [{"inputs": "tanh"}, {"weights": "real"}])
def test_what_holds_no_signs_is_refused(how, tmp_path):
    folder = quantized(tmp_path, quantization="binary", changes={"architecture": {"depth": 3}},
                       how={"rescale": "mean", **how})  # fmt: skip
    with pytest.raises(UsageError, match="no integer form; train with quantization"):
        converted(folder)
    assert not (tmp_path / "run-integer").exists()


def test_sums_linear_maps_and_rectifiers_are_bit_identical(sixty):
    """Scales are powers of two and sums small: floats are exact in both."""
    data = sixty.with_(x=sixty.x.float())

    class Plain(GIN):
        pass

    torch.manual_seed(0)
    model = Plain(data.shape, hidden=16, norm="none", mlp_norm="none", train_eps=False)
    QAT(range="minmax").attach(model)
    batch = whole_batch(data, model.need)
    model.train()(batch)
    model.eval()
    for _, site in sites(model):  # every range such that its scale is a power of two
        quantizer = site.quantizer
        if site.role == "weight":
            continue
        top = 2**quantizer.bits - 1
        scale = 2.0 ** torch.ceil(torch.log2((quantizer.high - quantizer.low) / top))
        zero = torch.round(-quantizer.low / scale)
        quantizer.low.copy_(-zero * scale)
        quantizer.high.copy_((top - zero) * scale)
    for module in model.modules():  # and every weight's, per channel: 2 max|w| = 255 2^-k
        if hasattr(module, "q_weight"):
            w = module.weight.data
            reach = w.abs().amax(1, keepdim=True)
            w.mul_(2.0 ** torch.ceil(torch.log2(reach)) / reach * 127.5 / 128)
    want = model(batch).logits
    integer = Plain(data.shape, hidden=16, norm="none", mlp_norm="none", train_eps=False)
    quantizer = Integer(**describe(model, "qat"))
    quantizer.attach(integer)
    quantizer.convert(integer, model.state_dict())
    assert torch.equal(integer.eval()(batch).logits, want)


def test_the_model_is_loaded_in_a_fresh_process_without_what_trained_it(tmp_path):
    out, _ = converted(quantized(tmp_path))
    words = ["predict", f"run={out}", f"out={tmp_path / 'fresh.csv'}"]
    done = subprocess.run(
        [sys.executable, "-m", "gnnscale", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = checkpoint.load(out / "seed-0/checkpoint.pt")["model"]
    assert not [n for n in names if n.endswith((".low", ".high", ".seen"))], "no observers"
    assert "layers.0.conv.weight" not in names, "no float weights"
    here = finished.predict(out, [], 0, tmp_path / "here.csv", CATALOG, frozenset())
    assert here.read_text() == (tmp_path / "fresh.csv").read_text()


@pytest.mark.parametrize("inference", ["full", "layerwise", "query"])
def test_full_layerwise_and_query_inference_agree(inference, tmp_path):
    out, _ = converted(quantized(tmp_path))
    found = []
    for words in ([], [f"inference={inference}"]):
        path = finished.predict(out, words, 0, tmp_path / "p.csv", CATALOG, frozenset())
        found.append(path.read_text())
    assert found[0] == found[1]


def test_bytes_are_those_that_are_stored(sixty):
    data = sixty.with_(x=sixty.x.float())
    for bits, width in ((8, 8), (4, 4), (3, 4), (2, 2)):
        model, integer = (GCN(data.shape, hidden=16, norm="batch") for _ in "ab")
        QAT(bits, bits).attach(model)
        model.train()(whole_batch(data, model.need))
        quantizer = Integer(**describe(model, "qat"))
        quantizer.attach(integer)
        codes = (7 * 16 * width) // 8 + (16 * 4 * width) // 8
        scales = 2 * 4 * (16 + 4)  # scale and zero of every output
        ranges = 2 * 4 * 8  # of four activation sites in each of two layers
        floats = 4 * (16 + 4 + 2 * 16)
        assert model_bytes(integer) == codes + scales + ranges + floats
        assert parameter_count(integer) == parameter_count(model) == 7 * 16 + 16 * 4 + 16 + 4 + 32
        assert sum(t.numel() * t.element_size() for t in held(integer)) == model_bytes(integer)
        assert not fake(integer)
        assert fake(model)


def test_a_repeated_conversion_is_the_same_and_a_foreign_folder_is_left_alone(tmp_path):
    folder = quantized(tmp_path)
    out, (first,) = converted(folder)
    before = (out / "seed-0/checkpoint.pt").read_bytes()
    assert converted(folder)[1] == [first]
    assert (out / "seed-0/checkpoint.pt").read_bytes() == before
    other = quantized(tmp_path, "other")
    with pytest.raises(UsageError, match="holds a run of another composition"):
        finished.convert(folder, other, [], CATALOG, frozenset())


def test_weights_are_codes_in_the_checkpoint(tmp_path):
    out, _ = converted(quantized(tmp_path, how={"weight_bits": 4}))
    state = checkpoint.load(out / "seed-0/checkpoint.pt")["model"]
    codes = state["layers.0.conv.q_weight.quantizer.codes"]
    assert codes.dtype == torch.uint8
    assert len(codes) == 8 * 64 // 2
    run = finished._trained(session.load_plan(out), 0, out)
    assert run.model.layers[0].conv.weight is None
    assert isinstance(run.model.layers[0].conv.q_weight.quantizer, IntegerWeight)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"quantization": "none"},
            "the run has no codes to convert; train it with quantization=qat",
        ),
        ({"how": {"activation_bits": 16}}, "codes of 16 bits, and integer models hold at most 8"),
    ],
    ids=["float", "wide"],
)
def test_what_has_no_integer_form_is_refused_and_nothing_written(how, said, tmp_path):
    if how.get("quantization") == "none":
        train(toy(architecture="gcn"), tmp_path / "run")
        folder = tmp_path / "run"
    else:
        folder = quantized(tmp_path, **how)
    with pytest.raises(UsageError, match=said):
        converted(folder)
    assert not (tmp_path / "run-integer").exists()


def test_it_is_not_trained():
    with pytest.raises(UsageError, match=r"type gnnscale convert run=<folder>"):
        toy(quantization="integer", architecture="gcn")


def test_the_verb_and_its_refusals(tmp_path, monkeypatch, capsys):
    from gnnscale import cli

    monkeypatch.chdir(tmp_path)
    folder = quantized(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gnnscale", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    code, said = run("convert", f"run={folder}", f"out={tmp_path / 'mine'}")
    assert code == 0
    assert said.out.splitlines()[-1] == str(tmp_path / "mine")
    assert "of codes equal" in said.out
    for words, expected in (
        ((), "which run? type gnnscale convert run=FOLDER"),
        ((f"run={tmp_path / 'nowhere'}",), "nowhere"),
        ((f"run={folder}", "dataset=cora"), "dataset: belongs to what the run was trained with"),
    ):
        code, said = run("convert", *words)
        assert code == 2
        assert expected in said.err
        assert "Traceback" not in said.err
