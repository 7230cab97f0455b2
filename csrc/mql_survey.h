/* mql_survey.h - a share group as its file tells it, for those who may only read. */
#ifndef MQL_SURVEY_H
#define MQL_SURVEY_H

#include "mql_share.h"

/* As mqlog.h says of the functions named alike, but that what others change while it is read may
 * show in part, if there is no end of it. Offsets behind the log end of the snapshot are left out.
 * Block: as long as reading the file takes. Fail: MQL_E_NOT_FOUND, MQL_E_FORMAT, MQL_E_CORRUPT,
 * MQL_E_OS, MQL_E_MEMORY. */
int mql_survey_describe(mql_share *share, mql_share_info *out);
int64_t mql_survey_peek(mql_share *share, int64_t *offsets, int64_t capacity);
int64_t mql_survey_holders(mql_share *share, mql_acquired *out, int64_t capacity);

#endif
