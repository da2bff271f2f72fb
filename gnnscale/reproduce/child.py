"""One row in a process of its own: ``python -m gnnscale.reproduce.child PARENT CORES train ...``.

It runs ``python -m gnnscale train ...`` on some of the cores (``hardware.threads=null`` means all
that a process may use), and is asked to stop, as by Ctrl-C, when the driver dies: then the epoch in
progress is finished and saved, and nothing goes on unseen.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Set the process up, then run the command."""
    parent, cores, *words = argv
    # a driver in the background of a script has Ctrl-C switched off, and so would we
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(130)
    from gnnscale import cli

    sys.argv = ["gnnscale", *words]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
