/* mql_store.h - a store as one process has it open: store.lock, the doorbell, its logs. */
#ifndef MQL_STORE_H
#define MQL_STORE_H

#include "mql_log.h"

/* As mqlog.h says of the functions named alike. */
int mql_store_open(const char *path, const mql_open_options *options, mql_store **out);
int mql_store_close(mql_store *store, bool abandon);
void mql_store_free(mql_store *store);
void mql_store_pin(mql_store *store);
void mql_store_unpin(mql_store *store);
int mql_store_gate(mql_store *store, int64_t timeout_ns);
void mql_store_ungate(mql_store *store);
int mql_store_read_options(mql_store *store, uint8_t **data, size_t *length);
int mql_store_write_options(mql_store *store, const uint8_t *data, size_t length);
uint32_t mql_store_generation(const mql_store *store);
int mql_store_set_limits(mql_store *store, uint64_t min_free_bytes, uint64_t max_bytes);
int mql_store_sync(mql_store *store);
uint32_t mql_store_bell(mql_store *store);
int64_t mql_store_wall(const mql_store *store);
void mql_store_set_wall(mql_store *store, int64_t now_ms);
int mql_store_wait(mql_store *store, uint32_t seen, int64_t timeout_ns);
void mql_store_wake(mql_store *store);
int mql_store_recovered_at(mql_store *store, size_t index, mql_recovered *out);
int mql_store_prepare(mql_store *store);
int mql_store_sync_round(mql_store *store);
int mql_store_log(mql_store *store, const char *topic, int partition, bool create,
                  const mql_log_options *options, mql_log **out);

#endif
