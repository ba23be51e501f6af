/*
 * Syncs that fail with EIO while the file $FAILING_SYNCS exists, put under a process by LD_PRELOAD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int failing(void) {
    const char *told = getenv("FAILING_SYNCS");
    int before = errno;
    if (told && access(told, F_OK) == 0) {
        errno = EIO;
        return 1;
    }
    errno = before;
    return 0;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return failing() ? -1 : real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    return failing() ? -1 : real(fd);
}
