/* mql_verify.h - reads every batch and every index entry of a partition and says what is wrong
 * where. */
#ifndef MQL_VERIFY_H
#define MQL_VERIFY_H

#include "mql_log.h"

/* As mqlog.h says of mql_verify. */
int mql_verify_log(mql_log *log, mql_verify_found found, mql_verify_progress progress,
                   void *context, mql_verify_report *out);

#endif
