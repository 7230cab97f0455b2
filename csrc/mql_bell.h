/* mql_bell.h - the doorbell's page, which all who have a store open share. */
#ifndef MQL_BELL_H
#define MQL_BELL_H

#include "mql_log.h"

/* Maps it to home->bell; the file is made if need be. */
int mql_bell_map(mql_log_home *home);
/* What the first opener does. Under the gate. */
void mql_bell_reset(mql_log_home *home, const mql_open_options *options);
/* Whether this process may share it with those who have the store open; `path`: the store's. */
int mql_bell_check(const mql_log_home *home, const char *path);

#endif
