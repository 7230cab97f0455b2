/* replay.c - runs each input that a fuzzer has kept, without one: replay <a file of hex lines> */
#include "fuzz.h"
#include "scene.h"

#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX 65536

static int digit(int letter) {
    if (letter >= '0' && letter <= '9') return letter - '0';
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* The next line's bytes, in memory that ends where they do; NULL: there is none. */
static uint8_t *read_input(FILE *file, size_t *size) {
    static uint8_t data[INPUT_MAX];
    int high, low;
    *size = 0;
    while ((high = digit(getc(file))) >= 0 && (low = digit(getc(file))) >= 0) {
        if (*size == INPUT_MAX) exit(2);
        data[(*size)++] = (uint8_t)(high << 4 | low);
    }
    if (*size == 0) return NULL;
    uint8_t *exact = malloc(*size);
    if (exact == NULL) exit(2);
    for (size_t i = 0; i < *size; i++) exact[i] = data[i];
    return exact;
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (file == NULL) return 2;
    long inputs = 0;
    uint8_t *data;
    size_t size;
    scene_watch(60); /* a fuzzer has its own */
    LLVMFuzzerInitialize(&argc, &argv);
    while ((data = read_input(file, &size)) != NULL) {
        LLVMFuzzerTestOneInput(data, size);
        free(data);
        inputs++;
    }
    fclose(file);
    printf("%ld states, 0 violations\n", inputs);
    return 0;
}
