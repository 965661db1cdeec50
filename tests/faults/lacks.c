/* A file system that lacks something: lacks_set("flock", ENOLCK) makes every flock fail that way, until it is set to
   something else. Only what is below the working folder, or named relative to it, is touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static char lacking[64];
static int code;

void lacks_set(const char *what, int with) {
  strncpy(lacking, what, sizeof lacking - 1);
  code = with;
}

static int lacks(const char *what) {
  if (strcmp(what, lacking)) return 0;
  errno = code;
  return 1;
}

static int is_here(const char *path) {
  char folder[PATH_MAX];
  if (!path || path[0] != '/') return path != NULL;
  return getcwd(folder, sizeof folder) && !strncmp(path, folder, strlen(folder));
}

static int is_open_here(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return path[0] == '/' && is_here(path);
}

static int exists(const char *path) {
  struct stat s;
  return !lstat(path, &s);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) {
  struct stat s;
  const char *what = !fstat(fd, &s) && S_ISDIR(s.st_mode) ? "fsync of a folder" : "fsync";
  return is_open_here(fd) && lacks(what) ? -1 : NEXT(fsync)(fd);
}
int chmod(const char *p, mode_t m) { return is_here(p) && lacks("chmod") ? -1 : NEXT(chmod)(p, m); }
int fchmod(int fd, mode_t m) { return is_open_here(fd) && lacks("chmod") ? -1 : NEXT(fchmod)(fd, m); }
int fchmodat(int d, const char *p, mode_t m, int f) {
  return is_here(p) && lacks("chmod") ? -1 : NEXT(fchmodat)(d, p, m, f);
}
int flock(int fd, int how) {
  static int (*next)(int, int);
  if (!next) next = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  return is_open_here(fd) && lacks("flock") ? -1 : next(fd, how);
}
int link(const char *a, const char *b) { return is_here(b) && lacks("link") ? -1 : NEXT(link)(a, b); }
int linkat(int c, const char *a, int d, const char *b, int f) {
  return is_here(b) && lacks("link") ? -1 : NEXT(linkat)(c, a, d, b, f);
}
int symlink(const char *a, const char *b) { return is_here(b) && lacks("link") ? -1 : NEXT(symlink)(a, b); }
int symlinkat(const char *a, int d, const char *b) {
  return is_here(b) && lacks("link") ? -1 : NEXT(symlinkat)(a, d, b);
}
int rename(const char *a, const char *b) {
  return is_here(b) && exists(b) && lacks("replacing") ? -1 : NEXT(rename)(a, b);
}
int renameat(int c, const char *a, int d, const char *b) {
  return is_here(b) && exists(b) && lacks("replacing") ? -1 : NEXT(renameat)(c, a, d, b);
}
int utimensat(int d, const char *p, const struct timespec t[2], int f) {
  return is_here(p) && lacks("utime") ? -1 : NEXT(utimensat)(d, p, t, f);
}
int futimens(int fd, const struct timespec t[2]) { return is_open_here(fd) && lacks("utime") ? -1 : NEXT(futimens)(fd, t); }
void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) {
  return fd >= 0 && is_open_here(fd) && lacks("mmap") ? MAP_FAILED : NEXT(mmap)(at, n, prot, flags, fd, from);
}
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off64_t from) {
  return fd >= 0 && is_open_here(fd) && lacks("mmap") ? MAP_FAILED : NEXT(mmap64)(at, n, prot, flags, fd, from);
}
int statvfs(const char *p, struct statvfs *s) { return is_here(p) && lacks("statvfs") ? -1 : NEXT(statvfs)(p, s); }
int statvfs64(const char *p, struct statvfs64 *s) { return is_here(p) && lacks("statvfs") ? -1 : NEXT(statvfs64)(p, s); }
