"""One phase in a process of its own: ``python -m gnnscale.bench.child SPEC``; says its peak."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from gnnscale import compose
from gnnscale.bench import workloads
from gnnscale.bench.peers import connect
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Origin, build
from gnnscale.catalog import Catalog
from gnnscale.train.meter import reset_peak, rss_peak

STATUS = Path("/proc/self/status")
REQUESTS = 2
"""Of the phase's workload, end to end; one for an epoch."""


def status(*names: str) -> dict[str, float]:
    """Lines of /proc/self/status, in MiB."""
    found = {}
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name in names:
            found[name] = int(value.split()[0]) / 1024
    return found


def main(path: Path) -> dict[str, Any]:
    """Do the phase; its peak, and that of its requests alone once all is prepared.

    The run's meter makes the kernel forget the peak at every phase of its own and keeps it.
    """
    given = json.loads(path.read_text())
    catalog = Catalog.load([Path(folder) for folder in given["config_dirs"]])
    trusted = frozenset(given["trusted"])
    plan = compose.check(given["config"], given["choices"], catalog, trusted, taught=False)
    folder = Path(given["folder"]) if given["folder"] else None
    subject = build(Origin(plan, given["seed"], folder), Path(given["scratch"]))
    device, phase = subject.run.device, given["phase"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    asked, peer, every = None, None, Bench(**given["bench"])
    if given["peer"]:
        peer = connect(given["peer"], subject, every, Path(given["scratch"]))
    if phase != "load":
        workload = next(w for w in workloads.chosen(every) if w.name == phase)
        request: Any = (
            peer.request(workload, "end2end") if peer else workload.request(subject, "end2end")
        )
        alone = reset_peak() if peer is None else False
        for _ in range(1 if phase == "epoch" else REQUESTS):
            request()
        asked = rss_peak() if alone else None
    now = status("VmHWM", "RssFile", "RssShmem")
    apart = peer.peak_mib() if peer else None
    if peer:
        peer.close()
    if apart is not None:
        return {
            "mib": apart, "request_mib": None, "file_mib": None, "cuda_mib": None,
            "cuda_reserved_mib": None,
        }  # fmt: skip
    cuda = device.type == "cuda"
    return {
        "mib": max(now["VmHWM"], *subject.run.meter.rss.values()),
        "request_mib": asked,
        "file_mib": now.get("RssFile", 0.0),
        "cuda_mib": torch.cuda.max_memory_allocated(device) / 2**20 if cuda else None,
        "cuda_reserved_mib": torch.cuda.max_memory_reserved(device) / 2**20 if cuda else None,
    }


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    sys.stdout.write(json.dumps(found) + "\n")
