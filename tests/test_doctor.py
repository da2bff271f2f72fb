import sys
from importlib import metadata

import pytest

from gnnscale import doctor
from gnnscale.doctor import Check, render, report


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in report()}


def test_this_installation_is_healthy(checks):
    assert [check for check in checks.values() if check.ok is False] == []


def test_everything_is_covered(checks):
    assert {*doctor.REQUIRED, *doctor.OPTIONAL} <= set(checks)
    assert {"python", "platform", "options", "dgl import", "graphbolt", "metis"} <= set(checks)
    assert {f"kernel {name} on cpu" for name in ("dgl", "native", "torch", "dense")} <= set(checks)
    assert {
        "numba threads",
        "numba cache",
        "cpu",
        "cpu flags",
        "large products",
        "cores",
        "memory",
    } <= set(checks)
    assert {"wandb login", "$GNNSCALE_DATA", "$GNNSCALE_CONFIG_DIR"} <= set(checks)
    assert any(name.startswith("cuda") for name in checks)


def test_findings(checks):
    assert checks["torch"].detail == metadata.version("torch")
    assert checks["kernel native on cpu"].detail == "sum [0.0, 1.0, 3.0]"
    assert checks["metis"].detail.startswith("6 x 6 grid cut into ")


def test_a_wrong_kernel_fails(monkeypatch):
    from gnnscale.core import ops

    class Wrong:
        DEVICES = ("cpu",)

        @staticmethod
        def total(adjacency, x):
            return x

    class Broken:
        DEVICES = ("cpu",)

    monkeypatch.setattr(ops, "BACKENDS", {"wrong": Wrong, "broken": Broken})
    wrong, broken = doctor._kernels()
    assert wrong.ok is broken.ok is False
    assert "[0.0, 1.0, 3.0] is right" in wrong.advice
    assert "AttributeError" in broken.detail


def test_a_check_that_raises_does_not_stop_the_others(monkeypatch):
    def bad():
        yield Check("first", True, "fine")
        raise OSError("libdgl.so:\n  cannot open")

    monkeypatch.setattr(doctor, "PROBES", {"a": bad, "b": lambda: iter([Check("b", None, "-")])})
    assert [(c.name, c.ok, c.detail) for c in report()] == [
        ("first", True, "fine"),
        ("a", False, "OSError: libdgl.so: cannot open"),
        ("b", None, "-"),
    ]


def test_versions(monkeypatch):
    def version(name):
        if name in ("numba", "wandb"):
            raise metadata.PackageNotFoundError(name)
        return "0.0.1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    checks = {check.name: check for check in doctor._versions()}
    assert checks["torch"] == Check("torch", False, "0.0.1", "pip install 'torch>=2.6'")
    assert checks["numba"] == Check("numba", False, "missing", "pip install 'numba>=0.59'")
    assert checks["wandb"] == Check("wandb", None, "missing", "pip install 'gnnscale[wandb]'")


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHON", ((3, 98), (3, 99)))
    python = next(doctor._python())
    assert python.ok is False
    assert python.advice == "use Python 3.98 <= version < 3.99"
    assert python.detail == ".".join(map(str, sys.version_info[:3]))


def test_folders(monkeypatch, tmp_path):
    monkeypatch.setenv(doctor.DATA, str(tmp_path / "missing"))
    monkeypatch.setenv(doctor.VARIABLE, str(tmp_path))
    data, config = doctor._folders()
    assert data.ok is False
    assert data.advice == "create the folder, or unset GNNSCALE_DATA"
    assert config == Check("$GNNSCALE_CONFIG_DIR", True, str(tmp_path))


def test_render(capsys):
    good = [Check("a", True, "[x] found"), Check("b", None, "note", "do [y]")]
    assert render(good)
    text = capsys.readouterr().out
    assert "[x] found" in text
    assert "→ do [y]" in text
    assert "everything works" in text
    assert not render([*good, Check("c", False, "broken")])
    assert "1 of 3 checks failed" in capsys.readouterr().out
