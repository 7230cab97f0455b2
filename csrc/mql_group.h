/* mql_group.h - consumer groups: committed offsets, and who owns a partition. */
#ifndef MQL_GROUP_H
#define MQL_GROUP_H

#include "mql_log.h"

/* As mqlog.h says of the functions named alike. */
int mql_group_find(mql_log *log, const char *name, bool create, mql_group **out);
int mql_group_read(mql_group *group, int64_t *offset);
int mql_group_store(mql_group *group, uint64_t member, int64_t offset, bool durable);
int mql_group_remove(mql_group *group);
int mql_group_enter(mql_group *group, uint64_t *member);
void mql_group_exit(mql_group *group, uint64_t member);
int mql_group_live(mql_group *group, uint64_t *members, int capacity);
int mql_group_take(mql_group *group, uint64_t member);
void mql_group_release(mql_group *group, uint64_t member);
uint64_t mql_group_holder(mql_group *group);
uint64_t mql_group_living_holder(mql_group *group);
/* Below *floor every consumer group has committed (INT64_MAX: there is none); *count: how many
 * there are. What one has that is made meanwhile does not count. Fails where it cannot be told. */
int mql_group_floor(mql_log *log, int64_t *floor, int *count);
/* All that was committed before is on stable storage. Blocks. */
int mql_group_sync(mql_log *log);
/* How many of the files "<topic>-0/<kind>/<name><suffix>" have none of that name in this partition:
 * groups of the topic that have not come here yet. */
int mql_group_absent(mql_log *log, const char *kind, const char *suffix, int *absent);
/* Gives back what is mapped, the memory. No call is in flight. */
void mql_group_unmap_all(mql_log *log);
void mql_group_free_all(mql_log *log);

#endif
