/* Clocks that are off or fast, for tests: preloaded into the daemon.
 *
 * CLOCK_SHIFT names a file with the number of seconds to add to the wall clock; it may change at any time.
 * CLOCK_SPEED is how many times as fast the monotonic clock runs, and everything that waits by it: sleeps, futexes,
 * epoll and poll of libc. The wall clock keeps its speed, and so do time-outs of sockets and system calls made without
 * libc, such as those of rustix. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define SECOND 1000000000LL

static long long speed = 1;
/* When the monotonic clock began to run faster, in nanoseconds. */
static long long base;

static long long nanoseconds(const struct timespec *time) {
    return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec timespec_of(long long nanoseconds) {
    return (struct timespec){ .tv_sec = nanoseconds / SECOND, .tv_nsec = nanoseconds % SECOND };
}

/* A duration of the fast clock as one of the real clock, never too short. */
static long long shorter(long long duration) {
    return (duration + speed - 1) / speed;
}

static int is_monotonic(clockid_t id) {
    return id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW || id == CLOCK_BOOTTIME;
}

static long long shift(void) {
    char text[32];
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    return strtoll(text, NULL, 10);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(id, now);
    if (result != 0) return result;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += shift();
    if (speed > 1 && is_monotonic(id)) *now = timespec_of(base + (nanoseconds(now) - base) * speed);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    if (result == 0) now->tv_sec += shift();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int nanosleep(const struct timespec *time, struct timespec *left) {
    REAL(nanosleep);
    struct timespec less = timespec_of(shorter(nanoseconds(time)));
    int result = real(&less, left);
    if (result != 0 && left) *left = timespec_of(nanoseconds(left) * speed);
    return result;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *time, struct timespec *left) {
    REAL(clock_nanosleep);
    if (!is_monotonic(id)) return real(id, flags, time, left);
    long long start = flags & TIMER_ABSTIME ? base : 0;
    struct timespec less = timespec_of(start + shorter(nanoseconds(time) - start));
    int result = real(id, flags, &less, left);
    if (result != 0 && left && !(flags & TIMER_ABSTIME)) *left = timespec_of(nanoseconds(left) * speed);
    return result;
}

int usleep(useconds_t time) {
    REAL(usleep);
    return real(shorter(time));
}

int poll(struct pollfd *fds, nfds_t count, int time) {
    REAL(poll);
    return real(fds, count, time > 0 ? shorter(time) : time);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int time) {
    REAL(epoll_wait);
    return real(epoll, events, most, time > 0 ? shorter(time) : time);
}

/* Rust's standard library waits for futexes by this: until a time of the monotonic clock. */
long syscall(long number, ...) {
    REAL(syscall);
    va_list list;
    long a[6];
    va_start(list, number);
    for (int n = 0; n < 6; n++) a[n] = va_arg(list, long);
    va_end(list);
    struct timespec less;
    const struct timespec *time = (const struct timespec *)a[3];
    if (number == SYS_futex && speed > 1 && time) {
        int command = a[1] & FUTEX_CMD_MASK;
        if (command == FUTEX_WAIT || (command == FUTEX_WAIT_BITSET && !(a[1] & FUTEX_CLOCK_REALTIME))) {
            long long start = command == FUTEX_WAIT_BITSET ? base : 0;
            long long wait = nanoseconds(time) - start;
            less = timespec_of(start + (wait > 0 ? shorter(wait) : 0));
            a[3] = (long)&less;
        }
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("CLOCK_SPEED");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    base = nanoseconds(&now);
    if (text && atoll(text) > 1) speed = atoll(text);
}
