/* mql_api.h - nothing but mqlog.h: its functions are defined in mql_api.c. */
#ifndef MQL_API_H
#define MQL_API_H

#include "mqlog.h"

#endif
