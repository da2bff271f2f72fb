"""What this machine and installation can do: one check per thing that has gone wrong for users."""

import contextlib
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gnnscale.catalog import VARIABLE, Catalog

REQUIRED = ("torch", "dgl", "hydra-core", "omegaconf", "numpy", "numba", "scikit-learn")
OPTIONAL = ("ogb", "wandb")
CPU_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
DATA = "GNNSCALE_DATA"
PYTHON = ((3, 10), (3, 13))  # from, and below
SHOWN = {True: "[green]ok[/]", False: "[red]FAIL[/]", None: "[dim]note[/]"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was looked at.
        ok: False if something required does not work, None if it is information only.
        detail: what was found.
        advice: what to type or change, if anything.
    """

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def report() -> list[Check]:
    """Every check, in order; one that raises is reported and does not stop the rest."""
    checks: list[Check] = []
    for name, probe in PROBES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checks += probe()
        except Exception as cause:  # whatever breaks is exactly what is being looked for
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())
            checks.append(Check(name, False, reason[:300], "a failure above may be the cause"))
    return checks


def render(checks: list[Check]) -> bool:
    """Print the checks as a table. False if anything required failed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("", "check"):
        table.add_column(column, no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in checks:
        advice = f"\n[yellow]→ {escape(check.advice)}[/]" if check.advice else ""
        table.add_row(SHOWN[check.ok], escape(check.name), escape(check.detail) + advice)
    failed = sum(check.ok is False for check in checks)
    console = Console()
    console.print(table)
    console.print(f"{failed} of {len(checks)} checks failed" if failed else "everything works")
    return not failed


def _python() -> Iterator[Check]:
    fits = PYTHON[0] <= sys.version_info[:2] < PYTHON[1]
    valid = "{}.{} <= version < {}.{}".format(*PYTHON[0], *PYTHON[1])
    yield Check("python", fits, platform.python_version(), "" if fits else f"use Python {valid}")
    yield Check("platform", None, f"{platform.platform()}, {platform.machine()}")


def _specifiers() -> dict:
    """The versions gnnscale asks for, as installed metadata states them."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("gnnscale") or ()
    except metadata.PackageNotFoundError:  # a source checkout on PYTHONPATH
        lines = ()
    wanted = map(Requirement, lines)
    return {each.name: each.specifier for each in wanted}


def _versions() -> Iterator[Check]:
    wanted = _specifiers()
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            needed = name in REQUIRED
            package = f"'{name}{wanted.get(name, '')}'" if needed else f"'gnnscale[{name}]'"
            yield Check(name, False if needed else None, "missing", f"pip install {package}")
            continue
        specifier = wanted.get(name)
        fits = specifier is None or specifier.contains(found, prereleases=True)
        advice = "" if fits else f"pip install '{name}{specifier}'"
        yield Check(name, fits if name in REQUIRED or fits else None, found, advice)


def _options() -> Iterator[Check]:
    catalog = Catalog.load()
    sizes = {group: len(catalog.options(group)) for group in catalog.groups}
    filled = sum(map(bool, sizes.values()))
    detail = f"{sum(sizes.values())} in {filled} groups, {catalog.folders[0]}"
    yield Check("options", True, detail)


def _dgl() -> Iterator[Check]:
    from gnnscale.core.host import dgl, graphbolt_missing

    yield Check("dgl import", True, str(Path(str(dgl.__file__)).parent))
    missing = graphbolt_missing()
    if missing is None:
        yield Check("graphbolt", True, "loaded")
    else:
        detail = f"stood in for: {missing.splitlines()[0][:160]}"
        yield Check("graphbolt", None, detail, "nothing to do: gnnscale does not use it")


def _metis() -> Iterator[Check]:
    import torch

    from gnnscale.core.host import dgl

    side = 6
    node = torch.arange(side * side).reshape(side, side)
    src = torch.cat([node[:, :-1].flatten(), node[:-1].flatten()])
    dst = torch.cat([node[:, 1:].flatten(), node[1:].flatten()])
    grid = dgl.graph((torch.cat([src, dst]), torch.cat([dst, src])))
    with contextlib.redirect_stdout(io.StringIO()):  # DGL prints its progress
        part = dgl.metis_partition_assignment(grid, 2)
    sizes = torch.bincount(part.long(), minlength=2).tolist()
    fine = sum(sizes) == side * side and min(sizes) > 0
    advice = "" if fine else "sampler=cluster and sampler=gas will not work; reinstall dgl"
    yield Check("metis", fine, f"{side} x {side} grid cut into {sizes[0]} + {sizes[1]}", advice)


def _kernels() -> Iterator[Check]:
    import torch

    from gnnscale.core.ops import BACKENDS
    from gnnscale.core.ops.adjacency import Adjacency

    # 0 -> 1, 0 -> 2, 1 -> 2
    src, dst = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    x = torch.tensor([[1.0], [2.0], [4.0]])
    expected = [0.0, 1.0, 3.0]
    for name, module in BACKENDS.items():
        for device in module.DEVICES:
            if device == "cuda" and not torch.cuda.is_available():
                continue
            label, advice = f"kernel {name} on {device}", "choose another hardware.kernel"
            try:
                adjacency = Adjacency.from_edges(src, dst, 3).to(device)
                found = module.total(adjacency, x.to(device)).flatten().tolist()
            except Exception as cause:
                yield Check(label, False, f"{type(cause).__name__}: {cause}"[:300], advice)
                continue
            fine = found == expected
            yield Check(
                label, fine, f"sum {found}", "" if fine else f"{expected} is right; {advice}"
            )


def _numba() -> Iterator[Check]:
    import numba

    from gnnscale.core.compiled import Parallel
    from gnnscale.core.ops import native_kernels

    try:
        layer = numba.threading_layer()  # known once a parallel kernel has run
    except ValueError:
        layer = "not started"
    advice = "" if layer != "workqueue" else "not safe from several threads: pip install tbb"
    detail = f"{layer}, {numba.get_num_threads()} threads"
    yield Check("numba threads", True if not advice else None, detail, advice)
    kernel = next(f for f in vars(native_kernels).values() if isinstance(f, Parallel))
    folder = kernel.serial.stats.cache_path
    fine = bool(folder) and os.access(folder, os.W_OK)
    advice = "" if fine else "kernels are compiled anew in each run: set NUMBA_CACHE_DIR"
    yield Check("numba cache", fine or None, f"{folder}, {'' if fine else 'not '}writable", advice)


def _cpu() -> Iterator[Check]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    yield Check("cpu", None, model[1] if model else platform.processor() or "unknown")
    yield Check("cpu flags", None, ", ".join(f for f in CPU_FLAGS if f in has) or "none that help")
    from gnnscale.core.ops.blas import openblas

    library = "torch's library" if openblas() is None else "scipy's OpenBLAS"
    yield Check("large products", None, f"float32 on the CPU: {library}")


def _machine() -> Iterator[Check]:
    import psutil
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    detail = f"{usable} usable of {os.cpu_count()} ({physical} physical)"
    yield Check("cores", None, f"{detail}, torch uses {torch.get_num_threads()} threads")
    memory = psutil.virtual_memory()
    detail = f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    if allowed.isdigit():
        detail += f", limited to {int(allowed) / 2**30:.1f} GiB"
    yield Check("memory", None, detail)


def _cuda() -> Iterator[Check]:
    import torch

    from gnnscale.core.ops import dgl_kernels

    if not torch.cuda.is_available():
        reason = "torch is a CPU build" if torch.version.cuda is None else "no device found"
        yield Check("cuda", None, f"{reason}; training runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        detail = (
            f"{device.name}, {device.total_memory / 2**30:.1f} GiB, sm_{device.major}{device.minor}"
        )
        yield Check(f"cuda:{index}", True, detail)
    if "cuda" in dgl_kernels.DEVICES:
        yield Check("dgl on cuda", True, "DGL's CUDA kernels work")
    else:
        detail = "DGL is a CPU build; on CUDA hardware.kernel=auto uses torch's kernels"
        yield Check("dgl on cuda", None, detail, "optional: install a DGL wheel built for CUDA")


def _wandb() -> Iterator[Check]:
    mode = os.environ.get("WANDB_MODE", "not set")
    yield Check("wandb login", None, f"not required; WANDB_MODE is {mode}")


def _folders() -> Iterator[Check]:
    for variable in (DATA, VARIABLE):
        value = os.environ.get(variable)
        if not value:
            yield Check(f"${variable}", None, "not set")
            continue
        exists = Path(value).expanduser().is_dir()
        advice = "" if exists else f"create the folder, or unset {variable}"
        yield Check(f"${variable}", exists, f"{value}{'' if exists else ' does not exist'}", advice)


PROBES: dict[str, Callable[[], Iterator[Check]]] = {
    "python": _python,
    "versions": _versions,
    "options": _options,
    "dgl import": _dgl,
    "metis": _metis,
    "kernels": _kernels,
    "numba": _numba,  # after the kernels: the threading layer is chosen by the first one
    "cpu": _cpu,
    "machine": _machine,
    "cuda": _cuda,
    "wandb": _wandb,
    "folders": _folders,
}
