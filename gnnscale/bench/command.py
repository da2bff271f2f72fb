"""``gnnscale bench``: from typed words to a file of figures."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gnnscale import binding, compose, jobs
from gnnscale.bench.measure import Peer, Session
from gnnscale.bench.peers import PEERS, connect
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Origin, build, label, originate
from gnnscale.catalog import Catalog
from gnnscale.core.errors import CompositionError, UsageError, unknown
from gnnscale.core.measurement import Measurement
from gnnscale.overrides import normalise

GROUP = "bench"


class Words:
    """Overrides sorted into what is measured (run, typed), how (bench) and against whom (peer)."""

    def __init__(self, overrides: Sequence[str]):
        self.run: str | None = None
        self.peer: str | None = None
        self.bench: list[str] = []
        self.typed: list[str] = []
        for word in overrides:
            key, _, value = word.lstrip("+").partition("=")
            if key == "run":
                self.run = None if value in ("", "null") else value.strip("'\"")
            elif key == "peer":
                self.peer = value
            elif key.split(".")[0] == GROUP:
                self.bench.append(word)
            else:
                self.typed.append(word)


def settings(words: Sequence[str], catalog: Catalog) -> Bench:
    """The protocol: an option of conf/bench and its overrides. Raises CompositionError."""
    chosen = any(w.lstrip("+").partition("=")[0] == GROUP for w in words)
    typed = normalise([*([] if chosen else [f"{GROUP}=default"]), *words], catalog)
    config, choices = compose.compose(typed, catalog)
    option = str(choices.get(GROUP))
    bound, problems = binding.bind(GROUP, GROUP, option, config.get(GROUP), frozenset())
    if problems or bound is None:
        raise CompositionError("\n".join(problems))
    return bound.make()


def bench(
    overrides: Sequence[str],
    others: Sequence[Sequence[str]],
    catalog: Catalog,
    trusted: frozenset[str],
) -> tuple[Measurement, Path]:
    """Measure, and write the file.

    Args:
        overrides: ``run=``, ``peer=``, ``bench...`` and those of the composition.
        others: what follows each ``--vs``: overrides on top of the first composition, or another
            run.
    """
    mine = Words(overrides)
    if mine.peer is not None and mine.peer not in PEERS:
        raise UsageError(unknown("peer", mine.peer, PEERS))
    protocol = settings(mine.bench, catalog)
    first = _origin(mine, mine.typed, catalog, trusted)
    origins, names = [first], [label(first.plan)]
    for other in others:
        theirs = Words(other)
        if theirs.bench or theirs.peer:
            raise UsageError("--vs: bench.* and peer= hold for all sides; type them before --vs")
        own = theirs.typed if theirs.run else [*mine.typed, *theirs.typed]
        theirs.run = theirs.run or mine.run
        origins.append(_origin(theirs, own, catalog, trusted))
        names.append(" ".join(["vs", *other]) if other else "vs itself")
    with tempfile.TemporaryDirectory(prefix="gnnscale-bench-") as name:
        scratch = Path(name)
        subjects = [
            build(origin, scratch / f"subject-{k}", names[k]) for k, origin in enumerate(origins)
        ]
        peers: list[Peer] = []
        try:
            if mine.peer is not None:
                peers.append(connect(mine.peer, subjects[0], protocol, scratch))
            session = Session(subjects, peers, protocol, catalog, trusted, scratch)
            measurement = session.measure()
        finally:
            for peer in peers:
                peer.close()
    path = target(first)
    try:
        measurement.save(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from error
    return measurement, path


def _origin(
    words: Words, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]
) -> Origin:
    folder = Path(words.run) if words.run else None
    return originate(folder, normalise(typed, catalog), catalog, trusted)


def target(origin: Origin) -> Path:
    """Beside the weights it is of, or in a folder of its own."""
    if origin.folder is not None:
        return origin.folder / "bench" / f"{jobs.stamp()}.json"
    return Path("runs/bench") / label(origin.plan) / jobs.stamp() / "bench.json"
