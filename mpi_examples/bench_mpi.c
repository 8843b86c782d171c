/* Times MPI between pairs of ranks (0 and 1, 2 and 3, ...) and prints one JSON object from rank 0.
 *
 *   make -C mpi_examples
 *   rankmap launch -n 2 mpi_examples/bench_mpi [REPEATS]
 *   mpirun  -n 2 --bind-to core mpi_examples/bench_mpi [REPEATS]
 *
 * Every number is the median of REPEATS (default 5) runs, each of the slowest pair in it.
 * latency_us       half a round trip of 8 bytes
 * latency_4kib_us, latency_2mib_us          half a round trip of that size
 * bandwidth_4kib_gb_s, bandwidth_2mib_gb_s  that size over that time (10^9 bytes a second)
 * barrier_us, comm_dup_us                   of all ranks; MPI_Comm_free is outside the time
 * allreduce_us, allreduce_64kib_us          of all ranks, the sum of one double, and of 64 KiB of them
 * init_s, finalize_s                        of rank 0, once
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LARGEST = 2 << 20, MAX_REPEATS = 1000 };

static int rank, n_ranks;
static char *buffer;

static double seconds(void) { /* MPI_Wtime cannot be called before MPI_Init */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void ping_pong(int bytes) {
    int peer = rank ^ 1;
    if (peer >= n_ranks)
        return; /* the last of an odd number of ranks has nobody */
    if (rank < peer) {
        MPI_Send(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD);
        MPI_Recv(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else {
        MPI_Recv(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(buffer, bytes, MPI_BYTE, peer, 0, MPI_COMM_WORLD);
    }
}

static void barrier(int unused) {
    (void)unused;
    MPI_Barrier(MPI_COMM_WORLD);
}

static void allreduce(int bytes) {
    MPI_Allreduce(buffer, buffer + LARGEST / 2, bytes / (int)sizeof(double), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

static int ascending(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, ascending);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static double slowest(double mine) {
    double all;
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

/* Returns the median time of one call of step(bytes), in seconds, over repeats of so many calls each. */
static double timed(void (*step)(int), int bytes, int calls, int repeats) {
    double took[MAX_REPEATS];
    for (int repeat = -1; repeat < repeats; repeat++) { /* the one before the first warms up */
        MPI_Barrier(MPI_COMM_WORLD);
        double start = seconds();
        for (int call = 0; call < calls; call++)
            step(bytes);
        double all = slowest((seconds() - start) / calls);
        if (repeat >= 0)
            took[repeat] = all;
    }
    return median(took, repeats);
}

static double timed_dup(int calls, int repeats) {
    double took[MAX_REPEATS];
    for (int repeat = -1; repeat < repeats; repeat++) {
        double mine = 0;
        for (int call = 0; call < calls; call++) {
            MPI_Comm copy;
            MPI_Barrier(MPI_COMM_WORLD);
            double start = seconds();
            MPI_Comm_dup(MPI_COMM_WORLD, &copy);
            mine += seconds() - start;
            MPI_Comm_free(&copy);
        }
        double all = slowest(mine / calls);
        if (repeat >= 0)
            took[repeat] = all;
    }
    return median(took, repeats);
}

int main(int argc, char **argv) {
    int repeats = argc > 1 ? atoi(argv[1]) : 5;
    double start = seconds();

    MPI_Init(&argc, &argv);
    double init = seconds() - start;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    if (n_ranks < 2 || repeats < 1 || repeats > MAX_REPEATS) {
        if (rank == 0)
            fprintf(stderr, "bench_mpi: needs 2 ranks or more (there are %d) and 1 to %d repeats\n", n_ranks, MAX_REPEATS);
        MPI_Finalize();
        return 2;
    }
    buffer = calloc(LARGEST, 1);
    if (!buffer)
        MPI_Abort(MPI_COMM_WORLD, 1);

    double small = timed(ping_pong, 8, 5000, repeats) / 2;
    double medium = timed(ping_pong, 4096, 5000, repeats) / 2;
    double large = timed(ping_pong, LARGEST, 100, repeats) / 2;
    double all = timed(barrier, 0, 5000, repeats);
    double dup = timed_dup(100, repeats);
    double sum = timed(allreduce, sizeof(double), 5000, repeats);
    double sums = timed(allreduce, 64 << 10, 500, repeats);

    free(buffer);
    start = seconds();
    MPI_Finalize();
    if (rank == 0)
        printf("{\"ranks\": %d, \"repeats\": %d, \"latency_us\": %.3f, \"latency_4kib_us\": %.3f, \"latency_2mib_us\": %.3f, "
               "\"bandwidth_4kib_gb_s\": %.3f, \"bandwidth_2mib_gb_s\": %.3f, \"barrier_us\": %.3f, \"comm_dup_us\": %.3f, "
               "\"allreduce_us\": %.3f, \"allreduce_64kib_us\": %.3f, "
               "\"init_s\": %.4f, \"finalize_s\": %.4f}\n",
               n_ranks, repeats, small * 1e6, medium * 1e6, large * 1e6, 4096 / medium / 1e9, LARGEST / large / 1e9, all * 1e6,
               dup * 1e6, sum * 1e6, sums * 1e6, init, seconds() - start);
    return 0;
}
