/* Prints one line a thread: on which CPU and NUMA domain it runs, and on which CPUs it may run.
 *
 *   make -C mpi_examples                  (or OPENMP=1 make -C mpi_examples, then OMP_NUM_THREADS says how many threads)
 *   rankmap launch -n 4 mpi_examples/hello_affinity
 *   mpirun  -n 4 mpi_examples/hello_affinity
 *
 * CPU and NUMA numbers are Linux's (os indices).
 */
#define _GNU_SOURCE
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
static int omp_get_max_threads(void) { return 1; }
#endif

enum { MAX_CPUS = 8192, LINE = 1024 }; /* a kernel has at most 8192 CPUs; a longer list of CPUs is cut */

/* Writes the calling thread's CPUs into text as Linux lists them: 0-3,8-11. */
static void allowed_cpus(char *text, size_t size) {
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS), used = 0;

    text[0] = '\0';
    CPU_ZERO_S(bytes, set);
    sched_getaffinity(0, bytes, set);
    for (int first = 0; first < MAX_CPUS && used < size; first++) {
        int last = first;
        if (!CPU_ISSET_S(first, bytes, set))
            continue;
        while (last + 1 < MAX_CPUS && CPU_ISSET_S(last + 1, bytes, set))
            last++;
        used += snprintf(text + used, size - used, used ? ",%d" : "%d", first);
        if (last > first && used < size)
            used += snprintf(text + used, size - used, "-%d", last);
        first = last;
    }
    CPU_FREE(set);
}

int main(int argc, char **argv) {
    int provided, rank, n_ranks, host_length;
    char host[MPI_MAX_PROCESSOR_NAME];

    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    MPI_Get_processor_name(host, &host_length);

    int n_threads = omp_get_max_threads();
    char(*lines)[LINE] = calloc(n_threads, LINE);
    if (!lines)
        MPI_Abort(MPI_COMM_WORLD, 1);
#pragma omp parallel
    {
        int thread = omp_get_thread_num();
        unsigned cpu = 0, numa = 0;
        char cpus[LINE / 2];

        syscall(SYS_getcpu, &cpu, &numa, NULL);
        allowed_cpus(cpus, sizeof cpus);
        snprintf(lines[thread], LINE, "rank %d of %d  thread %d of %d  host %s  pid %d  on cpu %-3u numa %u  cpus %s\n",
                 rank, n_ranks, thread, omp_get_num_threads(), host, (int)getpid(), cpu, numa, cpus);
    }
    /* all threads' lines in one write, so that no other rank's text can come between */
    setvbuf(stdout, NULL, _IOFBF, (size_t)n_threads * LINE);
    for (int thread = 0; thread < n_threads; thread++)
        fputs(lines[thread], stdout);
    fflush(stdout);
    free(lines);
    MPI_Finalize();
    return 0;
}
