/* mql_snapshot.c - how a partition stands to who only looks at it.
 *
 * Others may write meanwhile, and nothing holds them up: between the page and the files that it
 * speaks of the log may have rolled, and what was its last segment may have been rewritten under
 * the same name. So it is looked at twice: the file that was opened in between is the one with the
 * end if the end was still in that segment then. Where the log runs faster than that for long, the
 * last look counts.
 */
#include "mql_snapshot.h"

#include <stdio.h>

#define LOOKS_MOST 8

/* The page as it is now. False: there is none that can be read whole. */
static bool read_page(const mql_recover_task *how, mql_format_control *page,
                      mql_control_identity *identity) {
    char path[MQL_PATH_MAX];
    mql_os_file file;
    mql_os_stat stat;
    snprintf(path, sizeof path, "%s/control", how->directory);
    if (mql_os_open(how->root, path, MQL_OS_READ, 0, &file) < 0) return false;
    bool whole = mql_os_stat_file(file, &stat) == 0;
    if (whole) {
        identity->device = stat.device;
        identity->inode = stat.inode;
        identity->mount = stat.mount;
    }
    if (mql_os_read(file, page, sizeof *page, 0) != (int64_t)sizeof *page)
        memset(page, 0, sizeof *page);
    mql_os_close(file);
    return whole;
}

static int look(const mql_recover_task *how, mql_epoch_table *epochs, mql_recover_state *out) {
    mql_control_identity identity = *how->identity;
    mql_recover_task task = *how;
    mql_format_control *page = mql_os_allocate_memory(sizeof *page);
    if (page == NULL) return mql_base_fail(MQL_E_MEMORY, how->directory, "no memory");
    mql_epoch_free(epochs);
    task.identity = &identity;
    task.control = read_page(how, page, &identity) ? page : NULL;
    int rc = mql_recover_run(&task, epochs, out);
    if (rc < 0) mql_epoch_free(epochs);
    mql_os_free_memory(page);
    return rc;
}

static mql_segment *open_last(const mql_recover_task *how, int64_t base) {
    mql_segment_options options = {
        .root = how->root, .directory = how->directory, .read_only = true};
    mql_segment *segment;
    return mql_segment_open(&options, base, &segment) < 0 ? NULL : segment;
}

int mql_snapshot_take(const mql_recover_task *how, mql_epoch_table *epochs, mql_recover_state *out,
                      mql_segment **last) {
    *last = NULL;
    int64_t opened = -1;
    int rc = MQL_OK;
    for (int i = 0; i < LOOKS_MOST; i++) {
        rc = look(how, epochs, out);
        if (rc < 0) break;
        if (opened == out->end.segment && !out->behind) break;
        mql_segment_release(*last);
        *last = open_last(how, out->end.segment);
        opened = out->end.segment;
        if (!how->live) break;
    }
    if (rc >= 0) return rc;
    mql_segment_release(*last);
    *last = NULL;
    return rc;
}
