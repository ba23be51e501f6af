/*
 * A disk that keeps nothing but what was synced, put under a process by LD_PRELOAD.
 *
 * For the database $LOST_PAGES_FILE and its log (-wal) it keeps an image in $LOST_PAGES_FOLDER: what a machine finds
 * after power was lost. A successful sync of a file brings the ranges written since its last sync into the image.
 * While the folder holds a file `fail-db` or `fail-wal`, syncs of that file fail with EIO, and the ranges
 * written before are forgotten without being brought: as Linux does it, which marks a page that could not be written
 * as clean. A later sync that succeeds proves nothing about them.
 *
 * Each sync adds a letter to `syncs` in the folder: d, w (of the database, of the log), D, W where it failed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 512
#define MAX_FDS 65536

struct file {
    char path[4096], image[4096], fail[4096], letter;
    unsigned char *dirty; /* one a PAGE */
    size_t pages;
};

static struct file files[2];
static char syncs[4096];
static unsigned char file_of[MAX_FDS]; /* 0, or 1 + the index into files */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open64)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate64)(int, off64_t);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void) {
    real_open64 = dlsym(RTLD_NEXT, "open64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_ftruncate64 = dlsym(RTLD_NEXT, "ftruncate64");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    const char *base = getenv("LOST_PAGES_FILE"), *folder = getenv("LOST_PAGES_FOLDER");
    if (!base || !folder) return;
    const char *names[2] = {"db", "wal"}, *suffixes[2] = {"", "-wal"};
    for (int i = 0; i < 2; i++) {
        snprintf(files[i].path, sizeof files[i].path, "%s%s", base, suffixes[i]);
        snprintf(files[i].image, sizeof files[i].image, "%s/store.db%s", folder, suffixes[i]);
        snprintf(files[i].fail, sizeof files[i].fail, "%s/fail-%s", folder, names[i]);
        files[i].letter = names[i][0];
    }
    snprintf(syncs, sizeof syncs, "%s/syncs", folder);
}

static struct file *tracked(int fd) {
    return fd >= 0 && fd < MAX_FDS && file_of[fd] ? &files[file_of[fd] - 1] : NULL;
}

static void mark(struct file *file, off64_t start, size_t size) {
    size_t last = (start + size + PAGE - 1) / PAGE;
    if (last > file->pages) {
        size_t pages = last * 2;
        file->dirty = realloc(file->dirty, pages);
        memset(file->dirty + file->pages, 0, pages - file->pages);
        file->pages = pages;
    }
    memset(file->dirty + start / PAGE, 1, last - start / PAGE);
}

static void bring(struct file *file, int fd) {
    char page[PAGE];
    struct stat status;
    int image = syscall(SYS_openat, AT_FDCWD, file->image, O_CREAT | O_RDWR, 0600);
    for (size_t number = 0; number < file->pages; number++) {
        if (!file->dirty[number]) continue;
        ssize_t got = syscall(SYS_pread64, fd, page, PAGE, (off64_t)number * PAGE);
        if (got > 0) syscall(SYS_pwrite64, image, page, got, (off64_t)number * PAGE);
        file->dirty[number] = 0;
    }
    fstat(fd, &status);
    syscall(SYS_ftruncate, image, status.st_size);
    syscall(SYS_close, image);
}

static void told(char letter) {
    int fd = syscall(SYS_openat, AT_FDCWD, syncs, O_CREAT | O_WRONLY | O_APPEND, 0600);
    syscall(SYS_write, fd, &letter, 1);
    syscall(SYS_close, fd);
}

static int synced(int fd, int (*real)(int)) {
    struct file *file = tracked(fd);
    if (!file) return real(fd);
    pthread_mutex_lock(&lock);
    int failing = syscall(SYS_access, file->fail, F_OK) == 0;
    if (failing) {
        if (file->dirty) memset(file->dirty, 0, file->pages);
        told(file->letter - 'a' + 'A');
    } else {
        bring(file, fd);
        told(file->letter);
    }
    pthread_mutex_unlock(&lock);
    if (failing) errno = EIO;
    return failing ? -1 : 0; /* the image stands for the disk: what really lies below is of no interest */
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = real_open64(path, flags, va_arg(rest, int));
    va_end(rest);
    if (fd >= 0 && fd < MAX_FDS)
        for (int i = 0; i < 2; i++)
            if (files[i].path[0] && strcmp(path, files[i].path) == 0) file_of[fd] = i + 1;
    return fd;
}

int close(int fd) {
    if (tracked(fd)) file_of[fd] = 0;
    return real_close(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t start) {
    struct file *file = tracked(fd);
    if (!file) return real_pwrite64(fd, data, size, start);
    pthread_mutex_lock(&lock);
    ssize_t done = real_pwrite64(fd, data, size, start);
    if (done > 0) mark(file, start, done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    struct file *file = tracked(fd);
    if (!file) return real_write(fd, data, size);
    pthread_mutex_lock(&lock);
    off64_t start = lseek64(fd, 0, SEEK_CUR);
    ssize_t done = real_write(fd, data, size);
    if (done > 0) mark(file, start, done);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off64_t size) {
    struct file *file = tracked(fd);
    if (!file) return real_ftruncate64(fd, size);
    pthread_mutex_lock(&lock);
    struct stat status;
    fstat(fd, &status);
    int done = real_ftruncate64(fd, size);
    if (!done && size > status.st_size) mark(file, status.st_size, size - status.st_size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int fsync(int fd) { return synced(fd, real_fdatasync); }

int unlink(const char *path) {
    for (int i = 0; i < 2; i++)
        if (files[i].path[0] && strcmp(path, files[i].path) == 0) syscall(SYS_unlink, files[i].image);
    return real_unlink(path);
}
