/* mql_remove.h - a partition's directory is taken away, with all that is in it. */
#ifndef MQL_REMOVE_H
#define MQL_REMOVE_H

#include "mql_os.h"

/* Removes a directory of files, and of directories of files. */
int mql_remove_directory(mql_os_file root, const char *directory);

#endif
