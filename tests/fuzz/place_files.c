/* place_files.c - a store in a directory. */
#define _GNU_SOURCE
#include "place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 512

static int open_below(const char *root, const char *name, int flags) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

void place_make(char path[SCENE_PATH]) {
    if (mkdir(path, 0755) < 0) scene_violation("cannot make %s: %s", path, strerror(errno));
}

void place_filled(const char *path) { (void)path; }

/* Everything that is no directory of the store's, three levels deep. */
typedef void each_file(void *context, const char *name, const char *path);

static void walk(const char *root, const char *below, each_file *each, void *context) {
    char path[PATH_BYTES], name[SCENE_NAME + 1];
    snprintf(path, sizeof path, "%s/%s", root, below);
    DIR *directory = opendir(path);
    if (directory == NULL) return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(name, sizeof name, "%.40s%s%.50s", below, below[0] ? "/" : "", entry->d_name);
        snprintf(path, sizeof path, "%s/%s", root, name);
        bool ours = strcmp(name, "t-0") == 0 || strcmp(name, "t-0/groups") == 0 ||
                    strcmp(name, "t-0/shares") == 0;
        if (ours && entry->d_type == DT_DIR)
            walk(root, name, each, context);
        else
            each(context, name, path);
    }
    closedir(directory);
}

typedef struct visiting {
    place_visit *visit;
    void *context;
} visiting;

static void visit_one(void *context, const char *name, const char *path) {
    const visiting *to = context;
    struct stat stat;
    if (lstat(path, &stat) == 0) to->visit(to->context, name, stat.st_blocks * 512);
}

void place_each(const char *path, place_visit *visit, void *context) {
    walk(path, "", visit_one, &(visiting){visit, context});
}

uint8_t *place_read(const char *path, const char *name, size_t *length) {
    struct stat stat = {.st_size = 0};
    int file = open_below(path, name, O_RDONLY);
    bool fine = file >= 0 && fstat(file, &stat) == 0;
    uint8_t *bytes = malloc((size_t)stat.st_size + 1);
    if (!fine || bytes == NULL || read(file, bytes, (size_t)stat.st_size) != stat.st_size)
        scene_violation("cannot read %s/%s", path, name);
    close(file);
    *length = (size_t)stat.st_size;
    return bytes;
}

void place_write(const char *path, const char *name, const void *bytes, size_t length) {
    struct stat stat;
    int file = open_below(path, name, O_WRONLY | O_CREAT);
    bool fine = file >= 0 && fstat(file, &stat) == 0 &&
                pwrite(file, bytes, length, 0) == (ssize_t)length &&
                (stat.st_size <= (off_t)length || ftruncate(file, (off_t)length) == 0);
    if (!fine) scene_violation("cannot write %s/%s: %s", path, name, strerror(errno));
    close(file);
}

void place_poke(const char *path, const char *name, size_t at, uint8_t byte) {
    int file = open_below(path, name, O_WRONLY);
    if (file < 0 || pwrite(file, &byte, 1, (off_t)at) != 1)
        scene_violation("cannot write %s/%s: %s", path, name, strerror(errno));
    close(file);
}

static const scene_file *named(const scene *the, const char *name) {
    for (size_t i = 0; i < the->count; i++)
        if (strcmp(the->files[i].name, name) == 0) return &the->files[i];
    return NULL;
}

static void remove_other(void *context, const char *name, const char *path) {
    struct stat stat;
    const bool stays = named(context, name) != NULL && lstat(path, &stat) == 0 &&
                       S_ISREG(stat.st_mode) && stat.st_nlink == 1;
    if (stays) return;
    if (unlink(path) < 0 && rmdir(path) < 0) scene_violation("cannot remove %s", path);
}

void place_restore(const scene *the) {
    walk(the->path, "", remove_other, (void *)the);
    for (size_t i = 0; i < the->count; i++)
        place_write(the->path, the->files[i].name, the->files[i].bytes, the->files[i].length);
}

static void remove_any(void *context, const char *name, const char *path) {
    (void)context, (void)name;
    unlink(path);
}

void place_remove(const char *root) {
    static const char *const directories[] = {"/t-0/groups", "/t-0/shares", "/t-0", ""};
    char path[PATH_BYTES];
    walk(root, "", remove_any, NULL);
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", root, directories[i]);
        rmdir(path);
    }
}
