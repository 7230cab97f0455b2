#define _GNU_SOURCE
#include "stepping.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES_MAX 64
#define LIST_MAX 16
#define ANCHOR_FAR 400 /* steps; a breakpoint nearer than that is looked for */

/* -- what would be left behind ----------------------------------------------------------------- */
typedef struct file {
    ino_t inode;
    size_t size;
    uint8_t *map;  /* owns: of the file itself */
    uint8_t *copy; /* owns: as it was after the last step */
} file;

typedef struct world {
    pid_t pid;
    const char *directory;
    file files[FILES_MAX];
    size_t count;
    uint64_t list[LIST_MAX]; /* the robust list, as the kernel would walk it */
} world;

static void drop_file(file *one) {
    if (one->map != NULL) munmap(one->map, one->size);
    free(one->copy);
    *one = (file){0};
}

/* A file is one by its inode, whatever it is called. */
static void add_file(world *now, int directory, const char *name) {
    struct stat stat;
    int descriptor = openat(directory, name, O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &stat) < 0 || now->count == FILES_MAX) abort();
    file *one = &now->files[now->count++];
    *one = (file){.inode = stat.st_ino, .size = (size_t)stat.st_size};
    if (one->size > 0) {
        one->map = mmap(NULL, one->size, PROT_READ, MAP_SHARED, descriptor, 0);
        if (one->map == MAP_FAILED) abort();
        one->copy = malloc(one->size);
        memcpy(one->copy, one->map, one->size);
    }
    close(descriptor);
}

static void scan(world *now, int parent, const char *name) {
    int descriptor = openat(parent, name, O_RDONLY | O_DIRECTORY);
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        if (entry->d_type == DT_DIR)
            scan(now, descriptor, entry->d_name);
        else
            add_file(now, descriptor, entry->d_name);
    }
    if (directory != NULL) closedir(directory);
}

static void rescan(world *now) {
    while (now->count > 0) drop_file(&now->files[--now->count]);
    scan(now, AT_FDCWD, now->directory);
}

static bool files_changed(world *now) {
    bool changed = false;
    for (size_t i = 0; i < now->count; i++) {
        file *one = &now->files[i];
        if (memcmp(one->map, one->copy, one->size) == 0) continue;
        memcpy(one->copy, one->map, one->size);
        changed = true;
    }
    return changed;
}

static bool peek(pid_t pid, uint64_t address, void *out, size_t length) {
    struct iovec here = {out, length}, there = {(void *)address, length};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)length;
}

static bool list_changed(world *now) {
    uint64_t list[LIST_MAX] = {0};
    struct robust_list_head *head = NULL;
    size_t length = 0, count = 3;
    if (syscall(SYS_get_robust_list, now->pid, &head, &length) == 0 && head != NULL &&
        peek(now->pid, (uint64_t)head, list, 3 * sizeof *list)) {
        uint64_t at = list[0] & ~UINT64_C(1);
        while (at != (uint64_t)head && count < LIST_MAX && peek(now->pid, at, &list[count], 8))
            at = list[count++] & ~UINT64_C(1);
    }
    if (memcmp(list, now->list, sizeof list) == 0) return false;
    memcpy(now->list, list, sizeof list);
    return true;
}

/* -- steps ------------------------------------------------------------------------------------- */
uint64_t step_address(pid_t pid) {
    return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0);
}

/* Its first instruction is where a traced process stops. Tracer and traced are one program, forked:
 * code lies at the same addresses. */
__asm__(".text\n.globl step_mark\n.type step_mark, @function\nstep_mark: int3\n ret\n");
static bool is_mark(uint64_t at) { return at == (uint64_t)step_mark; }
static bool is_system_call(uint64_t at) {
    const uint8_t *code = (const uint8_t *)at;
    return code[0] == 0x0f && code[1] == 0x05;
}

bool step_at_mark(pid_t pid) { return is_mark(step_address(pid)); }

bool step_past_mark(pid_t pid) { return is_mark(step_address(pid) - 1); }

static bool wait_stopped(pid_t pid, int *why) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return false;
    *why = status;
    return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

bool step_to_mark(pid_t pid, int *why) { return wait_stopped(pid, why); }

bool step_once(pid_t pid, int *why) {
    if (step_at_mark(pid)) return false;
    if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0) return false;
    return wait_stopped(pid, why);
}

int step_poll(pid_t pid, int *why) {
    int status;
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == 0) return 0;
    if (got < 0) return -1;
    *why = status;
    return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP ? 1 : -1;
}

/* -- traces ------------------------------------------------------------------------------------ */
static void note(trace *out, uint64_t at, bool news) {
    if (out->count == out->capacity) {
        out->capacity = 2 * out->capacity + 4096;
        out->steps = realloc(out->steps, out->capacity * sizeof *out->steps);
    }
    out->steps[out->count++] = (step){.at = at, .news = news};
    out->news += news;
}

static int by_address(const void *one, const void *other) {
    const step *const *a = one, *const *b = other;
    if ((*a)->at != (*b)->at) return (*a)->at < (*b)->at ? -1 : 1;
    return *a < *b ? -1 : 1;
}

/* An instruction that repeats itself comes once. */
static void count_occurrences(trace *out) {
    const step **order = malloc(out->count * sizeof *order);
    for (size_t i = 0; i < out->count; i++) order[i] = &out->steps[i];
    qsort(order, out->count, sizeof *order, by_address);
    uint32_t occurrence = 0;
    for (size_t i = 0; i < out->count; i++) {
        if (i > 0 && order[i]->at != order[i - 1]->at) occurrence = 0;
        bool again = occurrence > 0 && order[i] == order[i - 1] + 1;
        if (!again) occurrence++;
        out->steps[order[i] - out->steps].occurrence = occurrence;
    }
    free(order);
}

bool step_trace(pid_t pid, const char *directory, trace *out, int *why) {
    world now = {.pid = pid, .directory = directory};
    uint64_t at = step_address(pid);
    rescan(&now);
    list_changed(&now);
    note(out, at, true);
    bool fine = true;
    while (fine && !is_mark(at)) {
        bool call = is_system_call(at);
        fine = step_once(pid, why);
        if (!fine) break;
        at = step_address(pid);
        bool news = list_changed(&now) || call;
        if (call) rescan(&now); /* files may be shorter, too */
        if (!call && files_changed(&now)) news = true;
        note(out, at, news);
    }
    while (now.count > 0) drop_file(&now.files[--now.count]);
    if (fine) count_occurrences(out);
    return fine;
}

void step_forget(trace *trace) {
    free(trace->steps);
    memset(trace, 0, sizeof *trace);
}

uint32_t step_occurrences(const trace *steps, size_t from, size_t to) {
    uint64_t address = steps->steps[to].at;
    uint32_t count = 0;
    if (to == 0 || steps->steps[to - 1].at == address) return 0;
    for (size_t i = from + 1; i <= to; i++)
        count += steps->steps[i].at == address && steps->steps[i - 1].at != address;
    return count;
}

static void arm(pid_t pid, uint64_t address) {
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 0);
    if (address == 0) return;
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), address);
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 1);
}

void step_run(pid_t pid, uint64_t address) {
    arm(pid, address);
    ptrace(PTRACE_CONT, pid, 0, 0);
}

static bool runs_to(pid_t pid, uint64_t address, uint32_t times) {
    int why;
    bool fine = true;
    for (uint32_t i = 0; fine && i < times; i++) {
        step_run(pid, address);
        fine = wait_stopped(pid, &why) && step_address(pid) == address;
    }
    arm(pid, 0);
    return fine;
}

/* The step from which `index` is reached in the fewest stops; 0: from the start. */
static size_t anchor(const trace *steps, size_t index) {
    size_t best = 0, cost = index, far = index > ANCHOR_FAR ? index - ANCHOR_FAR : 1;
    for (size_t i = index; i >= far && i > 0; i--) {
        if (index - i >= cost) break;
        if (steps->steps[i].at == steps->steps[i - 1].at) continue;
        size_t stops = index - i + steps->steps[i].occurrence;
        if (stops < cost) cost = stops, best = i;
    }
    return best;
}

bool step_until(pid_t pid, const trace *steps, size_t index, bool *strayed) {
    int why;
    size_t at = anchor(steps, index);
    bool fine = at == 0 || runs_to(pid, steps->steps[at].at, steps->steps[at].occurrence);
    while (fine && at < index) {
        fine = step_once(pid, &why);
        at++;
    }
    uint64_t here = step_address(pid);
    *strayed = !fine || here != steps->steps[index].at;
    return fine || is_mark(here) || is_mark(here - 1); /* it came to its end earlier */
}
