/* mql_os_memcheck.c - mql_os_posix.c that asks valgrind about every byte on its way to a disk.
 *
 * write(2) is asked about by memcheck itself. What is stored into a mapped file is looked at when
 * it is synced and when it is unmapped.
 */
#define mql_os_sync_map real_sync_map
#define mql_os_unmap real_unmap
#include "../../csrc/mql_os_posix.c"
#undef mql_os_sync_map
#undef mql_os_unmap

#include <stdio.h>
#include <valgrind/memcheck.h>

extern long long checked; /* bytes; every.c tells how many */

int mql_os_sync_map(void *address, size_t length);
void mql_os_unmap(void *address, size_t length);

/* Pages that are there: behind the end of a file lie none. */
static void check(void *address, size_t length) {
    uint8_t *from = (uint8_t *)((uintptr_t)address & ~(uintptr_t)4095);
    uint8_t *to = (uint8_t *)address + length;
    unsigned char there;
    for (uint8_t *page = from; page < to; page += 4096) {
        if (mincore(page, 4096, &there) != 0 || !(there & 1)) continue;
        (void)VALGRIND_CHECK_MEM_IS_DEFINED(page, 4096);
        checked += 4096;
    }
}

int mql_os_sync_map(void *address, size_t length) {
    check(address, length);
    return real_sync_map(address, length);
}

void mql_os_unmap(void *address, size_t length) {
    check(address, length);
    real_unmap(address, length);
}
