/* Preloaded into a process, fails its k-th operation on files below a folder: as a full disk, a dying device, missing
   rights, Ctrl-C or kill -9 would. Whatever language the call comes from: Python, safetensors' Rust and torch's C++ all
   end here. Counted are open for writing, write, fsync, rename, mkdir, unlink, rmdir, sendfile, chmod. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long at = 0, seen = 0;
static int how = 0; /* an errno, or minus a signal */

void faults_arm(const char *below, long k, int error) {
    snprintf(folder, sizeof folder, "%s", below);
    at = k, seen = 0, how = error;
}

long faults_disarm(void) {
    long count = seen;
    at = 0, folder[0] = 0;
    return count;
}

/* Nonzero if this operation is to fail; errno is set then. A signal is sent, and the operation goes on. */
static int fails(const char *path) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    if (++seen != at) return 0;
    if (how < 0) {
        kill(getpid(), -how);
        return 0;
    }
    errno = how;
    return 1;
}

static const char *path_of(int fd, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, size - 1);
    if (length < 0) return NULL;
    buffer[length] = 0;
    return buffer;
}

static int fd_fails(int fd) {
    char buffer[4096];
    return folder[0] && fails(path_of(fd, buffer, sizeof buffer));
}

static int at_fails(int dir, const char *path) {
    char buffer[8192];
    if (!folder[0]) return 0;
    if (path[0] == '/') return fails(path);
    if (dir == AT_FDCWD) {
        if (!getcwd(buffer, 4096)) return 0;
    } else if (!path_of(dir, buffer, 4096)) return 0;
    strncat(buffer, "/", 2);
    strncat(buffer, path, 4000);
    return fails(buffer);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                                 \
    int name(const char *path, int flags, ...) {                                   \
        REAL(name);                                                                \
        va_list rest;                                                              \
        va_start(rest, flags);                                                     \
        mode_t mode = va_arg(rest, mode_t);                                        \
        va_end(rest);                                                              \
        if ((flags & O_ACCMODE) != O_RDONLY && at_fails(AT_FDCWD, path)) return -1; \
        return real(path, flags, mode);                                            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                          \
    int name(int dir, const char *path, int flags, ...) {                     \
        REAL(name);                                                           \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = va_arg(rest, mode_t);                                   \
        va_end(rest);                                                         \
        if ((flags & O_ACCMODE) != O_RDONLY && at_fails(dir, path)) return -1; \
        return real(dir, path, flags, mode);                                  \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (fd_fails(fd)) {
        if (errno == ENOSPC && size > 1) return real(fd, data, size / 2); /* what a full disk does first ... */
        return -1;
    }
    if (folder[0] && how == ENOSPC && at && seen > at) { /* ... and it stays full */
        char buffer[4096];
        const char *path = path_of(fd, buffer, sizeof buffer);
        if (path && !strncmp(path, folder, strlen(folder))) return errno = ENOSPC, -1;
    }
    return real(fd, data, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    REAL(sendfile);
    return fd_fails(out) ? -1 : real(out, in, offset, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    return fd_fails(fd) ? -1 : real(fd, parts, n);
}

#define ON_FD(name)                          \
    int name(int fd) {                       \
        REAL(name);                          \
        return fd_fails(fd) ? -1 : real(fd); \
    }
ON_FD(fsync)
ON_FD(fdatasync)

#define ON_PATH(name)                                         \
    int name(const char *path) {                              \
        REAL(name);                                           \
        return at_fails(AT_FDCWD, path) ? -1 : real(path);    \
    }
ON_PATH(unlink)
ON_PATH(rmdir)

int rename(const char *from, const char *to) {
    REAL(rename);
    return at_fails(AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(renameat);
    return at_fails(to_dir, to) ? -1 : real(from_dir, from, to_dir, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return at_fails(AT_FDCWD, path) ? -1 : real(path, mode);
}

int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    return at_fails(AT_FDCWD, path) ? -1 : real(path, mode);
}

int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    return at_fails(dir, path) ? -1 : real(dir, path, flags);
}
