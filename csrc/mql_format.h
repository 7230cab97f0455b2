/* mql_format.h - the bytes of all files, drawn to scale. docs/FORMAT.md says the same in words, and
 * a test compares the two.
 *
 * Two families. Kafka's files (.log, .index, .timeindex) are big-endian and stand here as offsets
 * into bytes. mqlog's own files are mapped by many processes at once: little-endian structs, words
 * of different writers on lines of 128 bytes, every field's place asserted below. Each of these
 * begins with the same 16 bytes:
 *
 *      0        8         12             16
 *      | magic  | layout  | oldest writer |      layout: version that wrote it; oldest writer: the
 *      '--------'---------'---------------'      oldest layout whose code may write it
 *
 * The numbers that time is allowed to change: layout, and every word under "volatile".
 */
#ifndef MQL_FORMAT_H
#define MQL_FORMAT_H

#include "mql_base.h"
#include "mql_os.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "mqlog's own files are little-endian");

#define MQL_LAYOUT 1u        /* of mqlog's own files */
#define MQL_OLDEST_WRITER 1u

/* Whether a header says that its file may not be written by us. Where no CRC covers it, it is
 * believed only if both of its words say so: one flipped bit is damage, not a newer mqlog. */
static inline bool mql_format_is_newer(uint32_t layout, uint32_t oldest_writer) {
    return oldest_writer > MQL_LAYOUT && layout >= oldest_writer;
}

/* -- RecordBatch v2, Kafka's: 61 bytes of header, then the records --------------------------------
 *
 *   0         8        12      16  17     21   23      27       35       43      51  53    57    61
 *   | base    | length | epoch | m | crc  | at | last  | base   | max    | producer      | count |
 *   | offset  |        |       |   |      |    | delta | time   | time   | id, epoch,seq |       |
 *   '---------'--------'-------'---'------'----'-------'--------'--------'---------------'-------'
 *   '------- not under the CRC -----------'---- under the CRC, to the end of the batch ------------
 */
#define MQL_BATCH_BASE_OFFSET 0
#define MQL_BATCH_LENGTH 8
#define MQL_BATCH_EPOCH 12
#define MQL_BATCH_MAGIC 16
#define MQL_BATCH_CRC 17
#define MQL_BATCH_ATTRIBUTES 21
#define MQL_BATCH_LAST_DELTA 23
#define MQL_BATCH_BASE_TIMESTAMP 27
#define MQL_BATCH_MAX_TIMESTAMP 35
#define MQL_BATCH_PRODUCER_ID 43
#define MQL_BATCH_PRODUCER_EPOCH 51
#define MQL_BATCH_BASE_SEQUENCE 53
#define MQL_BATCH_COUNT 57
#define MQL_BATCH_LOG_OVERHEAD 12 /* base offset and length: what `length` does not count */
#define MQL_BATCH_MAGIC_V2 2

/* -- .index: 8 bytes an entry; .timeindex: 12 bytes an entry; both big-endian --------------------
 *
 *   0               4               8              0                       8               12
 *   | last offset   | file position |              | largest timestamp     | last offset   |
 *   | - base offset | of its batch  |              | so far in the segment | - base offset |
 */
#define MQL_INDEX_ENTRY 8
#define MQL_TIME_ENTRY 12

/* -- control: one page of shared memory a partition ----------------------------------------------
 *
 *   0x000 identity        0x200 commit lock     0x400 waiters: published   0x600 allocation
 *   0x100 writer lock     0x280 prepare lock    0x480 waiters: durable     0x680 log start, changes
 *   0x180 tail state      0x300 published end   0x500 waiters: room        0x700 sealing
 *                         0x380 durable end     0x580 state                0x780 .. 0xfff reserved
 */
#define MQL_CONTROL_BYTES 4096
#define MQL_CONTROL_MAGIC "MQLCTRL"

/* One end of the log. crc: CRC-32C of the 24 bytes before it. */
typedef struct mql_format_end {
    _Atomic int64_t segment;  /* base offset of the segment */
    _Atomic int64_t position; /* bytes used in it */
    _Atomic int64_t offset;   /* the next offset */
    _Atomic uint32_t crc;
    uint32_t reserved;
} mql_format_end;

/* A latch: the low bit of `generation` says which slot is current; the owner fills the other one
 * and then stores generation + 1 (release). A death leaves the current slot whole. */
typedef struct mql_format_latch {
    _Atomic uint64_t generation;
    uint64_t reserved;
    mql_format_end slots[2];
    uint8_t pad[48];
} mql_format_latch;

typedef struct mql_format_waiters {
    _Atomic uint32_t flag; /* somebody sleeps: set by the waiter, exchanged to 0 by the waker */
    uint8_t pad[124];
} mql_format_waiters;

typedef struct mql_format_control {
    /* identity: whose memory this is; crc over the bytes before it */
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t boot[16];
    uint64_t device;
    uint64_t inode;
    uint64_t mount;
    uint32_t identity_crc;
    uint32_t reserved0;
    _Atomic uint64_t instance; /* the store instance that has made this ready; volatile */
    uint8_t pad0[184];

    /* volatile: the writer's line, touched by the holder of the writer lock only */
    mql_os_mutex writer;
    _Atomic int64_t dirty;  /* the active segment may hold unpublished bytes up to this position */
    int32_t epoch;          /* stamped into batches */
    uint32_t needs_repair;  /* an owner died or failed half-way */
    _Atomic int64_t ceiling; /* offsets below it may be given out; raised under the commit lock */
    uint8_t pad1[40];

    /* volatile, derived: the tail state that indexes need; under the writer lock */
    _Atomic uint32_t index_count; /* release-stored after the entry */
    _Atomic uint32_t time_count;
    int64_t bytes_since_entry;
    int64_t max_timestamp;        /* of the active segment; -1: none */
    int64_t max_timestamp_offset; /* last offset of the earliest batch that has it */
    int64_t last_time_entry;      /* timestamp of the last .timeindex entry; INT64_MIN: none */
    uint8_t pad2[88];

    mql_os_mutex commit;   /* volatile: one committer */
    uint32_t needs_resync; /* one died: what it was told of its sync nobody else will hear */
    uint8_t pad3[60];
    mql_os_mutex prepare; /* volatile: file lengths change under it */
    uint8_t pad4[64];

    mql_format_latch published; /* under the writer lock */
    mql_format_latch durable;   /* under the commit lock */

    mql_format_waiters waiters_published;
    mql_format_waiters waiters_durable;
    mql_format_waiters waiters_room;

    _Atomic uint32_t state; /* bits MQL_STATE_*; volatile */
    uint8_t pad5[124];

    /* volatile: allocation, under the prepare lock; `allocated` is also set by a roll, which holds
     * both */
    _Atomic int64_t allocated;      /* bytes of the active segment that have blocks */
    _Atomic uint64_t active_number; /* n of the next.<n> that the active segment was; 0: none */
    _Atomic uint64_t next_number;   /* n of the prepared next.<n>; 0: none */
    _Atomic int64_t next_allocated;
    _Atomic uint64_t last_number; /* the greatest n given */
    uint8_t pad6[88];

    _Atomic int64_t log_start;
    _Atomic uint32_t segments_generation; /* moves when a segment comes or goes */
    _Atomic uint32_t epochs_generation;   /* moves when leader-epoch-checkpoint is rewritten */
    uint8_t pad7[112];

    /* segments with a base offset below it are sealed; under the commit lock */
    _Atomic int64_t sealed;
    uint8_t pad8[120];

    uint8_t reserved1[2176];
} mql_format_control;

enum mql_state { MQL_STATE_POISONED = 1, MQL_STATE_DELETED = 2 };

/* -- checkpoint: two slots of 512 bytes, written in turn, each with a CRC; 1 KiB --------------- */
#define MQL_CHECKPOINT_BYTES 1024
#define MQL_CHECKPOINT_SLOT 512
#define MQL_CHECKPOINT_MAGIC "MQLCKPT"

typedef struct mql_format_checkpoint {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint64_t sequence;   /* the slot with the greater one, whose CRC is right, counts */
    int64_t log_start;
    int64_t segment;     /* watermark: everything below was on stable storage */
    int64_t position;
    int64_t offset;
    int64_t ceiling;     /* every offset ever given out is below it */
    uint64_t reserved[2];
    int32_t epoch;
    uint32_t clean;      /* 1: closed cleanly, `offset` is the log end and nothing lies behind it */
    uint64_t last_number;
    uint8_t pad[412];
    uint32_t crc;        /* CRC-32C of all bytes before it */
} mql_format_checkpoint;

/* -- groups/<name>.offset: one page a consumer group and partition --------------------------------
 *
 *   0x000 header   0x080 committed: latch of two slots   0x100 owner   0x180 members (partition 0)
 */
#define MQL_GROUP_BYTES 4096
#define MQL_GROUP_MAGIC "MQLGRUP"

typedef struct mql_format_commit {
    _Atomic int64_t offset;    /* committed: the next offset to read */
    _Atomic uint64_t sequence; /* of this commit, from 1 */
    _Atomic uint32_t crc;      /* CRC-32C of the 16 bytes before it */
    uint32_t reserved;
} mql_format_commit;

typedef struct mql_format_group {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t pad0[112];
    _Atomic uint64_t sequence; /* of the current commit; its low bit is the slot */
    uint64_t reserved0;
    mql_format_commit slots[2];
    uint8_t pad1[64];
    _Atomic uint64_t owner; /* member id; 0: nobody; volatile: the dead do not count */
    uint8_t pad2[120];
    _Atomic uint64_t members[MQL_MEMBERS_MAX]; /* ids of joined consumers, 0: free; volatile */
    uint8_t pad3[128];
} mql_format_group;

/* -- doorbell: one page a store ---------------------------------------------------------------- */
#define MQL_DOORBELL_BYTES 4096
#define MQL_DOORBELL_MAGIC "MQLBELL"

typedef struct mql_format_doorbell {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t boot[16];
    uint64_t pid_namespace;
    uint64_t time_namespace;
    uint64_t c_library;
    _Atomic uint64_t instance; /* random, first opener's; 0: not ready. All below is volatile */
    _Atomic uint64_t next_id;  /* the next incarnation or member id */
    uint8_t pad0[56];
    _Atomic uint32_t bell;     /* moves when something was published */
    _Atomic uint32_t waiting;  /* flag: somebody sleeps on the bell */
    uint8_t pad1[120];
    _Atomic uint32_t options_generation;
    uint32_t reserved0;
    _Atomic uint64_t min_free_bytes;
    _Atomic uint64_t max_bytes;
    _Atomic int64_t used_bytes; /* allocated by logs and indexes, for max_bytes */
    uint8_t pad2[96];
    _Atomic uint64_t members[MQL_MEMBERS_MAX]; /* incarnation of member n; byte 16 + n: alive */
    uint8_t pad3[128];
} mql_format_doorbell;

/* -- store.lock: no bytes, only byte locks ----------------------------------------------------- */
#define MQL_LOCK_GATE 0
#define MQL_LOCK_ALIVE 1
#define MQL_LOCK_MEMBER 16 /* + n */

/* A member id or incarnation: the number n above the 54 low bits of a counter that only grows. */
#define MQL_MEMBER_SHIFT 54
#define MQL_MEMBER_COUNTER ((UINT64_C(1) << MQL_MEMBER_SHIFT) - 1)

/* -- shares/<group>.state: what a share group has not finished -----------------------------------
 *
 *   0x0000 header page: magic, two slots {sequence, SPSO, SPEO, crc}
 *   0x1000 directory: 256 entries of 16 bytes {first offset / 4096 of the chunk, or -1; crc}
 *   0x2000 256 chunks of 4,096 slots of 16 bytes, allocated a page at a time
 *   then the next directory with its chunks, and so on
 *
 *   slot:   word 0                                                        word 1
 *           | state 3 | deliveries 8 | check 8 | member 13 | token 32 |   | time 48 | clock 8 |
 *                                                                         | check 8 |
 */
#define MQL_SHARE_MAGIC "MQLSHAR"
#define MQL_SHARE_CHUNK_SLOTS 4096
#define MQL_SHARE_DIRECTORY_ENTRIES 256

typedef struct mql_format_share_window {
    _Atomic uint64_t sequence;
    _Atomic int64_t start; /* SPSO: the first offset not yet final */
    _Atomic int64_t end;   /* SPEO: the next offset never acquired */
    _Atomic uint32_t crc;
    uint32_t reserved;
} mql_format_share_window;

typedef struct mql_format_share {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t pad0[112];
    mql_format_share_window slots[2];
    uint8_t pad1[3904];
} mql_format_share;

typedef struct mql_format_share_chunk {
    int64_t number; /* first offset / 4096; -1: free */
    uint32_t crc;
    uint32_t reserved;
} mql_format_share_chunk;

typedef struct mql_format_slot {
    _Atomic uint64_t state; /* word 0: committed by one release store */
    _Atomic uint64_t time;  /* word 1: stored first */
} mql_format_slot;

#define MQL_SLOT_STATE_SHIFT 61
#define MQL_SLOT_DELIVERIES_SHIFT 53
#define MQL_SLOT_CHECK_SHIFT 45
#define MQL_SLOT_MEMBER_SHIFT 32

/* -- shares/<group>.live: volatile companions of the state, reset by the first opener ---------- */
#define MQL_LIVE_MAGIC "MQLLIVE"

typedef struct mql_format_live {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    _Atomic uint64_t instance;
    uint8_t pad0[104];
    mql_os_mutex share;     /* the share lock */
    _Atomic uint32_t busy;  /* not 0 while a change is under way: rebuild from the slots */
    uint8_t pad1[60];
    _Atomic int64_t counters[16]; /* derived */
    _Atomic uint32_t due_count;   /* entries of the due heap, from byte 4096 on, 16 bytes each */
    uint8_t pad2[124];
    uint8_t reserved[3584];
} mql_format_live;

/* -- every place, asserted --------------------------------------------------------------------- */
#define MQL_AT(type, field, place) \
    static_assert(offsetof(mql_format_##type, field) == (place), #type "." #field)
#define MQL_SIZE(type, size) static_assert(sizeof(mql_format_##type) == (size), #type)

MQL_SIZE(end, 32);
MQL_AT(end, segment, 0);
MQL_AT(end, position, 8);
MQL_AT(end, offset, 16);
MQL_AT(end, crc, 24);
MQL_SIZE(latch, 128);
MQL_AT(latch, slots, 16);
MQL_SIZE(waiters, 128);

MQL_SIZE(control, MQL_CONTROL_BYTES);
MQL_AT(control, boot, 0x010);
MQL_AT(control, device, 0x020);
MQL_AT(control, inode, 0x028);
MQL_AT(control, mount, 0x030);
MQL_AT(control, identity_crc, 0x038);
MQL_AT(control, instance, 0x040);
MQL_AT(control, writer, 0x100);
MQL_AT(control, dirty, 0x140);
MQL_AT(control, epoch, 0x148);
MQL_AT(control, needs_repair, 0x14c);
MQL_AT(control, ceiling, 0x150);
MQL_AT(control, index_count, 0x180);
MQL_AT(control, time_count, 0x184);
MQL_AT(control, bytes_since_entry, 0x188);
MQL_AT(control, max_timestamp, 0x190);
MQL_AT(control, max_timestamp_offset, 0x198);
MQL_AT(control, last_time_entry, 0x1a0);
MQL_AT(control, commit, 0x200);
MQL_AT(control, needs_resync, 0x240);
MQL_AT(control, prepare, 0x280);
MQL_AT(control, published, 0x300);
MQL_AT(control, durable, 0x380);
MQL_AT(control, waiters_published, 0x400);
MQL_AT(control, waiters_durable, 0x480);
MQL_AT(control, waiters_room, 0x500);
MQL_AT(control, state, 0x580);
MQL_AT(control, allocated, 0x600);
MQL_AT(control, active_number, 0x608);
MQL_AT(control, next_number, 0x610);
MQL_AT(control, next_allocated, 0x618);
MQL_AT(control, last_number, 0x620);
MQL_AT(control, log_start, 0x680);
MQL_AT(control, segments_generation, 0x688);
MQL_AT(control, epochs_generation, 0x68c);
MQL_AT(control, sealed, 0x700);

MQL_SIZE(checkpoint, MQL_CHECKPOINT_SLOT);
MQL_AT(checkpoint, sequence, 16);
MQL_AT(checkpoint, log_start, 24);
MQL_AT(checkpoint, segment, 32);
MQL_AT(checkpoint, position, 40);
MQL_AT(checkpoint, offset, 48);
MQL_AT(checkpoint, ceiling, 56);
MQL_AT(checkpoint, epoch, 80);
MQL_AT(checkpoint, clean, 84);
MQL_AT(checkpoint, last_number, 88);
MQL_AT(checkpoint, crc, 508);

MQL_SIZE(commit, 24);
MQL_AT(commit, sequence, 8);
MQL_AT(commit, crc, 16);
MQL_SIZE(group, MQL_GROUP_BYTES);
MQL_AT(group, sequence, 0x080);
MQL_AT(group, slots, 0x090);
MQL_AT(group, owner, 0x100);
MQL_AT(group, members, 0x180);

MQL_SIZE(doorbell, MQL_DOORBELL_BYTES);
MQL_AT(doorbell, boot, 0x010);
MQL_AT(doorbell, pid_namespace, 0x020);
MQL_AT(doorbell, time_namespace, 0x028);
MQL_AT(doorbell, c_library, 0x030);
MQL_AT(doorbell, instance, 0x038);
MQL_AT(doorbell, next_id, 0x040);
MQL_AT(doorbell, bell, 0x080);
MQL_AT(doorbell, waiting, 0x084);
MQL_AT(doorbell, options_generation, 0x100);
MQL_AT(doorbell, min_free_bytes, 0x108);
MQL_AT(doorbell, max_bytes, 0x110);
MQL_AT(doorbell, used_bytes, 0x118);
MQL_AT(doorbell, members, 0x180);

MQL_SIZE(share_window, 32);
MQL_SIZE(share, 4096);
MQL_AT(share, slots, 0x080);
MQL_SIZE(share_chunk, 16);
MQL_SIZE(slot, 16);
MQL_SIZE(live, 4096);
MQL_AT(live, instance, 0x010);
MQL_AT(live, share, 0x080);
MQL_AT(live, busy, 0x0c0);
MQL_AT(live, counters, 0x100);
MQL_AT(live, due_count, 0x180);

#endif
