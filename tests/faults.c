/* Preloaded into a process, it makes the system's calls fail for some files, as a disk or a network share does.

   FAULT_PATH   part of the path of the files; the calls are left alone while it is not set
   FAULT_CALL   open, read, write or stat
   FAULT_ERRNO  the error; 0 lets a read come to an end too early
   FAULT_AFTER  only reads from this offset on
   FAULT_SKIP   so many such calls succeed first
   FAULT_TIMES  and then so many fail; all of them where it is not set
   FAULT_WAIT   microseconds before it fails */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long count;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

void fault_reset(void) { count = 0; }

static int fails(const char *call, const char *path) {
    const char *part = getenv("FAULT_PATH"), *which = getenv("FAULT_CALL");
    if (!part || !*part || !which || strcmp(which, call) || !strstr(path, part)) return 0;
    long now = __sync_fetch_and_add(&count, 1) - number("FAULT_SKIP", 0);
    if (now < 0 || now >= number("FAULT_TIMES", 1L << 40)) return 0;
    usleep(number("FAULT_WAIT", 0));
    return 1;
}

ssize_t read(int fd, void *buffer, size_t size) {
    static ssize_t (*next)(int, void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "read");
    if (getenv("FAULT_PATH")) {
        char link[64], path[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            off_t at = lseek(fd, 0, SEEK_CUR), after = number("FAULT_AFTER", 0);
            if (at < after && at + (off_t)size > after) size = after - at;
            else if (at >= after && fails("read", path)) {
                errno = number("FAULT_ERRNO", EIO);
                return errno ? -1 : 0;
            }
        }
    }
    return next(fd, buffer, size);
}

ssize_t write(int fd, const void *buffer, size_t size) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = getenv("FAULT_PATH") ? readlink(link, path, sizeof path - 1) : 0;
    if (length > 0) {
        path[length] = 0;
        if (fails("write", path)) {
            errno = number("FAULT_ERRNO", EIO);
            return -1;
        }
    }
    return next(fd, buffer, size);
}

#define PREAD(name)                                                                     \
    ssize_t name(int fd, void *buffer, size_t size, off_t at) {                         \
        static ssize_t (*next)(int, void *, size_t, off_t);                             \
        if (!next) next = dlsym(RTLD_NEXT, #name);                                      \
        char link[64], path[4096];                                                      \
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);                            \
        ssize_t length = getenv("FAULT_PATH") ? readlink(link, path, sizeof path - 1) : 0; \
        if (length > 0) {                                                               \
            path[length] = 0;                                                           \
            if (at + (off_t)size > number("FAULT_AFTER", 0) && fails("read", path)) {   \
                errno = number("FAULT_ERRNO", EIO);                                     \
                return errno ? -1 : 0;                                                  \
            }                                                                           \
        }                                                                               \
        return next(fd, buffer, size, at);                                              \
    }
PREAD(pread)
PREAD(pread64)

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        static int (*next)(const char *, int, ...);                             \
        if (!next) next = dlsym(RTLD_NEXT, #name);                              \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        if (fails("open", path)) {                                              \
            errno = number("FAULT_ERRNO", EIO);                                 \
            return -1;                                                          \
        }                                                                       \
        return next(path, flags, mode);                                         \
    }
#define STAT(name, type)                                \
    int name(const char *path, struct type *found) {    \
        static int (*next)(const char *, struct type *); \
        if (!next) next = dlsym(RTLD_NEXT, #name);      \
        if (fails("stat", path)) {                      \
            errno = number("FAULT_ERRNO", EIO);         \
            return -1;                                  \
        }                                               \
        return next(path, found);                       \
    }
STAT(stat, stat)
STAT(stat64, stat64)

OPEN(open)
OPEN(open64)
