/* A wall clock that is wrong by as many seconds as /run/clock says, for LD_PRELOAD on a fake host.
 *
 *   cc -shared -fPIC -o fakeclock.so fakeclock.c
 *
 * Other clocks are right, and so is waiting until a time of day, whose end is told by the wrong clock: it is put right
 * here. (libfaketime 0.9.10 makes Python's time.sleep fail where the monotonic clock is to be left alone.)
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long wrong_s;

__attribute__((constructor)) static void look(void) {
    FILE *file = fopen("/run/clock", "re");
    if (file == NULL || fscanf(file, "%ld", &wrong_s) != 1) wrong_s = 0;
    if (file != NULL) fclose(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += wrong_s;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now != NULL) *now = precise.tv_sec;
    return precise.tv_sec;
}

/* Of a condition nobody can ask which clock it has; the monotonic one is far from 2001. */
static clockid_t real(const struct timespec *until, struct timespec *end) {
    clockid_t clock = until->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
   *end = *until;
    if (clock == CLOCK_REALTIME) end->tv_sec -= wrong_s;
    return clock;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec end;
    clockid_t clock = real(until, &end);
    return pthread_cond_clockwait(condition, mutex, clock, &end);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec end;
    clockid_t clock = real(until, &end);
    return sem_clockwait(semaphore, clock, &end);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec end;
    clockid_t clock = real(until, &end);
    return pthread_mutex_clocklock(mutex, clock, &end);
}
