/* mql_group.c - consumer groups.
 *
 * A commit fills the slot that is not the current one and counts on: a death in between leaves the
 * current slot whole, a power cut loses at most what was not synced, and a flipped bit makes a slot
 * invalid, so that the older one speaks (records are then read again, never skipped).
 *
 * A partition's owner is one word, a member id. Ids are never given twice, and a dead process's ids
 * are told by the kernel (its byte lock is gone), so whoever finds a dead owner may put itself in
 * its place by one compare-and-swap.
 */
#include "mql_group.h"

#include <errno.h>
#include <stdio.h>

#define REMOVED UINT64_MAX /* as owner: the group was deleted */

struct mql_group {
    struct mql_group *next; /* of the log's list */
    mql_log *log;           /* borrows */
    mql_format_group *map;  /* owns; NULL in read-only stores */
    char name[MQL_NAME_MAX + 1];
    char path[MQL_PATH_MAX * 2];
};

/* -- two slots --------------------------------------------------------------------------------- */
typedef struct committed {
    int64_t offset;
    uint64_t sequence;
} committed;

static uint32_t crc_of(const committed *what) { return mql_crc32c(0, what, sizeof *what); }

/* The sound slot with the later sequence. False: there is none. */
static bool newest(const mql_format_group *bytes, committed *out) {
    bool any = false;
    for (unsigned i = 0; i < 2; i++) {
        const mql_format_commit *slot = &bytes->slots[i];
        committed what = {.offset = atomic_load_explicit(&slot->offset, memory_order_relaxed),
                          .sequence = atomic_load_explicit(&slot->sequence, memory_order_relaxed)};
        uint32_t crc = atomic_load_explicit(&slot->crc, memory_order_acquire);
        bool turn = mql_base_is_turn(what.sequence) && (what.sequence & 1) == i;
        if (!turn || crc != crc_of(&what) || what.offset < 0) continue;
        if (any && !mql_base_is_later_turn(what.sequence, out->sequence)) continue;
        *out = what;
        any = true;
    }
    return any;
}

/* -- opening ----------------------------------------------------------------------------------- */
static int not_a_group(const mql_group *group) {
    return mql_base_fail_corrupt(group->path, 0, -1, -1,
                                 "not a consumer group's file, or a damaged one: move it away");
}

/* Judges the 16 bytes that no CRC covers. MQL_END: they are not there yet, or damaged in a file
 * whose commits say that it is a group's. */
static int check_header(const mql_group *group, const mql_format_group *bytes) {
    static const uint8_t nothing[8] = {0};
    bool ours = memcmp(bytes->magic, MQL_GROUP_MAGIC, sizeof bytes->magic) == 0;
    if (ours && mql_format_is_newer(bytes->layout, bytes->oldest_writer))
        return mql_base_fail(MQL_E_FORMAT, group->path,
                             "written by a newer mqlog (layout %u, this one knows %u)",
                             bytes->layout, MQL_LAYOUT);
    if (ours && bytes->oldest_writer <= MQL_LAYOUT) return MQL_OK;
    committed what;
    bool fresh = memcmp(bytes->magic, nothing, sizeof nothing) == 0;
    return fresh || newest(bytes, &what) ? MQL_END : not_a_group(group);
}

/* Fills the slot that is not the current one. */
static void fill(mql_format_group *map, const committed *next) {
    mql_format_commit *slot = &map->slots[next->sequence & 1];
    atomic_store_explicit(&slot->crc, ~crc_of(next),
                          memory_order_relaxed); /* invalid while it is filled */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot->offset, next->offset, memory_order_relaxed);
    atomic_store_explicit(&slot->sequence, next->sequence, memory_order_relaxed);
    atomic_store_explicit(&slot->crc, crc_of(next), memory_order_release);
    atomic_store_explicit(&map->sequence, next->sequence, memory_order_release);
}

/* A file of another time than the log: who goes on from an offset that the log has not reached
 * would miss what comes there. Several openers may do this at once: they store the same bytes. */
static void clamp(const mql_group *group) {
    mql_control_end end;
    committed last;
    mql_log_end(group->log, &end);
    if (!newest(group->map, &last) || last.offset <= end.offset) return;
    committed next = {.offset = end.offset, .sequence = mql_base_next_turn(last.sequence)};
    fill(group->map, &next);
}

static int make_group(const mql_group *group, mql_os_file *file) {
    const mql_log_home *home = group->log->home;
    char directory[MQL_PATH_MAX];
    snprintf(directory, sizeof directory, "%s/groups", group->log->directory);
    int rc = mql_os_make_directory(home->root, directory, 0700);
    if (rc < 0 && rc != -EEXIST) return rc;
    return mql_os_open(home->root, group->path, MQL_OS_WRITE | MQL_OS_CREATE, home->mode, file);
}

/* A file is made under the gate, so that who deletes the group of a whole topic under it meets no
 * newcomer. */
static int open_group(const mql_group *group, bool create, mql_os_file *file) {
    const mql_log_home *home = group->log->home;
    int rc = mql_os_open(home->root, group->path, MQL_OS_WRITE, 0, file);
    if (rc == -ENOENT && create) {
        int gated = home->gate(home->context);
        if (gated != MQL_OK) return gated;
        rc = make_group(group, file);
        home->ungate(home->context);
    }
    if (rc == -ENOENT)
        return mql_base_fail(MQL_E_NOT_FOUND, group->path, "there is no such consumer group");
    return rc < 0 ? mql_base_fail_os(rc, group->path, "cannot open the consumer group") : MQL_OK;
}

static int map_group(mql_group *group, bool create) {
    mql_os_file file;
    int rc = open_group(group, create, &file);
    if (rc < 0) return rc;
    mql_os_stat stat;
    void *map = NULL;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && mql_os_lacks_blocks(&stat, MQL_GROUP_BYTES))
        rc = mql_os_allocate(file, 0, MQL_GROUP_BYTES);
    if (rc == 0) rc = mql_os_map(file, MQL_GROUP_BYTES, true, &map);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, group->path, "cannot map the consumer group");
    group->map = map;
    rc = check_header(group, map);
    if (rc >= 0) clamp(group);
    if (rc != MQL_END) return rc;
    /* Several openers may do this at once: they store the same bytes. */
    memcpy(group->map->magic, MQL_GROUP_MAGIC, sizeof group->map->magic);
    group->map->layout = MQL_LAYOUT;
    group->map->oldest_writer = MQL_OLDEST_WRITER;
    return MQL_OK;
}

static void unmap_group(mql_group *group) {
    if (group->map != NULL) mql_os_unmap(group->map, MQL_GROUP_BYTES);
    group->map = NULL;
}

/* Maps the group's file; one that was being deleted when its deleter died goes first. */
static int find_file(mql_group *group, bool create) {
    int rc = map_group(group, create);
    if (rc < 0 || atomic_load_explicit(&group->map->owner, memory_order_acquire) != REMOVED)
        return rc;
    mql_log_home *home = group->log->home;
    rc = home->gate(home->context);
    if (rc != MQL_OK) return rc;
    unmap_group(group);
    rc = map_group(group, false); /* again: it may have been made anew meanwhile */
    if (rc == MQL_OK && atomic_load_explicit(&group->map->owner, memory_order_acquire) == REMOVED) {
        mql_os_unlink(home->root, group->path);
        unmap_group(group);
        rc = map_group(group, create);
    } else if (rc == MQL_E_NOT_FOUND) {
        rc = map_group(group, create);
    }
    home->ungate(home->context);
    return rc;
}

static void lock(mql_log *log) { mql_os_mutex_take(&log->table, -1); }
static void unlock(mql_log *log) { mql_os_mutex_drop(&log->table); }

static mql_group *known_locked(mql_log *log, const char *name) {
    for (mql_group *group = log->groups; group != NULL; group = group->next)
        if (strcmp(group->name, name) == 0 &&
            (group->map == NULL ||
             atomic_load_explicit(&group->map->owner, memory_order_relaxed) != REMOVED))
            return group;
    return NULL;
}

static void free_group(mql_group *group) {
    unmap_group(group);
    mql_os_free_memory(group);
}

int mql_group_find(mql_log *log, const char *name, bool create, mql_group **out) {
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    lock(log);
    mql_group *group = known_locked(log, name);
    unlock(log);
    if (group == NULL) {
        group = mql_os_allocate_memory(sizeof *group);
        if (group == NULL)
            return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for a group");
        group->log = log;
        snprintf(group->name, sizeof group->name, "%s", name);
        snprintf(group->path, sizeof group->path, "%s/groups/%s.offset", log->directory, name);
        mql_os_stat stat;
        if (log->home->read_only)
            rc =
                mql_os_stat_name(log->home->root, group->path, &stat) < 0
                    ? mql_base_fail(MQL_E_NOT_FOUND, group->path, "there is no such consumer group")
                    : MQL_OK;
        else
            rc = find_file(group, create);
        if (rc < 0) {
            free_group(group);
            return rc;
        }
        lock(log);
        mql_group *other = known_locked(log, name);
        if (other == NULL) {
            group->next = log->groups;
            log->groups = group;
        }
        unlock(log);
        if (other != NULL) free_group(group);
        if (other != NULL) group = other;
    }
    *out = group;
    return MQL_OK;
}

void mql_group_unmap_all(mql_log *log) {
    for (mql_group *group = log->groups; group != NULL; group = group->next) unmap_group(group);
}

void mql_group_free_all(mql_log *log) {
    while (log->groups != NULL) {
        mql_group *group = log->groups;
        log->groups = group->next;
        free_group(group);
    }
}

/* -- committed offsets ------------------------------------------------------------------------- */
static int pick(const mql_group *group, const mql_format_group *bytes, int64_t *offset) {
    committed what;
    for (int i = 0; i < 1000; i++) {
        uint64_t sequence = atomic_load_explicit(&bytes->sequence, memory_order_acquire);
        if (newest(bytes, &what)) {
            *offset = what.offset;
            return MQL_OK;
        }
        if (!mql_base_is_turn(sequence)) {
            *offset = MQL_NO_OFFSET;
            return MQL_OK;
        }
    }
    return mql_base_fail_corrupt(
        group->path, (int64_t)offsetof(mql_format_group, slots), -1, -1,
        "both slots of the committed offset are damaged: seek and commit anew");
}

int mql_group_read(mql_group *group, int64_t *offset) {
    int rc = mql_log_usable(group->log);
    if (rc < 0) return rc;
    if (group->map != NULL) return pick(group, group->map, offset);
    mql_os_file file;
    rc = mql_os_open(group->log->home->root, group->path, MQL_OS_READ, 0, &file);
    if (rc < 0) return mql_base_fail_os(rc, group->path, "cannot open the consumer group");
    mql_format_group bytes;
    memset(&bytes, 0, sizeof bytes);
    int64_t got = mql_os_read(file, &bytes, sizeof bytes, 0);
    mql_os_close(file);
    if (got < 0) return mql_base_fail_os((int)got, group->path, "cannot read the consumer group");
    rc = check_header(group, &bytes);
    return rc < 0 ? rc : pick(group, &bytes, offset);
}

static int lost(const mql_group *group) {
    return mql_base_fail(MQL_E_LOST, group->path,
                         "this consumer does not own the partition (any more)");
}

/* The directory that holds the group's file, and the one that holds that; and the store's, unless
 * the first append has seen to it that the topic has its name there. */
static int sync_name(const mql_group *group) {
    mql_control_end end;
    mql_log_end(group->log, &end);
    char directory[MQL_PATH_MAX];
    snprintf(directory, sizeof directory, "%s/groups", group->log->directory);
    mql_os_file opened;
    int rc = mql_os_open_directory(group->log->home->root, directory, &opened);
    if (rc < 0) return rc;
    rc = mql_os_sync_directory(opened);
    mql_os_close(opened);
    if (rc == 0 && mql_log_sync_directory(group->log, end.offset == 0) < 0)
        rc = mql_base_error()->os_errno > 0 ? -mql_base_error()->os_errno : -EIO;
    return rc;
}

int mql_group_store(mql_group *group, uint64_t member, int64_t offset, bool durable) {
    int rc = mql_log_writable(group->log);
    if (rc < 0) return rc;
    mql_control_end end;
    mql_log_end(group->log, &end);
    if (offset < 0 || offset > end.offset)
        return mql_base_fail_range(offset, mql_log_start(group->log), end.offset);
    if (member == 0 || mql_group_holder(group) != member) return lost(group);
    mql_format_group *map = group->map;
    committed last = {0};
    (void)newest(map, &last);
    committed next = {.offset = offset, .sequence = mql_base_next_turn(last.sequence)};
    fill(map, &next);
    if (!durable) return MQL_OK;
    rc = mql_os_sync_map(map, MQL_GROUP_BYTES);
    if (rc == 0) rc = sync_name(group);
    if (rc == 0) return MQL_OK;
    (void)mql_base_fail(MQL_E_DURABILITY, group->path,
                        "the commit is in memory, but not known to be on disk");
    mql_base_error()->os_errno = -rc;
    return MQL_E_DURABILITY;
}

/* -- ownership --------------------------------------------------------------------------------- */
static bool forked(const mql_group *group) {
    return atomic_load_explicit(&group->log->home->gone, memory_order_acquire) == MQL_E_FORKED;
}
static bool dead(const mql_group *group, uint64_t member) {
    return !group->log->home->alive(group->log->home->context, member);
}

static bool removed(const mql_group *group) {
    return atomic_load_explicit(&group->map->owner, memory_order_acquire) == REMOVED;
}
static int deleted(const mql_group *group) {
    return mql_base_fail(MQL_E_NOT_FOUND, group->path, "the consumer group was deleted");
}

uint64_t mql_group_holder(mql_group *group) {
    if (group->map == NULL) return 0;
    uint64_t owner = atomic_load_explicit(&group->map->owner, memory_order_acquire);
    return owner == REMOVED ? 0 : owner;
}

uint64_t mql_group_living_holder(mql_group *group) {
    uint64_t owner = mql_group_holder(group);
    return owner != 0 && dead(group, owner) ? 0 : owner;
}

int mql_group_take(mql_group *group, uint64_t member) {
    int rc = mql_log_writable(group->log);
    if (rc < 0) return rc;
    uint64_t owner = atomic_load_explicit(&group->map->owner, memory_order_acquire);
    for (;;) {
        if (owner == member) return MQL_OK;
        if (owner == REMOVED) return deleted(group);
        if (owner != 0 && !dead(group, owner)) return MQL_BUSY;
        if (atomic_compare_exchange_strong_explicit(&group->map->owner, &owner, member,
                                                    memory_order_acq_rel, memory_order_acquire))
            return MQL_OK;
    }
}

void mql_group_release(mql_group *group, uint64_t member) {
    if (group->map == NULL || member == 0 || forked(group)) return;
    uint64_t owner = member;
    atomic_compare_exchange_strong_explicit(&group->map->owner, &owner, 0, memory_order_acq_rel,
                                            memory_order_relaxed);
}

int mql_group_enter(mql_group *group, uint64_t *member) {
    int rc = mql_log_writable(group->log);
    if (rc < 0) return rc;
    uint64_t id = group->log->home->new_member(group->log->home->context);
    for (int i = 0; i < MQL_MEMBERS_MAX; i++) {
        _Atomic uint64_t *slot = &group->map->members[i];
        uint64_t held = atomic_load_explicit(slot, memory_order_acquire);
        if (held != 0 && !dead(group, held)) continue;
        if (!atomic_compare_exchange_strong_explicit(slot, &held, id, memory_order_acq_rel,
                                                     memory_order_relaxed))
            continue;
        atomic_thread_fence(memory_order_seq_cst); /* pairs with remove_gated */
        if (!removed(group)) {
            *member = id;
            return MQL_OK;
        }
        mql_group_exit(group, id);
        return deleted(group);
    }
    return mql_base_fail(MQL_E_ARGUMENT, group->path, "a consumer group holds at most %d consumers",
                         MQL_MEMBERS_MAX);
}

void mql_group_exit(mql_group *group, uint64_t member) {
    if (group->map == NULL || member == 0 || forked(group)) return;
    for (int i = 0; i < MQL_MEMBERS_MAX; i++) {
        uint64_t held = member;
        if (atomic_compare_exchange_strong_explicit(&group->map->members[i], &held, 0,
                                                    memory_order_acq_rel, memory_order_relaxed))
            return;
    }
}

int mql_group_live(mql_group *group, uint64_t *members, int capacity) {
    int rc = mql_log_usable(group->log);
    if (rc < 0) return rc;
    int count = 0;
    for (int i = 0; group->map != NULL && i < MQL_MEMBERS_MAX && count < capacity; i++) {
        uint64_t held = atomic_load_explicit(&group->map->members[i], memory_order_acquire);
        if (held == 0) continue;
        if (dead(group, held)) {
            atomic_compare_exchange_strong_explicit(&group->map->members[i], &held, 0,
                                                    memory_order_acq_rel, memory_order_relaxed);
            continue;
        }
        int at = count++;
        for (; at > 0 && (members[at - 1] & MQL_MEMBER_COUNTER) > (held & MQL_MEMBER_COUNTER); at--)
            members[at] = members[at - 1];
        members[at] = held;
    }
    return count;
}

static bool has_members(const mql_group *group) {
    for (int i = 0; i < MQL_MEMBERS_MAX; i++) {
        uint64_t held = atomic_load_explicit(&group->map->members[i], memory_order_acquire);
        if (held != 0 && !dead(group, held)) return true;
    }
    return false;
}

/* Under the gate, so that no file made anew under the name is unlinked. Of who joins meanwhile and
 * this call, one at least sees the other, and gives up. */
static int remove_gated(mql_group *group) {
    uint64_t owner = atomic_load_explicit(&group->map->owner, memory_order_acquire);
    do {
        if (owner == REMOVED) return deleted(group);
        if ((owner != 0 && !dead(group, owner)) || has_members(group)) return MQL_BUSY;
    } while (!atomic_compare_exchange_strong_explicit(&group->map->owner, &owner, REMOVED,
                                                      memory_order_acq_rel, memory_order_acquire));
    atomic_thread_fence(memory_order_seq_cst); /* pairs with mql_group_enter */
    int rc = has_members(group) ? MQL_BUSY /* joined just now */
                                : mql_os_unlink(group->log->home->root, group->path);
    if (rc == 0 || rc == -ENOENT) return MQL_OK;
    atomic_store_explicit(&group->map->owner, 0, memory_order_release);
    return rc < 0 ? mql_base_fail_os(rc, group->path, "cannot remove the consumer group") : rc;
}

int mql_group_remove(mql_group *group) {
    mql_log_home *home = group->log->home;
    int rc = mql_log_writable(group->log);
    if (rc == MQL_OK) rc = home->gate(home->context);
    if (rc != MQL_OK) return rc;
    rc = remove_gated(group);
    home->ungate(home->context);
    return rc;
}

/* -- all of them ------------------------------------------------------------------------------- */
static const char suffix[] = ".offset";

typedef struct flooring {
    mql_log *log;
    int64_t floor;
    int count;
    int failed;
} flooring;

static int floor_one(void *context, const char *file) {
    flooring *all = context;
    size_t length = strlen(file), tail = sizeof suffix - 1;
    char name[MQL_NAME_MAX + 1];
    if (length <= tail || strcmp(file + length - tail, suffix) != 0) return 0;
    snprintf(name, sizeof name, "%.*s", (int)mql_base_min((int64_t)(length - tail), MQL_NAME_MAX),
             file);
    mql_group *group;
    int64_t offset = 0;
    int rc = mql_group_find(all->log, name, false, &group);
    if (rc == MQL_OK) rc = mql_group_read(group, &offset);
    if (rc == MQL_E_NOT_FOUND) return 0; /* deleted meanwhile */
    if (rc < 0) all->failed = rc;
    /* One that has committed nothing yet begins at the log start. */
    all->floor = mql_base_min(all->floor, mql_base_max(offset, 0));
    all->count++;
    return 0;
}

static int list_in(mql_log *log, const char *path, int (*each)(void *, const char *),
                   void *context) {
    mql_os_file opened;
    int rc = mql_os_open_directory(log->home->root, path, &opened);
    if (rc == -ENOENT) return MQL_OK;
    if (rc == 0) {
        rc = mql_os_list(opened, each, context);
        mql_os_close(opened);
    }
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot list the groups") : MQL_OK;
}

int mql_group_floor(mql_log *log, int64_t *floor, int *count) {
    flooring all = {.log = log, .floor = INT64_MAX};
    char path[MQL_PATH_MAX];
    snprintf(path, sizeof path, "%s/groups", log->directory);
    int rc = list_in(log, path, floor_one, &all);
    if (rc == MQL_OK) rc = all.failed;
    *floor = all.floor;
    *count = all.count;
    return rc;
}

int mql_group_sync(mql_log *log) {
    lock(log);
    mql_group *group = log->groups;
    unlock(log);
    int rc = 0;
    bool any = false;
    for (; rc == 0 && group != NULL; group = group->next) { /* the list only grows, in front */
        if (group->map == NULL || removed(group)) continue;
        /* Dirty again: a sync that failed has left the page clean. */
        atomic_fetch_or_explicit(&group->map->sequence, 0, memory_order_relaxed);
        rc = mql_os_sync_map(group->map, MQL_GROUP_BYTES);
        if (rc == 0 && !any) rc = sync_name(group);
        any = true;
    }
    return rc < 0 ? mql_base_fail_os(rc, log->directory, "cannot sync the consumer groups")
                  : MQL_OK;
}

typedef struct comparing {
    mql_log *log;
    const char *kind, *suffix;
    int absent;
} comparing;

static int compare_one(void *context, const char *file) {
    comparing *with = context;
    size_t length = strlen(file), tail = strlen(with->suffix);
    char path[MQL_PATH_MAX * 2];
    mql_os_stat stat;
    if (length <= tail || strcmp(file + length - tail, with->suffix) != 0) return 0;
    snprintf(path, sizeof path, "%s/%s/%s", with->log->directory, with->kind, file);
    if (mql_os_stat_name(with->log->home->root, path, &stat) < 0) with->absent++;
    return 0;
}

int mql_group_absent(mql_log *log, const char *kind, const char *tail, int *absent) {
    comparing with = {.log = log, .kind = kind, .suffix = tail};
    char path[MQL_PATH_MAX * 2];
    snprintf(path, sizeof path, "%s-0/%s", log->topic, kind);
    int rc = log->partition == 0 ? MQL_OK : list_in(log, path, compare_one, &with);
    *absent = with.absent;
    return rc;
}
