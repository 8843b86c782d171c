"""From a command and a layout to a job that has run: every check that needs no runtime, then the supervisor."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rankmap.errors import RuntimeUnusableError, UsageError
from rankmap.gpu_makers import of_one_maker
from rankmap.nics import with_cxi_devices
from rankmap.runtime import application, mpi_library
from rankmap.runtime.dragon_network import some_ports, words_for
from rankmap.runtime.host_choice import HostChoice
from rankmap.runtime.host_facts import HostFacts
from rankmap.runtime.inside import InsideSession
from rankmap.runtime.job import (
    JobRequest,
    JobResult,
    OutputOptions,
    Pmi,
    Verify,
)
from rankmap.runtime.libpmix import find_libpmix, require_libpmix
from rankmap.runtime.limits import require_descriptors
from rankmap.runtime.live_gpus import gpu_variables, understood
from rankmap.runtime.memory_policies import require_mempolicy
from rankmap.runtime.one_host import OneHost
from rankmap.runtime.preloading import FOLDER, all_preloaded
from rankmap.runtime.processes import require_pidfd
from rankmap.runtime.rank_output import prepare_directory, tell
from rankmap.runtime.rank_variables import RANK_NAMES, left_by_others
from rankmap.runtime.second_binding import second_binding
from rankmap.runtime.session import (
    ControlDirectory,
    Session,
    dragon_command,
    dropped,
    in_runtime,
    restored,
    runtime_environment,
)
from rankmap.runtime.several import dragons_environment, looked_for, several, start_timeout_s
from rankmap.runtime.shared_memory import require_room
from rankmap.runtime.starting import OVER_AGENTS, dragons_launcher, hosts_environment
from rankmap.runtime.supervisor import Supervisor
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.placement import Plan
    from rankmap.runtime.hosts import Ground
    from rankmap.runtime.libpmix import Libpmix
    from rankmap.runtime.second_binding import SecondBinding
    from rankmap.runtime.starting import Reach
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["LEAST_WATCH_S", "LaunchOptions", "launch_job"]

LEAST_WATCH_S = 0.1
_SEVERAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How a job is run, beside its layout.

    Args:
        cwd: The ranks' working directory; None is the caller's.
        start_timeout_s: See JobRequest; None is as long as so many hosts take.
        set_env: Variables for the ranks (None: removed from their environment).
        pmi: How the ranks find each other.
        verify: See JobRequest, as for the fields below.
        preload: A file that every host gets a copy of first, and uses in its place.
        choice: Which of several hosts the job uses.

    Raises:
        UsageError: ``watch_s`` is too short, or asked for where nothing is verified.
    """

    cwd: Path | None = None
    set_env: Mapping[str, str | None] = field(default_factory=dict)
    pmi: Pmi = Pmi.AUTO
    verify: Verify = Verify.FAIL
    watch_s: float | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    stdin_rank: int | None = None
    timeout_s: float | None = None
    kill_grace_s: float = 10.0
    start_timeout_s: float | None = None
    verbose: bool = False
    preload: Path | None = None
    choice: HostChoice = field(default_factory=HostChoice)

    def __post_init__(self) -> None:
        if self.watch_s is None:
            return
        if not self.watch_s >= LEAST_WATCH_S:
            msg = f"--watch {self.watch_s:g}: the ranks are looked at every {LEAST_WATCH_S:g} s or less often"
            raise UsageError(msg, hint="looking takes time of its own: 10 or more is usual")
        if self.verify is Verify.OFF:
            msg = f"--watch {self.watch_s:g} and --verify off: nobody looks where the ranks are"
            raise UsageError(msg, hint="leave one of them out")


def launch_job(  # noqa: PLR0913 - one call for the command line and the API; each argument is a thing of its own
    commands: Sequence[Sequence[str]],
    *,
    plan_for: Callable[[Allocation], Plan],
    topology: NodeTopology,
    reserve: CpuSet,
    options: LaunchOptions,
    environ: Mapping[str, str],
    all_gpus: Callable[[str], tuple[Gpu, ...]],
    say: Callable[[str], None],
    reach: Reach | None = None,
) -> JobResult:
    """Run the application as the plan says, on this host or on those that are named, and return how it ended.

    Everything that can be refused is refused before the runtime starts.

    Args:
        commands: The application and its arguments, of each part of the job.
        plan_for: Makes the plan; called once for this host as hwloc sees it, and once for what Dragon offers.
        topology: This host's.
        reserve: PU os indices that ranks do not use and Dragon's services are bound to.
        options: How to run it.
        environ: The caller's environment, with the variables of its machine that it lacks.
        all_gpus: Returns a vendor's GPUs on this host, as they are when it is called.
        say: Called with each decision that ``-v`` shows.
        reach: Several hosts, and how to get onto them; None is this one.

    Raises:
        RankmapError: The application, the layout, the MPI library or Dragon is not usable.
    """
    host = os.uname().nodename
    # Of several hosts nobody knows yet what they are like.
    plan = plan_for(Allocation.of(((host, of_one_maker(topology)),))) if reach is None else None
    ready = _ready(commands, plan=plan, options=options, environ=environ, say=say)
    inside = in_runtime(environ)
    control = ControlDirectory()
    try:
        library_dirs = () if inside or ready.libpmix is None else control.offer_libpmix(ready.libpmix)
        dragons = runtime_environment(understood(environ, topology), control=control, library_dirs=library_dirs)
        copy = None if options.preload is None or reach is None else control.path / FOLDER / options.preload.name
        applications = _preloaded(ready.applications, options.preload, copy)
        paths = tuple(one.path for one in applications)
        ground: Ground = OneHost(HostFacts(name=host, own_name=host, topology=topology, paths=paths))
        if reach is not None:
            dragons = dragons_environment(dragons, control, reach, user=environ)
            look = {
                "kind": "look",
                "control": str(control.path),
                "environ": hosts_environment(dragons),
                "kept": str(topology.reserved),
                "commands": looked_for(commands, applications, copy),
                "cwd": applications[0].cwd,
                "set_env": dict(options.set_env),
                "libpmix": ready.libpmix is not None and not (inside and ready.pmi != "pmix"),
                "inside": inside,
                "ports": some_ports(),
            }
            ground = several(
                reach, look, options.choice, plan_for=plan_for, environ=environ, preload=(options.preload, copy)
            )

        def start(wake: Callable[[], None]) -> Session | InsideSession:
            if inside:
                return InsideSession.start(control, on_failure=wake, host=ground.facts[0].name if reach else "")
            if reach is None:
                return Session.start(control, environ=dragons)
            over_agents = dragons_launcher(reach, [one.name for one in ground.facts]) == OVER_AGENTS
            path = f"{control.path / 'relay'}:{dragons['PATH']}" if over_agents else dragons["PATH"]
            words, variables = words_for(reach, ground.facts, control.path)
            ground.add_environment(variables)
            return Session.start(control, environ={**dragons, **variables, "PATH": path}, words=words)

        segments = mpi_library.segment_variables(control.shared_memory, environ) if ready.pmi else {}
        common = {
            **({"PYTHONPATH": environ.get("PYTHONPATH")} if inside else restored(environ)),
            **left_by_others(environ, backend=ready.pmi),
            **segments,
        }
        request = JobRequest(
            plan_for=_for_library(plan_for, {own.library for own in ready.uses}),
            applications_for=lambda made: _bound_once(made, applications, ready.uses, common, options, environ, say),
            backend=ready.pmi,
            drop_paths=dropped(library_dirs, environ=environ),
            reserve=reserve,
            gpu_variables=gpu_variables(environ),
            all_gpus=all_gpus,
            defaults={name: value for name, value in environ.items() if name not in os.environ},
            verify=options.verify,
            watch_s=options.watch_s,
            output=options.output,
            stdin_rank=options.stdin_rank,
            timeout_s=options.timeout_s,
            kill_grace_s=options.kill_grace_s,
            start_timeout_s=options.start_timeout_s or start_timeout_s(reach),
            verbose=options.verbose,
            inherited_ranks=RANK_NAMES & environ.keys(),
        )
        return Supervisor(request, control, ground, start).run()
    finally:
        control.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What is known before anything starts: the applications, their MPI libraries, the PMI, and what serves that."""

    applications: tuple[application.Application, ...]
    uses: tuple[mpi_library.MpiUse, ...]
    pmi: str
    libpmix: Libpmix | None


def _ready(
    commands: Sequence[Sequence[str]],
    *,
    plan: Plan | None,
    options: LaunchOptions,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> _Ready:
    """Return what is known before anything starts, every check that can be made here having been made.

    Args:
        commands: The applications.
        plan: That of a job on this host; None for one on several.
        options: How to run it.
        environ: The caller's environment.
        say: Called with what was decided.

    Raises:
        RankmapError: Something is not usable.
    """
    applications = tuple(
        application.resolve(argv, cwd=options.cwd or Path(), environ=environ, set_env=options.set_env)
        for argv in commands
    )
    libpmix = None if options.pmi in {Pmi.NONE, Pmi.CRAY} else find_libpmix(environ)
    path = str(libpmix.path) if libpmix else ""
    uses = tuple(_mpi_use(resolved, options.pmi, environ=environ, libpmix=path) for resolved in applications)
    for use in uses:
        mpi_library.require_pmi(use, n_ranks=_SEVERAL if plan is None else plan.n_ranks)
    use = _common(applications, uses)
    if in_runtime(environ):
        if libpmix is not None and use.pmi == "pmix" and plan is not None:  # on several hosts each is asked
            require_libpmix(libpmix, environ=environ)
    else:
        dragon_command(environ)
    require_pidfd()
    if plan is not None:
        if not in_runtime(environ):
            require_room(environ)
        require_mempolicy(plan, machine=os.uname().machine)
        require_descriptors(plan.n_ranks)
    if options.output.directory is not None:
        prepare_directory(options.output.directory)
    say(f"PMI back end {use.pmi or 'none'}: {use.reason}")
    if libpmix is not None:
        say(f"libpmix: {libpmix.path} ({libpmix.version})")
    return _Ready(applications=applications, uses=uses, pmi=use.pmi, libpmix=libpmix)


def _preloaded(
    applications: Sequence[application.Application], file: Path | None, copy: Path | None
) -> list[application.Application]:
    """Return the applications with the copies that hosts get in place of a file."""
    if file is None:
        return list(applications)
    if copy is None:
        tell(f"--preload {file}: on one host it is used where it is")
        return list(applications)
    return all_preloaded(applications, file, copy)


def _bound_once(  # noqa: PLR0913, PLR0917 - what the ranks' environment depends on
    plan: Plan,
    applications: Sequence[application.Application],
    uses: Sequence[mpi_library.MpiUse],
    common: Mapping[str, str | None],
    options: LaunchOptions,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> tuple[application.Application, ...]:
    """Return the applications with their environment, and tell the user of what would bind their ranks again."""
    second = [
        _second_binding(plan, number, use=use, options=options, environ=environ) for number, use in enumerate(uses)
    ]
    for message in dict.fromkeys(message for one in second for message in one.messages):
        tell(message)
    for remark in dict.fromkeys(remark for one in second for remark in one.remarks):
        say(remark)
    return tuple(
        application.with_env(one, {**common, **use.set_env, **also.changes})
        for one, use, also in zip(applications, uses, second, strict=True)
    )


def _common(applications: Sequence[application.Application], uses: Sequence[mpi_library.MpiUse]) -> mpi_library.MpiUse:
    """Return what the parts of a job have in common, which is one MPI job.

    Raises:
        RuntimeUnusableError: They do not speak the same PMI.
    """
    for resolved, use in zip(applications, uses, strict=True):
        if use.pmi != uses[0].pmi:
            msg = f"{applications[0].path} speaks {uses[0].pmi or 'no PMI'}, {resolved.path} {use.pmi or 'none'}"
            raise RuntimeUnusableError(msg, hint="the parts of a job are one MPI job: build them with one MPI library")
    return uses[0]


def _second_binding(
    plan: Plan, part: int, *, use: mpi_library.MpiUse, options: LaunchOptions, environ: Mapping[str, str]
) -> SecondBinding:
    """Return what is to be done about a second binding in a part of the job: its ranks are all bound, or none is."""
    first = sum(one.n_ranks for one in plan.parts[:part])
    return second_binding(
        environ,
        options.set_env,
        library=use.library,
        bound=plan.rank(first).cpus is not None,
        threads=plan.parts[part].spec.threads_per_rank is not None,
    )


def _for_library(plan_for: Callable[[Allocation], Plan], libraries: set[str]) -> Callable[[Allocation], Plan]:
    """Return what makes the plan with the variables that these MPI libraries need for NICs (nics.py).

    Of an MPI library that was not recognised nobody knows whether it is Cray MPICH.
    """
    if libraries.isdisjoint({"", "Cray MPICH"}):
        return lambda allocation: with_cxi_devices(plan_for(allocation))
    return plan_for


def _mpi_use(
    resolved: application.Application, pmi: Pmi, *, environ: Mapping[str, str], libpmix: str
) -> mpi_library.MpiUse:
    if pmi is Pmi.NONE:
        return mpi_library.MpiUse(library="", path="", pmi="", reason="--pmi none: the ranks are no MPI job")
    if pmi is not Pmi.AUTO:
        return mpi_library.MpiUse(library="", path="", pmi=str(pmi), reason=f"--pmi {pmi}")
    return mpi_library.find_mpi(resolved, environ=environ, libpmix=libpmix)
