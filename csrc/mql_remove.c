/* mql_remove.c - a partition's directory is taken away, with all that is in it.
 *
 * It has lost its name by then, and what is left when its remover dies goes with the next opener.
 */
#include "mql_remove.h"

#include "mql_base.h"

typedef struct emptying {
    mql_os_file directory;
    int failed;
} emptying;

static int remove_file(void *context, const char *name) {
    emptying *what = context;
    int rc = mql_os_unlink(what->directory, name);
    if (rc < 0) what->failed = rc;
    return 0;
}

/* A file, or a directory of files (groups, shares). */
static int remove_one(void *context, const char *name) {
    emptying *what = context;
    mql_os_stat stat;
    int rc = mql_os_stat_name(what->directory, name, &stat);
    if (rc == 0 && stat.kind != MQL_OS_DIRECTORY) return remove_file(context, name);
    emptying inner = {.directory = MQL_OS_NO_FILE};
    if (rc == 0) rc = mql_os_open_directory(what->directory, name, &inner.directory);
    if (rc == 0) rc = mql_os_list(inner.directory, remove_file, &inner);
    mql_os_close(inner.directory);
    if (rc == 0) rc = inner.failed;
    if (rc == 0) rc = mql_os_remove_directory(what->directory, name);
    if (rc < 0) what->failed = rc;
    return 0;
}

int mql_remove_directory(mql_os_file root, const char *directory) {
    emptying what = {.directory = MQL_OS_NO_FILE};
    int rc = mql_os_open_directory(root, directory, &what.directory);
    if (rc == 0) rc = mql_os_list(what.directory, remove_one, &what);
    mql_os_close(what.directory);
    if (rc == 0) rc = what.failed;
    if (rc == 0) rc = mql_os_remove_directory(root, directory);
    return rc < 0 ? mql_base_fail_os(rc, directory, "cannot remove what is left of a deleted topic")
                  : MQL_OK;
}
