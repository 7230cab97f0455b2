/* place_memory.c - a store on a simulated disk: support/sim_disk.c. A second one keeps what it was
 * when it had been filled. Who leaves a descriptor or a mapping behind, or stores behind the end of
 * a file, is told of. */
#include "place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_disk.h"

#define STRAYS_ONE_IN 16

enum { USED = 0, KEPT = 1 };

void place_make(char path[SCENE_PATH]) {
    snprintf(path, SCENE_PATH, "/simulated/%d", USED);
    sim_disk_share();
    sim_now.free_bytes = UINT64_C(1) << 39;
    sim_disk_format(sim_disk_get(USED));
}

void place_filled(const char *path) {
    (void)path;
    sim_disk_forget_holders(sim_disk_get(USED));
    sim_disk_copy(sim_disk_get(USED), sim_disk_get(KEPT));
}

void place_remove(const char *path) {
    (void)path;
    sim_disk_format(sim_disk_get(USED));
}

void place_restore(const scene *the) {
    (void)the;
    sim_disk *disk = sim_disk_get(USED);
    if (sim_disk_held(disk) > 0) scene_violation("a descriptor or a mapping is left");
    if (sim_now.wrong_closes > 0) scene_violation("what was not open is closed");
    static int turn;
    if (turn++ % STRAYS_ONE_IN == 0) sim_disk_strays(disk);
    if (sim_now.strays > 0) scene_violation("a store behind the end of a file");
    sim_disk_copy(sim_disk_get(KEPT), disk);
}

void place_each(const char *path, place_visit *visit, void *context) {
    (void)path;
    const sim_disk *disk = sim_disk_get(USED);
    for (int i = 0; i < disk->inode_count; i++) {
        char name[256];
        if (!disk->inodes[i].used || disk->inodes[i].directory) continue;
        sim_disk_path(disk, i, name);
        visit(context, name, disk->inodes[i].size);
    }
}

static sim_inode *inode_of(const char *name) {
    sim_disk *disk = sim_disk_get(USED);
    int number = sim_disk_find(disk, name);
    if (number == SIM_NONE) scene_violation("%s is not there", name);
    return &disk->inodes[number];
}

uint8_t *place_read(const char *path, const char *name, size_t *length) {
    (void)path;
    const sim_inode *inode = inode_of(name);
    *length = (size_t)inode->size;
    uint8_t *bytes = malloc(*length + 1);
    if (bytes == NULL) scene_violation("no memory");
    memcpy(bytes, inode->bytes, *length);
    return bytes;
}

void place_write(const char *path, const char *name, const void *bytes, size_t length) {
    (void)path;
    if (sim_disk_put(sim_disk_get(USED), name, bytes, length) < 0)
        scene_violation("cannot write %s", name);
}

void place_poke(const char *path, const char *name, size_t at, uint8_t byte) {
    (void)path;
    inode_of(name)->bytes[at] = byte;
}
