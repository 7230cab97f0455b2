/* mql_sweep.c - what a store's first opener finds in its directory.
 *
 * Nobody else has the store open then, so what is there is counted once and kept count of after,
 * and what a dead process was about to remove is removed. It is counted again when somebody has
 * died between a change and its count.
 */
#include "mql_sweep.h"

#include <errno.h>

#include "mql_base.h"
#include "mql_remove.h"

/* Sums what the store's logs and indexes take, for max_bytes. */
typedef struct summing {
    mql_os_file root;
    int64_t bytes;
    int rc; /* the last failure: something is not counted */
} summing;

static void note(summing *sum, int rc) {
    if (rc < 0 && rc != -ENOENT) sum->rc = rc; /* what has just gone is nothing */
}

static int sum_file(void *context, const char *name) {
    summing *sum = context;
    mql_os_stat stat;
    int rc = mql_os_stat_name(sum->root, name, &stat);
    if (rc == 0 && stat.kind == MQL_OS_REGULAR) sum->bytes += stat.size;
    note(sum, rc);
    return 0;
}

static int sum_directory(void *context, const char *name) {
    summing *sum = context;
    mql_os_stat stat;
    int rc = mql_os_stat_name(sum->root, name, &stat);
    note(sum, rc);
    if (rc < 0 || stat.kind != MQL_OS_DIRECTORY) return 0;
    summing inner = {0};
    rc = mql_os_open_directory(sum->root, name, &inner.root);
    note(sum, rc);
    if (rc < 0) return 0;
    note(sum, mql_os_list(inner.root, sum_file, &inner));
    mql_os_close(inner.root);
    note(sum, inner.rc);
    sum->bytes += inner.bytes;
    return 0;
}

int mql_sweep_used(mql_os_file root, int64_t *bytes) {
    summing sum = {.root = root};
    note(&sum, mql_os_list(root, sum_directory, &sum));
    *bytes = sum.bytes;
    return sum.rc;
}

/* "<topic>-<n>.<32 hex>-delete": a deleted partition whose remover died. */
static int remove_deleted(void *context, const char *name) {
    static const char tail[] = "-delete";
    size_t length = strlen(name), most = 32 + sizeof tail - 1;
    if (length < most + 4 || strcmp(name + length - (sizeof tail - 1), tail) != 0) return 0;
    const char *hex = name + length - most;
    if (hex[-1] != '.' || strspn(hex, "0123456789abcdef") != 32) return 0;
    const mql_os_file *root = context;
    (void)mql_remove_directory(*root, name); /* if it cannot be now, then by the next opener */
    return 0;
}

void mql_sweep_deleted(mql_os_file root) { mql_os_list(root, remove_deleted, &root); }
