/* fuzz_file.c - a store of which one file is hostile, opened and used. FUZZ_FILES: which file, or
 * which two, one of them chosen by the input.
 *
 * The first byte of an input: 1: not mended, its checks are as wrong as they are; 2: the store was
 * killed; 4: opened for writing; 8: the second file; 16: the rest is the file itself, not a patch.
 */
#include "fuzz.h"
#include "mend.h"
#include "patch.h"
#include "place.h"
#include "scene.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const files[] = {FUZZ_FILES};
#define COUNT (sizeof files / sizeof *files)

static scene stores[2];
static patch_file hostile;

static void clean_up(void) {
    for (int i = 0; i < 2; i++) scene_remove(&stores[i]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    char path[100];
    for (int i = 0; i < 2; i++) {
        const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(path, sizeof path, "%s/mqlog-fuzz-%d-%d", memory, (int)getpid(), i);
        scene_make(&stores[i], path, (enum scene_end)i);
    }
    atexit(clean_up);
    return 0;
}

/* Half of the time what knows the list of changes mutates it, else what knows nothing. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    bool plain = size < 1 || (data[0] & 16) != 0 || seed % 4 == 0;
    if (plain && LLVMFuzzerMutate != NULL) return LLVMFuzzerMutate(data, size, most);
    if (size < 1 || most < 1) return size;
    if (seed % 16 == 1) data[0] ^= (uint8_t)(1u << (seed / 16 % 4));
    const scene *store = &stores[(data[0] & 2) != 0];
    const scene_file *file = scene_find(store, files[(data[0] & 8) != 0 ? COUNT - 1 : 0]);
    if (file == NULL) return size;
    hostile.length = file->length;
    memcpy(hostile.bytes, file->bytes, file->length);
    return 1 + patch_mutate(data + 1, size - 1, most - 1, &hostile, seed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    uint8_t how = data[0];
    const scene *store = &stores[(how & 2) != 0];
    const scene_file *file = scene_find(store, files[(how & 8) != 0 ? COUNT - 1 : 0]);
    if (file == NULL) return 0;
    scene_about("input %02x of %zu bytes, for %s", how, size, file->name);
    memset(hostile.bytes, 0, sizeof hostile.bytes);
    hostile.length = file->length;
    memcpy(hostile.bytes, file->bytes, file->length);
    if ((how & 16) != 0) {
        hostile.length = size - 1 < PATCH_BYTES_MAX ? size - 1 : PATCH_BYTES_MAX;
        memcpy(hostile.bytes, data + 1, hostile.length);
    } else {
        patch_apply(&hostile, data + 1, size - 1);
    }
    if ((how & 1) == 0)
        mend_file(file->name, hostile.bytes, hostile.length, file->bytes, file->length);
    scene_forged = strstr(file->name, ".log") != NULL ? SCENE_LOG_FORGED : SCENE_REST_FORGED;
    scene_seen seen;
    place_restore(store);
    place_write(store->path, file->name, hostile.bytes, hostile.length);
    int before = dup(0);
    close(before);
    if ((how & 4) != 0)
        scene_use(store, 1, &seen);
    else
        scene_look(store, &seen);
    int after = dup(0);
    close(after);
    if (before != after) scene_violation("a descriptor is left open");
    return 0;
}
