/* mql_epoch.c - leader-epoch-checkpoint: text, "0\n<count>\n", then "<epoch> <start offset>\n"
 * lines. */
#include "mql_epoch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define LINE_MAX_BYTES 40
#define FILE_MAX_BYTES (64 + MQL_EPOCH_MAX * LINE_MAX_BYTES)

/* Takes one decimal number and the separator behind it off the text; NULL: there is none. */
static const char *number(const char *at, const char *end, char separator, int64_t *out) {
    int64_t value = 0;
    const char *start = at;
    for (; at < end && *at >= '0' && *at <= '9'; at++) {
        int64_t digit = *at - '0';
        if (value > (INT64_MAX - digit) / 10) return NULL;
        value = value * 10 + digit;
    }
    if (at == start || at >= end || *at != separator) return NULL;
    *out = value;
    return at + 1;
}

static int parse(const char *at, const char *end, mql_epoch_table *table) {
    int64_t version, count;
    at = number(at, end, '\n', &version);
    if (at == NULL || version != 0) return MQL_END;
    at = number(at, end, '\n', &count);
    if (at == NULL || count < 1 || count > MQL_EPOCH_MAX) return MQL_END;
    table->entries = mql_os_allocate_memory((size_t)count * sizeof *table->entries);
    if (table->entries == NULL) return mql_base_fail(MQL_E_MEMORY, MQL_EPOCH_FILE, "no memory");
    int64_t last_epoch = -1, last_start = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t epoch, start;
        at = number(at, end, ' ', &epoch);
        if (at != NULL) at = number(at, end, '\n', &start);
        if (at == NULL || epoch <= last_epoch || epoch > INT32_MAX || start < last_start) {
            mql_epoch_free(table);
            return MQL_END;
        }
        last_epoch = epoch;
        last_start = start;
        table->entries[i] = (mql_epoch_entry){.start = start, .epoch = (int32_t)epoch};
    }
    if (at != end) {
        mql_epoch_free(table);
        return MQL_END;
    }
    table->count = (size_t)count;
    return MQL_OK;
}

int mql_epoch_load(mql_os_file root, const char *directory, mql_epoch_table *out) {
    *out = (mql_epoch_table){0};
    char path[MQL_PATH_MAX];
    snprintf(path, sizeof path, "%s/" MQL_EPOCH_FILE, directory);
    mql_os_file file;
    int rc = mql_os_open(root, path, MQL_OS_READ, 0, &file);
    if (rc == -ENOENT) return MQL_END;
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    char *text = mql_os_allocate_memory(FILE_MAX_BYTES);
    if (text == NULL) {
        mql_os_close(file);
        return mql_base_fail(MQL_E_MEMORY, path, "no memory");
    }
    int64_t length = mql_os_read(file, text, FILE_MAX_BYTES, 0);
    mql_os_close(file);
    rc = length < 0 ? mql_base_fail_os((int)length, path, "cannot read")
                    : parse(text, text + length, out);
    mql_os_free_memory(text);
    return rc;
}

static int write_whole(mql_os_file root, const char *path, const mql_epoch_table *table,
                       uint32_t mode, bool durable) {
    mql_os_file file;
    int rc = mql_os_open(root, path, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_TRUNCATE, mode, &file);
    if (rc < 0) return rc;
    char line[LINE_MAX_BYTES + 24];
    int64_t position = 0;
    int length = snprintf(line, sizeof line, "0\n%zu\n", table->count);
    for (size_t i = 0; rc == 0; i++) {
        rc = mql_os_write(file, line, (size_t)length, position);
        position += length;
        if (i == table->count) break;
        length = snprintf(line, sizeof line, "%" PRId32 " %" PRId64 "\n", table->entries[i].epoch,
                          table->entries[i].start);
    }
    if (rc == 0 && durable) rc = mql_os_sync(file);
    mql_os_close(file);
    return rc;
}

int mql_epoch_save(mql_os_file root, const char *directory, const mql_epoch_table *table,
                   uint32_t mode, bool durable) {
    char path[MQL_PATH_MAX], temporary[MQL_PATH_MAX];
    snprintf(path, sizeof path, "%s/" MQL_EPOCH_FILE, directory);
    snprintf(temporary, sizeof temporary, "%s/" MQL_EPOCH_FILE ".tmp", directory);
    int rc = write_whole(root, temporary, table, mode, durable);
    if (rc == 0) rc = mql_os_rename(root, temporary, path);
    mql_os_file opened = MQL_OS_NO_FILE;
    if (rc == 0 && durable) rc = mql_os_open_directory(root, directory, &opened);
    if (rc == 0 && durable) rc = mql_os_sync_directory(opened);
    mql_os_close(opened);
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot write the epochs") : MQL_OK;
}

int mql_epoch_add(mql_epoch_table *table, int32_t epoch, int64_t start) {
    size_t keep = table->count;
    while (keep > 0 && table->entries[keep - 1].start >= start) keep--;
    size_t skip = keep >= MQL_EPOCH_MAX ? keep - MQL_EPOCH_MAX + 1 : 0;
    mql_epoch_entry *entries = mql_os_allocate_memory((keep - skip + 1) * sizeof *entries);
    if (entries == NULL) return mql_base_fail(MQL_E_MEMORY, MQL_EPOCH_FILE, "no memory");
    if (keep > skip) memcpy(entries, table->entries + skip, (keep - skip) * sizeof *entries);
    entries[keep - skip] = (mql_epoch_entry){.start = start, .epoch = epoch};
    mql_os_free_memory(table->entries);
    table->entries = entries;
    table->count = keep - skip + 1;
    return MQL_OK;
}

int32_t mql_epoch_at(const mql_epoch_table *table, int64_t offset, int64_t *next_start) {
    size_t low = 0, high = table->count; /* entries below low start at or before the offset */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->entries[middle].start <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    *next_start = low < table->count ? table->entries[low].start : INT64_MAX;
    return low == 0 ? -1 : table->entries[low - 1].epoch;
}

void mql_epoch_free(mql_epoch_table *table) {
    mql_os_free_memory(table->entries);
    *table = (mql_epoch_table){0};
}
