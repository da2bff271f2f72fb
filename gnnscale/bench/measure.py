"""One measurement from start to end: workload by workload, everybody in turn."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from gnnscale.bench import cost, energy, memory
from gnnscale.bench.busy import Busy
from gnnscale.bench.calibration import Calibration
from gnnscale.bench.machine import Machine
from gnnscale.bench.request import Local, Request
from gnnscale.bench.roofline import roofline
from gnnscale.bench.samples import ratios, summary
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject, facts, refuse_fake
from gnnscale.bench.timing import Timed, rounds
from gnnscale.bench.workloads import Unfit, Workload, chosen
from gnnscale.catalog import Catalog
from gnnscale.core.environment import environment
from gnnscale.core.measurement import Measurement
from gnnscale.core.site import sites
from gnnscale.stage.evaluate import model_bytes

log = logging.getLogger("gnnscale")


class Peer(Protocol):
    """The same model in another library."""

    label: str
    notes: list[str]
    about: dict[str, Any]

    def request(self, workload: Workload, scope: str) -> Request:
        """Its request. Raises Unfit with a reason."""
        ...

    def processes(self) -> list[int]:
        """Processes of its own."""
        ...

    def peak_mib(self) -> float | None:
        """Peak memory of those; None if it works in ours."""
        ...

    def close(self) -> None:
        """End them."""


class Session:
    """Everything that is measured together.

    Args:
        subjects: the first is what the measurement is of; others are compared with it.
        peers: compared with the first, too.
        settings: the protocol. scratch: a folder for what is in the making.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        peers: Sequence[Peer],
        settings: Bench,
        catalog: Catalog,
        trusted: frozenset[str],
        scratch: Path,
    ):
        self.subjects, self.peers, self.settings = list(subjects), list(peers), settings
        self.catalog, self.trusted, self.scratch = catalog, trusted, scratch
        self.everybody: list[Any] = [*subjects, *peers]
        if settings.workloads:
            for subject in subjects:
                refuse_fake(subject)

    def measure(self) -> Measurement:
        """All of it."""
        first = self.subjects[0]
        workloads = chosen(self.settings)
        counted = [self.count(subject) for subject in self.subjects]
        self.calibration, busy = Calibration(), Busy()
        for pid in (pid for peer in self.peers for pid in peer.processes()):
            busy.ours(pid)
        self.entries: list[dict[str, dict[str, Any]]] = [{} for _ in self.everybody]
        self.ratios: list[dict[str, dict[str, Any]]] = [{} for _ in self.everybody]
        self.cold: list[dict[str, float]] = [
            {"build": p.build_ms} if isinstance(p, Subject) else {} for p in self.everybody
        ]
        self.notes: list[list[str]] = [list(p.notes) for p in self.everybody]
        for workload in workloads:
            for scope in self.settings.scopes:
                self.time(workload, scope)
        observed = busy.result()
        if observed["flag"]:
            self.notes[0].append(
                f"the machine was busy: other processes took {observed['others_share']:.0%} of "
                "the cores' time; ratios of requests made in turn suffer least"
            )
        made = [self.assemble(k, *counted[k], observed) for k in range(len(self.subjects))]
        result = made[0]
        for k, other in enumerate(self.everybody[1:], 1):
            found = asdict(made[k]) if k < len(made) else self.of_peer(k)
            result.versus.append(
                {"label": other.label, "measurement": found, "ratios": self.ratios[k]}
            )
        if self.settings.memory:
            result.memory = self.peaks(first, workloads, result.notes)
            for k, subject in enumerate(self.subjects[1:]):
                inner = result.versus[k]["measurement"]
                inner["memory"] = self.peaks(subject, workloads, inner["notes"])
            for k, peer in enumerate(self.peers, len(self.subjects) - 1):
                inner = result.versus[k]["measurement"]
                inner["memory"] = self.peaks(first, workloads, inner["notes"], peer.label)
        return result

    # -- parts ----------------------------------------------------------------------------------

    def count(self, subject: Subject) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """(cost, roofline) of one pass over the whole graph."""
        run = subject.run
        run.hardware.apply()
        everyone = torch.arange(run.data.items)

        def forward() -> object:
            return run.inference(run.model, run.data, everyone, run.device)

        forward()
        layers = cost.count(run.model, forward)
        line = None
        plain = all(site.quantizer is None for _, site in sites(run.model))
        if self.settings.roofline and self.settings.workloads and plain:
            cost.clock(run.model, forward, layers, run.device)
            line = roofline(layers, Machine(run.device))
        return cost.table(run.model, layers, model_bytes(run.model)), line

    def time(self, workload: Workload, scope: str) -> None:
        """One workload in one scope, every participant that it fits."""
        name = f"{workload.name}/{scope}"
        saved = [
            {k: v.clone() for k, v in s.run.model.state_dict().items()} if workload.trains else None
            for s in self.subjects
        ]
        requests: list[Request] = []
        who: list[int] = []
        for k, participant in enumerate(self.everybody):
            try:
                if isinstance(participant, Subject):
                    participant.run.hardware.apply()
                    requests.append(workload.request(participant, scope))
                else:
                    requests.append(participant.request(workload, scope))
                who.append(k)
            except Unfit as reason:
                text = f"{workload.name}: not measured, {reason}"
                if text not in self.notes[k]:
                    self.notes[k].append(text)
        if requests:
            timed = rounds(requests, self.settings, self.calibration)
            self.note(workload.name, scope, who, requests, timed)
            self.trace(name, who, requests)
        for request in requests:
            request.close()
        for subject, state in zip(self.subjects, saved, strict=True):
            if state is not None:
                subject.run.model.load_state_dict(state)

    def note(
        self, name: str, scope: str, who: list[int], requests: list[Request], timed: Timed
    ) -> None:
        """Take down what the rounds gave."""
        counters = energy.meters(self.subjects[0].run.device)
        for i, k in enumerate(who):
            entry = summary(timed.samples[i])
            entry["stages_ms"] = requests[i].stages_ms()
            entry["size"] = requests[i].size
            entry["complete"] = timed.complete
            entry["energy_j"] = energy.per_request(requests[i], counters)
            self.entries[k].setdefault(name, {})[scope] = entry
            self.cold[k][f"{name}/{scope}"] = timed.first[i] / 1e6
            if k and who[0] == 0:
                ratio = ratios(timed.samples[0], timed.samples[i])
                self.ratios[k].setdefault(name, {})[scope] = ratio
        if not timed.complete:
            self.notes[0].append(
                f"{name}/{scope}: stopped by bench.limit_s={self.settings.limit_s:g} after "
                f"{len(timed.samples[0])} requests"
            )
        p50 = " | ".join(f"{self.entries[k][name][scope]['p50_ms']:.3f}" for k in who)
        log.info("%s/%s: n = %d, p50 %s ms", name, scope, len(timed.samples[0]), p50)

    def trace(self, name: str, who: list[int], requests: list[Request]) -> None:
        """A chrome trace of three more requests, if asked for."""
        if self.settings.trace is None:
            return
        folder = Path(self.settings.trace)
        folder.mkdir(parents=True, exist_ok=True)
        for k, request in zip(who, requests, strict=True):
            if isinstance(request, Local):
                letter = chr(ord("a") + k)
                with torch.profiler.profile() as profile:
                    for _ in range(3):
                        request()
                profile.export_chrome_trace(str(folder / f"{name.replace('/', '-')}-{letter}.json"))

    def peaks(
        self, subject: Subject, workloads: list[Workload], notes: list[str], peer: str | None = None
    ) -> dict:
        """Peak memory by phase, and the bytes that are counted; of a peer's work, if one is named.

        A peer that works in our process has our copy of graph and features beside its own.
        """
        found: dict[str, Any] = {"analytic_bytes": memory.analytic(subject)}
        for phase in memory.phases(workloads):
            wanted = memory.specification(
                subject, self.settings, phase, self.catalog, self.trusted, peer
            )
            try:
                found[phase] = memory.measure(wanted, self.scratch / "memory")
            except (RuntimeError, OSError, ValueError) as reason:
                notes.append(f"memory of {phase}: not measured, {reason}")
            else:
                of = f"{phase} of {peer}" if peer else phase
                log.info("memory of %s: %.0f MiB", of, found[phase]["mib"])
        return found

    def assemble(self, k: int, counted: dict, line: dict | None, observed: dict) -> Measurement:
        """The measurement of one subject, without memory and without the others."""
        subject = self.subjects[k]
        run, plan = subject.run, subject.plan
        shown = dict(vars(self.settings))
        prepare = run.meter.seconds.get("prepare")
        if prepare is not None:
            self.cold[k]["prepare"] = 1e3 * prepare
        return Measurement(
            label=subject.label,
            config=dict(plan.config),
            choices=dict(plan.choices),
            seed=subject.origin.seed,
            weights=subject.weights,
            settings=shown,
            workloads=self.entries[k],
            memory={"analytic_bytes": memory.analytic(subject)},
            cost=counted,
            roofline=line,
            calibration=self.calibration.result(),
            busy=observed,
            energy_j={
                f"{name}/{scope}": entry["energy_j"]
                for name, scopes in self.entries[k].items()
                for scope, entry in scopes.items()
            },
            cold_start_ms=self.cold[k],
            environment=environment(run.device, run.hardware.threads),
            data=facts(subject),
            notes=self.notes[k],
        )

    def of_peer(self, k: int) -> dict[str, Any]:
        """What there is to say of a peer: times, its sizes and versions."""
        peer = self.everybody[k]
        return {
            "label": peer.label, "workloads": self.entries[k], "cold_start_ms": self.cold[k],
            "notes": self.notes[k], **peer.about,
        }  # fmt: skip
