import os

import numpy as np
import pytest
import torch
from compositions import CATALOG, quiet_metrics, toy, train

from gnnscale.core import ops
from gnnscale.core.errors import CompositionError, TrainingError, UsageError
from gnnscale.core.hardware import ALL, Hardware, cores
from gnnscale.core.ops.dropout import dropout
from gnnscale.train import checkpoint
from gnnscale.train.meter import Meter


def test_threads_and_kernel_are_applied():
    before = torch.get_num_threads()
    try:
        Hardware(threads=1, kernel="native").apply()
        assert torch.get_num_threads() == 1
        assert ops.backend("total", torch.device("cpu")) is ops.native_kernels
    finally:
        Hardware(threads=before).apply()


def test_as_many_threads_as_cores_or_as_the_environment_wishes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Hardware().threads == len(cores()) == len(ALL)
    for said, threads in (("1", 1), ("999", len(ALL)), ("0", len(ALL)), ("4,2", len(ALL))):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert Hardware().threads == threads
        assert Hardware(threads=3).threads == 3


@pytest.mark.parametrize(
    ("device", "said"), [("cuda:99", "hardware=cpu"), ("mps", "cpu, cuda"), ("toaster", "valid")]
)
def test_devices_that_are_not_there_are_refused(device, said):
    with pytest.raises(UsageError, match=said):
        Hardware(device=device)


# -- cores --------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_affinity_holds_for_every_thread_and_is_given_back():
    torch.randn(400, 400) @ torch.randn(400, 400)  # a pool of threads that exists already
    try:
        Hardware(affinity=ALL[:1]).apply()
        assert {tuple(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")} == {
            (ALL[0],)
        }
        assert Hardware(affinity=ALL[:1]).threads == 1
    finally:
        Hardware().apply()
    assert cores() == ALL


@pytest.mark.parametrize("affinity", [[], [10_000], [0, 99_999]])
def test_cores_that_are_not_there_are_refused(affinity):
    with pytest.raises(UsageError, match=r"hardware\.affinity=.*may use the cores .*e\.g\. hard"):
        Hardware(affinity=affinity)


# -- precision ----------------------------------------------------------------------------------

HALF = {"hardware": {"precision": "bfloat16"}}


@pytest.mark.parametrize(
    ("architecture", "sampler"),
    [(name, "full") for name in sorted(CATALOG.options("architecture"))]
    + [(name, sampler) for name in ("gcn", "gat", "egc") for sampler in ("neighbor", "saint")],
)
def test_every_model_that_reads_hops_trains_in_bfloat16_close_to_float32(
    architecture, sampler, tmp_path
):
    """Two epochs apart by rounding only: bfloat16 keeps 8 bits, so products err by about 2^-8."""
    # short plain steps: Adam's first is as long for a gradient that is all rounding as for others
    chosen = {"architecture": architecture, "sampler": sampler, "optimizer": "sgd"}
    try:
        toy({}, **chosen)
    except CompositionError:
        pytest.skip("these do not fit together")
    found = {}
    for name, changes in (("full", {}), ("half", HALF)):
        train(toy({**changes, "optimizer": {"lr": 0.001}}, **chosen), tmp_path / name)
        seed = tmp_path / name / "seed-0"
        state = checkpoint.load(seed / "checkpoint.pt")
        assert all(v.dtype in (torch.float32, torch.int64) for v in state["model"].values())
        found[name] = [m["loss"] for m in quiet_metrics(seed)]
    assert np.isfinite(found["half"]).all()
    np.testing.assert_allclose(found["half"], found["full"], rtol=0.05)


def test_bfloat16_is_used_and_repeatable(tmp_path):
    for name, changes in (("a", HALF), ("b", HALF), ("full", {})):
        train(toy(changes, sampler="saint"), tmp_path / name)
    a, b, whole = (quiet_metrics(tmp_path / n / "seed-0") for n in ("a", "b", "full"))
    assert a == b
    assert a != whole, "a product in bfloat16 leaves a trace"


def test_bfloat16_resumes_to_the_same_end(tmp_path):
    train(toy({**HALF, "trainer": {"epochs": 4}}), tmp_path / "whole")
    run = tmp_path / "cut"
    train(toy({**HALF, "trainer": {"epochs": 2}}), run)
    seed = run / "seed-0"
    (seed / "record.json").unlink()
    (run / "config.json").unlink()
    state = checkpoint.load(seed / "checkpoint.pt")
    checkpoint.save(seed / "checkpoint.pt", {**state, "finished": False})
    train(toy({**HALF, "trainer": {"epochs": 4}}), run)
    assert quiet_metrics(seed) == quiet_metrics(tmp_path / "whole/seed-0")


def test_sums_and_dropout_of_half_precision_are_float32(six):
    x = torch.randn(6, 3).bfloat16().requires_grad_()
    out = ops.total(six, x)
    assert out.dtype == torch.float32
    assert torch.equal(out, ops.total(six, x.detach().float()))
    out.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.manual_seed(0)
    half = dropout(torch.ones(1000).bfloat16(), 0.3)
    torch.manual_seed(0)
    assert torch.equal(half, dropout(torch.ones(1000), 0.3))


# -- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["load", "prepare", "forward", "evaluate"])
@pytest.mark.parametrize(
    "ask",
    [lambda: torch.empty(2**50), lambda: np.empty(2**50), lambda: bytearray(2**62)],
    ids=["torch", "numpy", "python"],
)
def test_running_out_of_memory_names_the_phase_and_a_remedy(phase, ask):
    meter = Meter(torch.device("cpu"))
    with pytest.raises(TrainingError) as caught, meter.step(phase):
        ask()
    said = str(caught.value)
    assert said.startswith(f"out of memory in the phase '{phase}'")
    option = said.split("type ")[1].split(",")[0].split(" ")[0]
    group, _, value = option.partition("=")
    assert value in CATALOG.options(group) or group in ("dataset.sparse", "another")


def test_the_size_that_was_asked_for_is_told():
    meter = Meter(torch.device("cpu"))
    said = pytest.raises(TrainingError, match="asked for 4503599627370496 bytes")
    with said, meter.step("forward"):
        torch.empty(2**50)
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")
    said = pytest.raises(TrainingError, match=r"out of GPU memory .* \(asked for 20\.00 GiB\)")
    with said, meter.step("forward"):
        raise cuda


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), Meter(torch.device("cpu")).step("forward"):
        raise RuntimeError("shapes")


# -- CUDA ---------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("sampler", ["full", "neighbor", "saint"])
@pytest.mark.parametrize("architecture", ["gcn", "sage", "gat", "egc"])
def test_cuda_trains_to_the_cpus_loss(architecture, sampler, tmp_path):
    still = {"architecture": {"dropout": 0.0}}  # masks come from another generator there
    found = []
    for device in ("cpu", "cuda"):
        changes = {**still, "hardware": {"device": device, "workers": 2}}
        plan = toy(changes, architecture=architecture, sampler=sampler)
        (record,) = train(plan, tmp_path / device)
        found.append([m["loss"] for m in quiet_metrics(tmp_path / device / "seed-0")])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert record.memory_mib["cuda_peak"] > 0


@pytest.mark.cuda
@cuda
def test_pinned_transfer_changes_nothing(tmp_path):
    for pin in (False, True):
        changes = {"hardware": {"device": "cuda", "pin": pin}, "architecture": {"dropout": 0.0}}
        train(toy(changes, sampler="saint"), tmp_path / str(pin))
    a, b = (quiet_metrics(tmp_path / str(pin) / "seed-0") for pin in (False, True))
    np.testing.assert_allclose([m["loss"] for m in a], [m["loss"] for m in b], rtol=1e-6)
