/* fuzz_batch.c - bytes as a batch, and as the records of one: no step leads out of them.
 *
 * The first byte: 1: its length and CRC are not mended. */
#include "fuzz.h"
#include "mend.h"
#include "scene.h"

#include <stdlib.h>
#include <string.h>

#include "mql_batch.h"
#include "mql_format.h"

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return 0;
}

static void check_view(const mql_value *value, const uint8_t *bytes, size_t size) {
    if (value->length < -1) scene_violation("a length below null");
    if (value->length <= 0) return;
    if (value->data < bytes || value->length > bytes + size - value->data)
        scene_violation("a view leads out of the batch");
}

static void walk(const mql_batch *batch, const uint8_t *bytes, size_t size) {
    mql_walk walk;
    mql_record_view view;
    mql_value name, value;
    mql_walk_start(&walk, batch, bytes, size);
    int64_t last = batch->base_offset - 1;
    while (mql_walk_next(&walk, &view) == MQL_OK) {
        if (view.offset <= last || view.offset > batch->last_offset)
            scene_violation("a record has offset %lld", (long long)view.offset);
        last = view.offset;
        check_view(&view.key, bytes, size);
        check_view(&view.value, bytes, size);
        check_view(&view.headers, bytes, size);
        mql_value headers = view.headers;
        while (headers.length > 0 && mql_header_next(&headers, &name, &value) == MQL_OK) {
            check_view(&name, bytes, size);
            check_view(&value, bytes, size);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 + MQL_BATCH_HEADER || size > 1 << 20) return 0;
    scene_about("input %02x of %zu bytes", data[0], size);
    size_t length = size - 1;
    uint8_t *bytes = malloc(length); /* of its own, so that each step behind it is seen */
    if (bytes == NULL) return 0;
    memcpy(bytes, data + 1, length);
    if ((data[0] & 1) == 0) mend_log(bytes, length, 7, 0);
    mql_batch_header header;
    mql_batch_read_header(bytes, &header);
    if (mql_batch_implausible(&header, (int64_t)length) == NULL &&
        mql_batch_crc_right(bytes, header.size)) {
        mql_batch batch = {.base_offset = header.base_offset,
                           .last_offset = header.last_offset,
                           .base_timestamp = header.base_timestamp,
                           .max_timestamp = header.max_timestamp,
                           .count = header.count,
                           .attributes = header.attributes};
        walk(&batch, bytes + MQL_BATCH_HEADER, (size_t)header.size - MQL_BATCH_HEADER);
    }
    free(bytes);
    return 0;
}
