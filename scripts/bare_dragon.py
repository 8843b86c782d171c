"""What a user writes today: R MPI ranks with one Dragon Policy each, and no rankmap. The peer of scripts/bench.py.

Run as ``dragon -s scripts/bare_dragon.py CPUS[:CPUS]... APP [ARGS]...``; CPUS is a comma list, one per rank. In a
runtime on several nodes (``--wlm ssh --hostlist A,B`` in place of ``-s``) the ranks take them in turn.
"""

from __future__ import annotations

import os
import sys

from dragon.infrastructure.facts import PMIBackend
from dragon.infrastructure.policy import Policy
from dragon.native.machine import Node, System
from dragon.native.process import ProcessTemplate
from dragon.native.process_group import ProcessGroup


def main(cpu_lists: str, *command: str) -> None:
    """Start the ranks, wait for them, close the group."""
    nodes = [Node(number) for number in System().nodes]
    group = ProcessGroup(restart=False, pmi=PMIBackend.PMIX)
    for rank, cpus in enumerate(cpu_lists.split(":")):
        policy = Policy(
            placement=Policy.Placement.HOST_NAME,
            host_name=nodes[rank % len(nodes)].hostname,
            cpu_affinity=[int(cpu) for cpu in cpus.split(",")],
        )
        group.add_process(
            1,
            ProcessTemplate(target=command[0], args=list(command[1:]), cwd=os.getcwd(), policy=policy),  # noqa: PTH109
        )
    group.init()
    group.start()
    group.join()
    group.close(patience=60)


if __name__ == "__main__":
    main(*sys.argv[1:])
