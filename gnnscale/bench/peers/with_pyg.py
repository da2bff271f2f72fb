"""The same model from PyTorch Geometric, in a process of the environment that has it."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnscale.bench.peers import training
from gnnscale.bench.settings import Bench
from gnnscale.bench.subject import Subject
from gnnscale.bench.workloads import LISTED, PREPARED, Query, Unfit, Workload, asked
from gnnscale.core.errors import UsageError
from gnnscale.core.sparse import dense

VARIABLE = "GNNSCALE_PYG_PYTHON"
WORKER = Path(__file__).with_name("pyg_worker.py")


class PygPeer:
    """Starts the worker, hands it graph and features as .npz, and asks it for requests.

    The worker times its requests itself, so that the pipe is in no figure; it stands still between
    them. Raises UsageError if there is no such environment.
    """

    def __init__(self, subject: Subject, spec: dict[str, Any], settings: Bench, scratch: Path):
        self.label, self.subject, self.scratch = "pyg", subject, scratch
        self.prepare_s = 0.0
        self.notes: list[str] = []
        python = settings.pyg_python or os.environ.get(VARIABLE)
        if not python:
            raise UsageError(
                "peer=pyg: PyTorch Geometric lives in an environment of its own (docs/measuring.md "
                f"says how to make one); type bench.pyg_python=ENV/bin/python or set ${VARIABLE}"
            )
        if not Path(python).is_file():
            raise UsageError(f"bench.pyg_python={python}: no such file; give the interpreter of "
                             "the environment that has torch-geometric")  # fmt: skip
        data = {"spec": json.dumps(spec)} | self._arrays("", subject.run.data)
        if subject.run.train_data is not subject.run.data:
            data |= self._arrays("train_", subject.run.train_data)
        scratch.mkdir(parents=True, exist_ok=True)
        np.savez(scratch / "pyg.npz", **data)  # type: ignore[arg-type]
        optimizer = subject.plan.one("optimizer")
        assert optimizer is not None
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        self.process = subprocess.Popen(
            [python, str(WORKER), str(scratch / "pyg.npz")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        try:
            self.about = self.ask(
                do="build",
                optimizer=[optimizer.cls.__name__, dict(optimizer.arguments)],
                clip=subject.run.trainer.clip,
                seed=subject.origin.seed,
            )
        except BaseException:
            self.close()
            raise
        self.notes += self.about.pop("notes")
        if subject.run.data.x is not dense(subject.run.data.x):
            self.notes.append("features are dense here: the peer's layers take no sparse rows")

    @staticmethod
    def _arrays(prefix: str, data: Any) -> dict[str, np.ndarray]:
        return {
            f"{prefix}indptr": data.graph.indptr.numpy(),
            f"{prefix}indices": data.graph.indices.numpy(),
            f"{prefix}x": dense(data.x).numpy(),
            f"{prefix}y": data.y.numpy(),
            f"{prefix}seeds": data.splits["train"].numpy(),
        }

    def ask(self, **words: Any) -> dict[str, Any]:
        """One line there, one line back. Raises UsageError with what the worker has to say."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UsageError(f"peer=pyg: its process has ended (exit code {self.process.poll()}); "
                             "what it wrote stands above")  # fmt: skip
        answer = json.loads(line)
        if "unfit" in answer:
            raise Unfit(answer["unfit"])
        if "error" in answer:
            raise UsageError(f"peer=pyg: {answer['error']}")
        return answer

    def request(self, workload: Workload, scope: str) -> "Remote":
        """Its request for a workload. Raises Unfit if there is none."""
        words: dict[str, Any] = {"do": "prepare", "workload": workload.name, "scope": scope,
                                 "prepared": PREPARED}  # fmt: skip
        if isinstance(workload, Query):
            count = LISTED if scope == "end2end" else PREPARED
            lists = asked(self.subject.run.data, workload.batch, workload.seed, count)
            path = self.scratch / "asked.npy"
            np.save(path, np.stack([nodes.numpy() for nodes in lists]))
            words |= {"workload": "query", "asked": str(path)}
        elif workload.name != "full":
            words["training"] = dict(training("pyg", self.subject))
        self.prepare_s = self.ask(**words).get("prepare_s", 0.0)
        return Remote(self)

    def logits(self) -> Tensor:
        """What its model says of the whole graph, evaluating. Shapes: [nodes, classes]."""
        path = self.scratch / "logits.npy"
        self.ask(do="logits", path=str(path))
        return torch.from_numpy(np.load(path))

    def processes(self) -> list[int]:
        """The worker."""
        return [self.process.pid]

    def peak_mib(self) -> float:
        """The worker's VmHWM."""
        return self.ask(do="peak")["mib"]

    def close(self) -> None:
        """End the worker."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # it may have ended by itself
                    pipe.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Remote:
    """A request in the worker, which also keeps the time."""

    def __init__(self, peer: PygPeer):
        self.peer = peer
        self.size: dict[str, float] = {}

    def __call__(self) -> int:
        """Do it once."""
        return self.peer.ask(do="request")["ns"]

    def forget(self) -> None:
        """The worker keeps no stages."""

    def stages_ms(self) -> dict[str, float]:
        """None are taken."""
        return {}

    def close(self) -> None:
        """Let the worker free what it has prepared."""
        self.peer.ask(do="forget")
