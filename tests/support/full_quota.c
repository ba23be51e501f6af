/*
 * Writes that fail with EDQUOT while the file $FULL_QUOTA exists, put under a process by LD_PRELOAD. Only those at a
 * position: what is logged goes through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int full(void) {
    const char *told = getenv("FULL_QUOTA");
    int before = errno;
    if (told && access(told, F_OK) == 0) {
        errno = EDQUOT;
        return 1;
    }
    errno = before;
    return 0;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite");
    return full() ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return full() ? -1 : real(fd, bytes, count, at);
}
