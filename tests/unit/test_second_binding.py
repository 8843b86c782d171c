from __future__ import annotations

import pytest

from rankmap.runtime.second_binding import second_binding


@pytest.mark.parametrize(
    ("library", "environ", "changes"),
    [
        ("Intel MPI", {}, {"I_MPI_PIN": "off"}),
        (
            "Intel MPI",
            {"I_MPI_PIN_DOMAIN": "socket", "I_MPI_PIN": "on"},
            {"I_MPI_PIN_DOMAIN": None, "I_MPI_PIN": "off"},
        ),
        ("MVAPICH", {}, {"MV2_ENABLE_AFFINITY": "0", "MVP_ENABLE_AFFINITY": "0"}),
        (
            "MVAPICH",
            {"MV2_CPU_BINDING_POLICY": "bunch"},
            {"MV2_CPU_BINDING_POLICY": None, "MV2_ENABLE_AFFINITY": "0", "MVP_ENABLE_AFFINITY": "0"},
        ),
        ("Cray MPICH", {"MPIR_CVAR_PROGRESS_THREAD_AFFINITY": "3"}, {"MPIR_CVAR_PROGRESS_THREAD_AFFINITY": None}),
        ("Open MPI", {"I_MPI_PIN_DOMAIN": "socket", "MV2_ENABLE_AFFINITY": "1"}, {}),
        ("", {"I_MPI_PIN_DOMAIN": "socket"}, {}),
    ],
)
def test_what_the_library_in_use_would_bind_by_is_switched_off(
    library: str, environ: dict[str, str], changes: dict[str, str | None]
) -> None:
    """Also what it does by default; other libraries' variables, and those of an unknown one, are left."""
    found = second_binding(environ, {}, library=library, bound=True, threads=False)
    assert changes == found.changes
    assert len(environ) * (library != "Open MPI") == len(found.messages)
    assert ((), {}) == second_binding(environ, {}, library=library, bound=False, threads=False)[1::-1]


def test_what_is_found_is_said_with_what_becomes_of_it() -> None:
    """What it is, why it matters, what is done; what is off already needs no word."""
    environ = {"I_MPI_PIN_DOMAIN": "socket", "I_MPI_PIN": "0"}
    again = "I_MPI_PIN_DOMAIN=socket: Intel MPI would bind ranks again; "
    for library, done in (("Intel MPI", "removed or switched off for the ranks"), ("", "left as it is")):
        assert (again + done,) == second_binding(environ, {}, library=library, bound=True, threads=False).messages


def test_what_the_user_gives_is_left() -> None:
    """``--env`` wins, for the whole family of a library."""
    given = {"I_MPI_PIN_DOMAIN": "socket", "KMP_AFFINITY": "compact"}
    found = second_binding({"I_MPI_PIN": "on"}, given, library="Intel MPI", bound=True, threads=True)
    over = "Intel's and LLVM's OpenMP would take it instead of the places that --threads sets"
    assert {} == found.changes
    assert (
        "I_MPI_PIN=on: Intel MPI would bind ranks again; left as it is",
        "I_MPI_PIN_DOMAIN=socket: Intel MPI would bind ranks again; left, as --env gives it",
        f"KMP_AFFINITY=compact: {over}; left, as --env gives it",
    ) == found.messages
    assert (
        ()
        == second_binding(
            {"GOMP_CPU_AFFINITY": "0"}, {"GOMP_CPU_AFFINITY": None}, library="", bound=True, threads=True
        ).messages
    )


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "with_threads", "without"),
    [
        ("KMP_AFFINITY", "compact", True, False),
        ("KMP_AFFINITY", "explicit,proclist=[0,1]", True, True),
        ("GOMP_CPU_AFFINITY", "0-3", True, True),
        ("KMP_HW_SUBSET", "1s,4c", False, True),
        ("OMP_PLACES", "{0},{1}", False, True),
        ("OMP_PLACES", "cores", False, False),
        ("OMP_PROC_BIND", "close", False, False),
    ],
)
def test_openmp_keeps_to_the_places_of_the_rank(
    name: str,
    value: str,
    with_threads: bool,  # noqa: FBT001 - whether it is removed for --threads
    without: bool,  # noqa: FBT001 - whether it is said else
    threads: bool,  # noqa: FBT001 - as above
) -> None:
    """What wins over OMP_PLACES goes for ``--threads``; else what names CPUs of its own is said, and left."""
    found = second_binding({name: value}, {}, library="", bound=True, threads=threads)
    assert ({name: None} if threads and with_threads else {}) == found.changes
    said = (with_threads or name == "KMP_HW_SUBSET") if threads else without
    assert said == bool(found.messages)


def test_a_variable_of_cray_mpich_is_taken_away() -> None:
    """Where that, or MPICH, is in use; where nobody knows the library it is only said."""
    for library, changed in (("Cray MPICH", True), ("MPICH", True), ("", False), ("Open MPI", False)):
        found = second_binding({"MPICH_CPU_BIND": "0,1"}, {}, library=library, bound=True, threads=False)
        assert ({"MPICH_CPU_BIND": None} if changed else {}) == found.changes
        assert (library != "Open MPI") == bool(found.messages)


def test_what_only_another_launcher_reads_is_a_remark() -> None:
    """It binds nothing here."""
    environ = {"SLURM_CPU_BIND": "cores", "PRTE_MCA_hwloc_default_binding_policy": "core"}
    found = second_binding(environ, {}, library="Open MPI", bound=True, threads=False)
    assert ({}, (), 2) == (found.changes, found.messages, len(found.remarks))
