/* patch.h - hostile bytes as a short list of changes to sound ones, so that a corpus is small, fits
 * every machine, and what a fuzzer changes in it is a field and not a place among zeros.
 *
 *   | place 2 | what 1 | ... |   little-endian; `what`: two high bits, and a count n of 1 .. 64
 *   00: n bytes follow         01: n times the 8-byte value that the next byte names
 *   10: n * 8 bytes from the place in the next two bytes        11: the file ends at the place
 */
#ifndef PATCH_H
#define PATCH_H

#include <stddef.h>
#include <stdint.h>

#define PATCH_BYTES_MAX 65536

typedef struct patch_file {
    uint8_t bytes[PATCH_BYTES_MAX + 512];
    size_t length;
} patch_file;

void patch_apply(patch_file *file, const uint8_t *data, size_t size);

/* Adds a change to the list, takes one away, or changes one; mostly of bytes that `sound` uses.
 * Returns the new size. */
size_t patch_mutate(uint8_t *data, size_t size, size_t most, const patch_file *sound,
                    unsigned seed);

#endif
