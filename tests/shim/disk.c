/* A disk that loses what was not synced, fills up or fails, for tests: preloaded into the daemon, it stands
 * between SQLite and the files of the database.
 *
 * Before a write changes a file, what was there is appended to FILE.undo; a sync of the file empties that. After
 * a kill -9 the test plays the undo file backwards, which leaves what a disk has after the power went.
 *
 * The file named by DISK_FAULT says how the disk is now: nothing, "full" (writes: ENOSPC), "broken" (writes: EIO),
 * "nosync" (syncs: EIO), "hangs" (syncs wait), or "lies" (a sync that syncs nothing: to see that the test notices). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* The path of a file of the database (X.db, X.db-wal), if fd is one. */
static int tracked(int fd, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, room - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    const char *end = path + length;
    return (length > 3 && !strcmp(end - 3, ".db")) || (length > 7 && !strcmp(end - 7, ".db-wal"));
}

static int is_now(const char *fault) {
    const char *control = getenv("DISK_FAULT");
    char now[16] = "";
    if (!control) return 0;
    int fd = open(control, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, now, sizeof now - 1);
    close(fd);
    return length > 0 && !strncmp(now, fault, strlen(fault));
}

static int undo_file(const char *path) {
    char undo[PATH_MAX + 8];
    snprintf(undo, sizeof undo, "%s.undo", path);
    return open(undo, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* A record: the file's size, the offset, the length of what was there, and that. */
static void remember(int fd, const char *path, off_t at, size_t count) {
    REAL(write);
    struct stat stat;
    if (fstat(fd, &stat)) return;
    off_t end = at + (off_t)count;
    off_t until = end < stat.st_size ? end : stat.st_size;
    uint64_t head[3] = {(uint64_t)stat.st_size, (uint64_t)at, until > at ? (uint64_t)(until - at) : 0};
    size_t size = sizeof head + head[2];
    char *record = malloc(size);
    if (!record) abort();
    memcpy(record, head, sizeof head);
    if (head[2] && pread(fd, record + sizeof head, head[2], at) != (ssize_t)head[2]) abort();
    int undo = undo_file(path);
    if (undo < 0 || real(undo, record, size) != (ssize_t)size) abort();
    close(undo);
    free(record);
}

static int synced(int fd, int (*sync)(int)) {
    char path[PATH_MAX];
    if (!tracked(fd, path, sizeof path)) return sync(fd);
    while (is_now("hangs")) usleep(10000);
    if (is_now("nosync")) return errno = EIO, -1;
    if (is_now("lies")) return 0;
    pthread_mutex_lock(&lock);
    int result = sync(fd);
    if (!result) {
        int undo = undo_file(path);
        if (undo < 0 || ftruncate(undo, 0)) abort();
        close(undo);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { REAL(fsync); return synced(fd, real); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd, real); }

/* 0: go on, with the lock held; else errno. */
static int before(int fd, off_t at, size_t count, int *held) {
    char path[PATH_MAX];
    *held = 0;
    if (!tracked(fd, path, sizeof path)) return 0;
    if (is_now("full")) return ENOSPC;
    if (is_now("broken")) return EIO;
    pthread_mutex_lock(&lock);
    *held = 1;
    remember(fd, path, at, count);
    return 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    int held, error = before(fd, lseek(fd, 0, SEEK_CUR), count, &held);
    if (error) return errno = error, -1;
    ssize_t result = real(fd, bytes, count);
    if (held) pthread_mutex_unlock(&lock);
    return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    int held, error = before(fd, at, count, &held);
    if (error) return errno = error, -1;
    ssize_t result = real(fd, bytes, count, at);
    if (held) pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    struct stat stat;
    size_t cut = !fstat(fd, &stat) && stat.st_size > size ? (size_t)(stat.st_size - size) : 0;
    int held, error = before(fd, size, cut, &held);
    if (error == ENOSPC) error = 0;
    if (error) return errno = error, -1;
    int result = real(fd, size);
    if (held) pthread_mutex_unlock(&lock);
    return result;
}
