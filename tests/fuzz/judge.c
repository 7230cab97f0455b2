/* judge.c - what may not be, counted. */
#include "judge.h"

#include <stdarg.h>
#include <string.h>

#include "scene.h"

#define KINDS 256

static struct {
    char what[160];
    char example[200];
    long count;
} kind[KINDS];
static size_t kinds;
static char file_name[SCENE_NAME], state[200];

void judge_state(const char *file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(state, sizeof state, format, args);
    va_end(args);
    snprintf(file_name, sizeof file_name, "%.90s", file);
    scene_about("%s", state);
}

void judge_wrong(const char *format, ...) {
    char what[160], text[80];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(what, sizeof what, "%.60s: %s", file_name, text);
    size_t i = 0;
    while (i < kinds && strcmp(kind[i].what, what) != 0) i++;
    if (i == KINDS) return;
    if (i == kinds) {
        snprintf(kind[i].what, sizeof kind[i].what, "%s", what);
        snprintf(kind[i].example, sizeof kind[i].example, "%s", state);
        kinds++;
    }
    kind[i].count++;
}

size_t judge_told(void) {
    for (size_t i = 0; i < kinds; i++)
        printf("%8ld  %s\n          first: %s\n", kind[i].count, kind[i].what, kind[i].example);
    return kinds;
}

bool judge_ends_in(const char *name, const char *suffix) {
    size_t length = strlen(name), end = strlen(suffix);
    return length >= end && strcmp(name + length - end, suffix) == 0;
}
