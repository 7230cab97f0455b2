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
 *                         0x380 durable end     0x580 state                0x780 waiters: queue
 *   0x800 slots ready     0x880 rounds          0x900, 0x980 waiters: of even, odd rounds
 *   0xa00 reclaim lock    0xa80 .. 0xfff reserved
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
    _Atomic uint32_t flag; /* somebody sleeps: set by a waiter, exchanged to 0 by a waker */
    _Atomic uint32_t word; /* moves before they are woken, where no latch does */
    uint8_t pad[120];
} mql_format_waiters;

/* What is not durable is to be made dirty again before it is synced; CHECKED: if it is still whole,
 * since somebody may be waiting to be told that it is durable. mql_log_take sets CHECKED. */
enum { MQL_RESYNC_CHECKED = 1, MQL_RESYNC = 2 };

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
    uint32_t needs_resync; /* MQL_RESYNC_*: what a sync was told nobody else will hear */
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
    _Atomic uint64_t last_number; /* the latest n given */
    uint8_t pad6[88];

    _Atomic int64_t log_start;
    _Atomic uint32_t segments_generation; /* moves when a segment comes or goes */
    _Atomic uint32_t epochs_generation;   /* moves when leader-epoch-checkpoint is rewritten */
    uint8_t pad7[112];

    /* segments with a base offset below it are sealed; under the commit lock */
    _Atomic int64_t sealed;
    uint8_t pad8[120];

    mql_format_waiters waiters_queue; /* those who wait for something to acquire */

    /* volatile: offsets below it have slots in every share group; lowered under the writer lock */
    _Atomic int64_t slots_ready;
    _Atomic uint32_t shares_generation; /* moves when a share group comes or goes */
    uint8_t pad9[116];

    /* volatile: group commit, under the commit lock but for what is awaited. A round syncs once,
     * for all who have appended below `covers` */
    _Atomic int64_t covers; /* the end that the last round began with */
    _Atomic uint32_t round; /* the last that has begun */
    uint32_t reserved2;
    int64_t checkpointed;   /* the watermark of the last checkpoint of this opening */
    _Atomic int64_t awaited; /* the end when all whom the last round has served are back */
    _Atomic int64_t await_until; /* by CLOCK_MONOTONIC, in ns: then nobody is awaited; 0: not now */
    uint8_t pad10[88];
    mql_format_waiters waiters_rounds[2]; /* those whom an even, an odd round will have served */

    /* volatile: one at a time frees space */
    mql_os_mutex reclaim;
    _Atomic uint32_t rewrites;  /* moves when a segment's name has got another file */
    _Atomic uint32_t replacing; /* not 0: files are being replaced; set under the commit lock */
    uint8_t pad11[56];

    uint8_t reserved1[1408];
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
    uint64_t sequence;   /* the slot with the later one, whose CRC is right, counts */
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
 *   0x0000   header page: magic, two windows in turn, each with a CRC
 *   0x1000   a region: one directory page of 512 words, then the 512 pages that they speak of
 *   ...      the next region; the file ends behind the last page that has blocks
 *
 *   directory word   | crc 16 | code 48 |   word 0: the page is zeros. Code N + 1: it is the chunk
 *                                           of the offsets 256 N .. 256 N + 255. Bit 47 and K: it
 *                                           is done page K
 *   chunk            256 slots of 16 bytes. All zeros: never touched
 *   slot, word 0     | state 3 | deliveries 8 | check 8 | member 13 | token 32 |  commits
 *   slot, word 1     | time 48 | clock 8 | check 8 |                              stored first
 *   done page K      512 words | crc 16 | bits 48 |: bit b of word w is set when chunk
 *                    24,576 K + 48 w + b is finished and has no page any more
 *
 * An offset is finished if it lies below the window's start, if its chunk is marked done, or if its
 * slot says so. Nothing else is; so a page that a power cut took away costs a delivery, not a
 * record.
 */
#define MQL_SHARE_MAGIC "MQLSHAR"
#define MQL_SHARE_SLOTS 256            /* in a chunk: one page */
#define MQL_SHARE_REGION_PAGES 512     /* behind one directory page */
#define MQL_SHARE_WORD_BITS 48
#define MQL_SHARE_DONE_CHUNKS (512 * MQL_SHARE_WORD_BITS) /* that one done page speaks of */
#define MQL_SHARE_DONE (UINT64_C(1) << 47)
#define MQL_SHARE_KINDS MQL_ENDS /* mqlog.h: enum mql_share_end */

typedef struct mql_format_share_window {
    _Atomic uint64_t sequence; /* the window with the later one, whose CRC is right, counts */
    int64_t start;             /* SPSO or below: everything below it is final */
    int64_t folding;           /* chunk that was counted last; -1: none */
    uint64_t boots;            /* memories in which records were acquired: high half of a token */
    uint8_t boot[16];          /* the last of them: a boot, and a mount of the file in it */
    int64_t counts[MQL_SHARE_KINDS]; /* final records of chunks that have no page, by kind */
    uint32_t crc;                    /* CRC-32C of all bytes before it */
    uint32_t reserved;
    uint8_t pad[8];
} mql_format_share_window;

typedef struct mql_format_share {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t pad0[112];
    mql_format_share_window windows[2];
    uint8_t pad1[3712];
} mql_format_share;

typedef struct mql_format_slot {
    _Atomic uint64_t state; /* word 0: committed by one release store */
    _Atomic uint64_t time;  /* word 1: stored first */
} mql_format_slot;

#define MQL_SLOT_STATE_SHIFT 61
#define MQL_SLOT_DELIVERIES_SHIFT 53
#define MQL_SLOT_CHECK_SHIFT 45
#define MQL_SLOT_MEMBER_SHIFT 32
#define MQL_SLOT_TIME_SHIFT 16
#define MQL_SLOT_CLOCK_SHIFT 8

/* What word 1 says: when, by which clock, or what kind of end an ARCHIVED record had. */
enum mql_slot_clock {
    MQL_CLOCK_NONE = 0,   /* AVAILABLE: at once; its holder, if it had one, went without a word */
    MQL_CLOCK_BOOT = 1,   /* deadline: milliseconds since boot */
    MQL_CLOCK_WALL = 2,   /* not before: milliseconds since 1970 */
    MQL_CLOCK_OFFSET = 3, /* of a move: the dead letters' end offset when it began */
    MQL_CLOCK_KIND = 16   /* + mql_share_end */
};

/* -- shares/<group>.live: volatile companions of the state, made anew by the first opener --------
 *
 *   0x0000 locks, counters, where the arrays are   0x0600 members   0x1400 what they hold
 *   0x1b00 the first part of each array; further parts behind 0x2000, each as long as all before it
 */
#define MQL_LIVE_BYTES 8192
#define MQL_LIVE_MAGIC "MQLLIVE"
#define MQL_LIVE_PARTS 26

/* Arrays: two heaps of {time, offset}, pages' facts, and a hash of chunk numbers. */
enum mql_live_array {
    MQL_LIVE_DUE = 0,
    MQL_LIVE_DEADLINES = 1,
    MQL_LIVE_PAGES = 2,
    MQL_LIVE_HASH = 3,
    MQL_LIVE_ARRAYS = 4
};

typedef struct mql_format_timer {
    int64_t time;
    int64_t offset;
} mql_format_timer;

typedef struct mql_format_live_page {
    uint32_t next;       /* in its list: page + 1; 0: the last */
    uint16_t unfinished; /* slots of the chunk that are not final */
    uint8_t mark;        /* 0: clean or in the hash; else finished, and not clean yet */
    uint8_t mixed;       /* not 0: some that are final were not accepted */
} mql_format_live_page;

typedef struct mql_format_live {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    _Atomic uint64_t instance; /* the store instance that made it ready */
    uint8_t pad0[104];

    mql_os_mutex share;            /* the share lock */
    mql_os_mutex sync;             /* one at a time syncs the state, or recycles its pages */
    mql_os_mutex grow;             /* one at a time adds pages and parts of arrays */

    _Atomic uint32_t busy;         /* not 0 while a change is under way: rebuild from the slots */
    _Atomic uint32_t tokens_ready; /* the window's `boots`, once they are durable; 0: not yet */
    _Atomic int64_t end;           /* SPEO: the next offset never acquired */
    _Atomic uint32_t pages;        /* of the state file, with blocks */
    _Atomic uint32_t growth;       /* moves when pages or arrays were added */
    uint32_t named;                /* chunks and done pages that are in the hash */
    uint32_t hash_size;
    uint32_t clean_list;             /* pages of zeros: the first of the list (+ 1), and how many */
    _Atomic uint32_t clean;
    uint32_t retired_list;           /* finished chunks that still have a page */
    _Atomic uint32_t retired;
    _Atomic uint64_t changes;        /* of the state, counted */
    _Atomic uint64_t synced;         /* changes below it are on stable storage */
    _Atomic int64_t unavailable;     /* offsets that nobody waits for: final, gone or acquired */
    _Atomic int64_t acquired;
    _Atomic int64_t available;       /* of the window: to be delivered again, or delayed */
    _Atomic int64_t counts[MQL_SHARE_KINDS]; /* final records, by kind */
    _Atomic uint32_t timers[2];      /* entries of the two heaps */
    _Atomic int64_t horizon[2];      /* the earliest time that its heap had no room for */
    _Atomic int64_t next[2];         /* the earliest time in it; INT64_MAX: none */
    uint32_t rebuilds;               /* how often all this was derived anew */
    _Atomic uint32_t removed;        /* not 0: the group was deleted */

    _Atomic uint32_t capacity[MQL_LIVE_ARRAYS]; /* entries */
    _Atomic int64_t bytes;                      /* of this file */
    _Atomic uint32_t announced; /* not 0: appends provide for this group */
    uint32_t unsure;            /* not 0: a sync failed, all pages are to be written anew */
    _Atomic uint64_t owed;      /* the last of the changes that the background is to sync */
    uint8_t pad3[24];
    _Atomic int64_t places[MQL_LIVE_ARRAYS][MQL_LIVE_PARTS]; /* file positions; 0: not there */
    uint8_t pad4[120];

    _Atomic uint64_t members[MQL_MEMBERS_MAX]; /* the incarnation of member n that acquired last */
    _Atomic uint32_t held[MQL_MEMBERS_MAX];    /* how many it holds */

    mql_format_timer first_due[16];
    mql_format_timer first_deadlines[16];
    mql_format_live_page first_pages[32];
    uint32_t first_hash[64];
    uint8_t pad5[256];
} mql_format_live;

/* -- dedupe: which keys idempotent puts have had lately; volatile, derived from the log -----------
 *
 *   0x0000 header page   0x1000 a ring of `entries` entries, then as many buckets of 8 bytes
 */
#define MQL_DEDUPE_MAGIC "MQLONCE"
#define MQL_DEDUPE_HEADER "__mqlog.dedupe" /* the record header that has the key */

typedef struct mql_format_once {
    uint64_t hash;   /* FNV-1a of the key */
    int64_t offset;
    int64_t time;    /* when it was put: milliseconds since 1970 */
    uint64_t before; /* number of the entry before it in its bucket; 0: none */
} mql_format_once;

typedef struct mql_format_dedupe {
    uint8_t magic[8];
    uint32_t layout;
    uint32_t oldest_writer;
    uint8_t boot[16];
    _Atomic uint64_t instance; /* the store instance that made its lock */
    uint8_t pad0[88];
    mql_os_mutex lock;
    uint32_t entries; /* of the ring: a power of two */
    uint32_t owed;    /* an owner of the lock died: read the log again */
    uint64_t next;   /* number of the next entry, from 1; entry n stands at n mod entries */
    int64_t scanned; /* what the log has below it is in the table; -1: nothing is */
    uint8_t pad1[3880];
} mql_format_dedupe;

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
MQL_AT(control, waiters_queue, 0x780);
MQL_AT(control, slots_ready, 0x800);
MQL_AT(control, shares_generation, 0x808);
MQL_AT(control, covers, 0x880);
MQL_AT(control, round, 0x888);
MQL_AT(control, checkpointed, 0x890);
MQL_AT(control, awaited, 0x898);
MQL_AT(control, await_until, 0x8a0);
MQL_AT(control, waiters_rounds, 0x900);
MQL_AT(control, reclaim, 0xa00);
MQL_AT(control, rewrites, 0xa40);
MQL_AT(control, replacing, 0xa44);

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

MQL_SIZE(share_window, 128);
MQL_AT(share_window, start, 8);
MQL_AT(share_window, folding, 16);
MQL_AT(share_window, boots, 24);
MQL_AT(share_window, boot, 32);
MQL_AT(share_window, counts, 48);
MQL_AT(share_window, crc, 112);
MQL_SIZE(share, 4096);
MQL_AT(share, windows, 0x080);
MQL_SIZE(slot, 16);
MQL_SIZE(once, 32);
MQL_SIZE(dedupe, 4096);
MQL_AT(dedupe, instance, 0x020);
MQL_AT(dedupe, lock, 0x080);
MQL_AT(dedupe, entries, 0x0c0);
MQL_AT(dedupe, next, 0x0c8);
MQL_AT(dedupe, scanned, 0x0d0);
MQL_SIZE(live, MQL_LIVE_BYTES);
MQL_AT(live, instance, 0x010);
MQL_AT(live, share, 0x080);
MQL_AT(live, sync, 0x0c0);
MQL_AT(live, grow, 0x100);
MQL_AT(live, busy, 0x140);
MQL_AT(live, end, 0x148);
MQL_AT(live, changes, 0x170);
MQL_AT(live, unavailable, 0x180);
MQL_AT(live, counts, 0x198);
MQL_AT(live, capacity, 0x208);
MQL_AT(live, bytes, 0x218);
MQL_AT(live, announced, 0x220);
MQL_AT(live, owed, 0x228);
MQL_AT(live, places, 0x248);
MQL_AT(live, members, 0x600);
MQL_AT(live, held, 0x1400);
MQL_AT(live, first_due, 0x1b00);
MQL_AT(live, first_deadlines, 0x1c00);
MQL_AT(live, first_pages, 0x1d00);
MQL_AT(live, first_hash, 0x1e00);

#endif
