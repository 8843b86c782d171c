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
from rankmap.runtime.inside import InsideSession, require_libpmix
from rankmap.runtime.job import START_TIMEOUT_S, JobRequest, JobResult, OutputOptions, Pmi, Verify
from rankmap.runtime.libpmix import find_libpmix
from rankmap.runtime.live_gpus import gpu_variables, understood
from rankmap.runtime.memory_policies import require_mempolicy
from rankmap.runtime.processes import require_pidfd
from rankmap.runtime.rank_output import prepare_directory, require_descriptors, tell
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
from rankmap.runtime.shared_memory import require_room
from rankmap.runtime.supervisor import Supervisor
from rankmap.topology import Allocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rankmap.cpuset import CpuSet
    from rankmap.placement import Plan
    from rankmap.runtime.second_binding import SecondBinding
    from rankmap.topology import Gpu, NodeTopology

__all__ = ["LEAST_WATCH_S", "LaunchOptions", "launch_job"]

LEAST_WATCH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How a job is run, beside its layout.

    Args:
        cwd: The ranks' working directory; None is the caller's.
        set_env: Variables for the ranks (None: removed from their environment).
        pmi: How the ranks find each other.
        verify: See JobRequest, as for the fields below.

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
    start_timeout_s: float = START_TIMEOUT_S
    verbose: bool = False

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
) -> JobResult:
    """Run the application as the plan says on this host, and return how it ended.

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

    Raises:
        RankmapError: The application, the layout, the MPI library or Dragon is not usable.
    """
    host = os.uname().nodename
    applications = [
        application.resolve(argv, cwd=options.cwd or Path(), environ=environ, set_env=options.set_env)
        for argv in commands
    ]
    plan = plan_for(Allocation.of(((host, of_one_maker(topology)),)))
    inside = in_runtime(environ)
    libpmix = None if options.pmi in {Pmi.NONE, Pmi.CRAY} else find_libpmix(environ)
    path = str(libpmix.path) if libpmix else ""
    uses = [_mpi_use(resolved, options.pmi, environ=environ, libpmix=path) for resolved in applications]
    for use in uses:
        mpi_library.require_pmi(use, n_ranks=plan.n_ranks)
    use = _common(applications, uses)
    if not inside:
        dragon_command(environ)
        require_room(environ)
    elif libpmix is not None and use.pmi == "pmix":
        require_libpmix(libpmix, environ=environ)
    require_pidfd()
    require_mempolicy(plan, machine=os.uname().machine)
    require_descriptors(plan.n_ranks)
    if options.output.directory is not None:
        prepare_directory(options.output.directory)
    say(f"PMI back end {use.pmi or 'none'}: {use.reason}")
    if libpmix is not None:
        say(f"libpmix: {libpmix.path} ({libpmix.version})")
    control = ControlDirectory()
    try:
        library_dirs = () if inside or libpmix is None else control.offer_libpmix(libpmix)

        def start(wake: Callable[[], None]) -> Session | InsideSession:
            if inside:
                return InsideSession.start(control, on_failure=wake)
            return Session.start(
                control,
                environ=runtime_environment(understood(environ, topology), control=control, library_dirs=library_dirs),
            )

        second = [
            _second_binding(plan, number, use=own, options=options, environ=environ) for number, own in enumerate(uses)
        ]
        for message in dict.fromkeys(message for one in second for message in one.messages):
            tell(message)
        for remark in dict.fromkeys(remark for one in second for remark in one.remarks):
            say(remark)
        segments = mpi_library.segment_variables(control.shared_memory, environ) if use.pmi else {}
        common = {
            **({"PYTHONPATH": environ.get("PYTHONPATH")} if inside else restored(environ)),
            **left_by_others(environ, backend=use.pmi),
            **segments,
        }
        request = JobRequest(
            plan_for=_for_library(plan_for, {own.library for own in uses}),
            applications=tuple(
                application.with_env(resolved, {**common, **own.set_env, **also.changes})
                for resolved, own, also in zip(applications, uses, second, strict=True)
            ),
            host=host,
            topology=topology,
            backend=use.pmi,
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
            start_timeout_s=options.start_timeout_s,
            verbose=options.verbose,
            inherited_ranks=RANK_NAMES & environ.keys(),
        )
        return Supervisor(request, control, start).run()
    finally:
        control.remove()


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
