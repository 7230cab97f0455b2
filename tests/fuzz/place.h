/* place.h - where the store of a scene lies: in a directory (place_files.c), or on a simulated disk
 * in memory (place_memory.c), where a state costs a tenth. Programs are linked with one of them.
 */
#ifndef PLACE_H
#define PLACE_H

#include <stddef.h>
#include <stdint.h>

#include "scene.h"

/* A new place at `path`, empty; one in memory has a path of its own, and says so. */
void place_make(char path[SCENE_PATH]);
/* The process that filled it has ended. */
void place_filled(const char *path);
void place_remove(const char *path);
/* Every file of it is as it was when it had been filled, and no other is there. */
void place_restore(const scene *the);

/* Each file, by its name within the store, and the bytes of disk that it has. */
typedef void place_visit(void *context, const char *name, int64_t bytes);
void place_each(const char *path, place_visit *visit, void *context);
/* Owned by the caller. */
uint8_t *place_read(const char *path, const char *name, size_t *length);
/* The file's bytes are these; its inode stays. */
void place_write(const char *path, const char *name, const void *bytes, size_t length);
void place_poke(const char *path, const char *name, size_t at, uint8_t byte);

#endif
