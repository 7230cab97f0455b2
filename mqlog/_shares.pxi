# Where records are delivered from: Share, a share group in one partition, and Finder, which finds a
# record by its offset. Part of _engine.pyx.

ShareInfo = namedtuple(
    "ShareInfo",
    "ready delayed acquired first end oldest next_ms bytes "
    "accepted dead expired damaged gone passed purged",
    module=__name__,
)
Holder = namedtuple(
    "Holder", "offset token deliveries deadline_ms member", module=__name__
)

# What `Message._settle` and `settle_many` take: an event; a flag; how a record came to its end.
ACCEPT, RELEASE, RENEW = MQL_ACCEPT, MQL_RELEASE, MQL_RENEW
MOVE, ARCHIVE, PARK = MQL_MOVE, MQL_ARCHIVE, MQL_PARK
UNCOUNTED, DURABLE = MQL_UNCOUNTED, MQL_DURABLE
DEAD, PASSED = MQL_DEAD, MQL_PASSED

cdef enum:
    NOBODYS, HELD, DONE, LOST  # how a message stands with its holder
    AT_ONCE = 64  # records acquired in one call of the engine
    LOCK_SLICE_NS = 50_000_000
    FOUND = -1
    DELIVER, PUT_OFF, DROP, PASS  # what is to be done with a record

# What mqlog itself notes in a record's headers (bytes; numbers as 8 bytes, big-endian).
cdef bytes DUE = b"__mqlog.due"  # milliseconds since 1970: not delivered before
cdef bytes EXPIRES = b"__mqlog.expires"  # likewise: not delivered after, but for redeliveries
cdef bytes GROUP = b"__mqlog.group"  # for this share group alone


# -- a record by its offset ----------------------------------------------------------------------

cdef struct Entered:  # a batch that was entered: verified, inflated, and how far it was walked
    mql_batch batch
    mql_walk start
    mql_walk walk
    int64_t next
    bint there


@cython.final
@cython.internal
@cython.no_gc_clear  # the cursor is freed while the store is still there
cdef class Finder:
    """Finds records of one partition by offset; keeps the two batches that it entered last."""

    cdef mql_cursor *_cursor
    cdef Entered _entered[2]
    cdef int _last
    cdef list _owners  # of the bytes of each
    cdef mql_record_view view  # what was found, lent until the next call
    cdef mql_batch _read  # read and not entered; lent likewise
    cdef int64_t _read_for  # the offset that `is_next` read it for, just now; -1: there is none
    cdef Log _log
    cdef bint busy

    def __cinit__(self):
        self._cursor = NULL
        self._read_for = -1
        self._owners = [None, None]
        memset(self._entered, 0, sizeof(self._entered))

    def __dealloc__(self):
        if self._cursor is not NULL:
            mql_cursor_free(self._cursor)

    cdef bint is_next(self, int64_t offset) noexcept:
        """Whether `view` is the record: small, without headers, alone in the batch that comes next.

        It is what a `get` nearly always finds. False: `find` is to be asked at once; it reads
        nothing twice. What there may be no memory for is not small.
        """
        cdef mql_walk walk
        self._read_for = -1  # what was lent is gone, or will be
        if self._cursor is NULL or mql_cursor_offset(self._cursor) != offset:
            return False
        if mql_cursor_next(self._cursor, &self._read) != MQL_OK:
            return False
        if (self._read.count == 1 and self._read.payload_length < COPY_BELOW
                and not self._read.attributes & MQL_BATCH_CONTROL
                and MQL_BATCH_COMPRESSION(self._read.attributes) == MQL_NONE):
            mql_walk_start(
                &walk, &self._read, self._read.payload, <size_t>self._read.payload_length)
            if (mql_walk_next(&walk, &self.view) == MQL_OK and self.view.offset == offset
                    and self.view.header_count == 0):
                return True
        self._read_for = offset
        return False

    cdef int64_t find(self, int64_t offset) except -2:
        """FOUND: `view` is the record; else there is none before the offset that is returned."""
        cdef int i = self._last
        if self.holds(i, offset):
            return self.walk_to(i, offset)
        if self.holds(1 - i, offset):
            self._last = 1 - i
            return self.walk_to(1 - i, offset)
        return self.enter(offset)

    cdef inline bint holds(self, int i, int64_t offset) noexcept:
        cdef Entered *entered = &self._entered[i]
        return (entered.there and entered.batch.base_offset <= offset
                and offset <= entered.batch.last_offset)

    cdef int64_t walk_to(self, int i, int64_t offset) except -2:
        cdef Entered *entered = &self._entered[i]
        cdef int rc
        if offset < entered.next:
            entered.walk = entered.start
        while True:
            rc = mql_walk_next(&entered.walk, &self.view)
            if rc != MQL_OK:
                entered.there = False
                if rc == MQL_END:
                    return entered.batch.last_offset + 1
                self.malformed(&entered.batch, (<bytes>mql_error_last().text).decode())
            entered.next = self.view.offset + 1
            if self.view.offset >= offset:
                return FOUND if self.view.offset == offset else self.view.offset

    cdef int64_t enter(self, int64_t offset) except -2:
        cdef mql_batch batch
        cdef mql_walk walk
        cdef int64_t following
        cdef int rc = MQL_OK
        if self._cursor is NULL:
            rc = mql_cursor_open(self._log._c, offset, 0, &self._cursor)
        elif mql_cursor_offset(self._cursor) != offset and self._read_for != offset:
            rc = mql_cursor_seek(self._cursor, offset)
        if self._read_for == offset:
            batch = self._read
        elif rc == MQL_OK:
            rc = mql_cursor_next(self._cursor, &batch)
        self._read_for = -1
        if rc == MQL_E_RANGE:
            start = self._log.ends().start_offset
            if offset < start:
                return start
        if self._log.store.end(rc) == MQL_END:
            following = mql_cursor_offset(self._cursor)
            if following <= offset < self._log.readable_offset:  # it is not passed over for good
                raise errors.OffsetOutOfRangeError(
                    f"offset {offset} was acquired, and cannot be found now")
            return max(offset + 1, following)
        if batch.attributes & MQL_BATCH_CONTROL or batch.count == 0:
            return batch.last_offset + 1
        if batch.count == 1 and MQL_BATCH_COMPRESSION(batch.attributes) == MQL_NONE:
            mql_walk_start(&walk, &batch, batch.payload, <size_t>batch.payload_length)
            if mql_walk_next(&walk, &self.view) != MQL_OK:
                self.malformed(&batch, (<bytes>mql_error_last().text).decode())
            return FOUND if self.view.offset == offset else max(offset + 1, self.view.offset)
        self.keep(&batch)
        if batch.base_offset > offset:
            return batch.base_offset
        return self.walk_to(self._last, offset)

    cdef int keep(self, const mql_batch *batch) except -1:
        """Makes it the batch entered last."""
        cdef int i = 1 - self._last
        cdef Entered *entered = &self._entered[i]
        cdef int code = MQL_BATCH_COMPRESSION(batch.attributes)
        cdef Lease lease
        cdef bytes data
        entered.there = False
        self._owners[i] = None
        entered.batch = batch[0]
        if code == MQL_NONE and batch.payload_length >= COPY_BELOW:
            lease = Lease.__new__(Lease)
            if self._log.store.end(mql_cursor_lease(self._cursor, &lease._c)) == MQL_OK:
                self._owners[i] = lease
                mql_walk_start(&entered.start, batch, batch.payload, <size_t>batch.payload_length)
        if self._owners[i] is None:
            data = PyBytes_FromStringAndSize(
                <const char *>batch.payload, <Py_ssize_t>batch.payload_length)
            if code != MQL_NONE:
                try:
                    data = _compression.inflate(code, data, INFLATE_MAX)
                except ValueError as error:
                    self.malformed(batch, str(error))
            self._owners[i] = data
            mql_walk_start(&entered.start, batch, <const uint8_t *>PyBytes_AS_STRING(data),
                           <size_t>PyBytes_GET_SIZE(data))
        entered.walk = entered.start
        entered.next = batch.base_offset
        entered.there = True
        self._last = i
        return 0

    cdef int malformed(self, const mql_batch *batch, str what) except -1:
        path = f"{self._log.topic}-{self._log.partition}/{batch.segment:020d}.log"
        path = os.path.join(self._log.store.path, path)
        raise errors.CorruptError(
            what, path, batch.position, batch.base_offset, batch.last_offset + 1)


# -- a share group in one partition --------------------------------------------------------------

cdef inline int64_t number_of(const mql_value *value) noexcept:
    """8 bytes, big-endian; 0 for anything else."""
    cdef uint64_t out = 0
    cdef int i
    if value.length != 8:
        return 0
    for i in range(8):
        out = out << 8 | value.data[i]
    return <int64_t>out


cdef inline bint is_named(const mql_value *name, bytes wanted) noexcept:
    cdef Py_ssize_t length = PyBytes_GET_SIZE(wanted)
    return name.length == length and memcmp(name.data, PyBytes_AS_STRING(wanted), length) == 0


@cython.final
@cython.no_gc
cdef class Share:
    """The place of one share group in one partition. Any thread may call."""

    cdef mql_share *_c
    cdef Store _store
    cdef Finder _finder
    cdef Source _source
    cdef bytes _group
    cdef int64_t _damage_start  # what CorruptError told last
    cdef int64_t _damage_stop
    cdef readonly Log log
    cdef readonly str name

    def __cinit__(self):
        self._c = NULL
        self._damage_start = self._damage_stop = -1

    def waiting(self):
        """Records to be delivered, delayed ones included."""
        self._store.enter()
        return mql_share_waiting(self._c)

    def describe(self):
        """All that is known; it takes the share lock for a moment."""
        cdef mql_share_info info
        cdef int rc
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_describe(self._c, &info)
                mql_leave(pinned)
            if self._store.heard(rc) != MQL_E_LATER:
                break
        return ShareInfo(
            info.ready, info.delayed, info.acquired, info.first, info.end,
            None if info.oldest < 0 else info.oldest,
            None if info.next_ms == INT64_MAX else info.next_ms, info.bytes,
            info.ends[<int>MQL_ACCEPTED], info.ends[<int>MQL_DEAD], info.ends[<int>MQL_EXPIRED],
            info.ends[<int>MQL_DAMAGED], info.ends[<int>MQL_GONE], info.ends[<int>MQL_PASSED],
            info.ends[<int>MQL_PURGED],
        )

    def peek(self, Py_ssize_t count):
        """The records that would be delivered next, at most so many; they are not acquired."""
        cdef Py_ssize_t asked = count
        cdef list out = []
        while count > 0:
            offsets = self.next_offsets(asked)
            out = self.look_at(offsets, count)
            if len(out) == count or len(offsets) < asked:
                break
            asked *= 2  # some of them are not for delivery
        return out

    cdef list next_offsets(self, Py_ssize_t count):
        cdef int64_t *offsets = <int64_t *>malloc(<size_t>count * sizeof(int64_t))
        cdef int64_t found, i
        if offsets is NULL:
            raise MemoryError()
        try:
            while True:
                pinned = self._store.begin()
                with nogil:
                    found = mql_share_peek(self._c, offsets, count)
                    mql_leave(pinned)
                if self._store.heard(found) != MQL_E_LATER:
                    break
            return [offsets[i] for i in range(found)]
        finally:
            free(offsets)

    cdef list look_at(self, list offsets, Py_ssize_t count):
        cdef Finder finder = Finder.__new__(Finder)
        cdef list out = []
        finder._log = self.log
        for offset in offsets:
            self._store.enter()
            if len(out) == count:
                break
            if finder.find(offset) == FOUND and (
                    finder.view.header_count == 0
                    or self.judge(finder.view.headers, NULL) == DELIVER):
                out.append(self.fill(finder, Record.__new__(Record)))
        return out

    def holders(self, int64_t most):
        """What is acquired, by whom and until when (`mql_share_now`'s milliseconds, or None)."""
        cdef size_t size = <size_t>max(most, 1) * sizeof(mql_acquired)
        cdef mql_acquired *found = <mql_acquired *>malloc(size)
        cdef int64_t count, i
        cdef list out = []
        if found is NULL:
            raise MemoryError()
        try:
            while True:
                pinned = self._store.begin()
                with nogil:
                    count = mql_share_holders(self._c, found, most)
                    mql_leave(pinned)
                if self._store.heard(count) != MQL_E_LATER:
                    break
            for i in range(count):
                deadline = None if found[i].deadline_ms == INT64_MAX else found[i].deadline_ms
                member = found[i].holder
                out.append(
                    Holder(found[i].offset, found[i].token, found[i].deliveries, deadline, member))
        finally:
            free(found)
        return out

    def now_ms(self):
        """The clock of deadlines: milliseconds since boot."""
        return mql_share_now()

    def bound(self, int64_t maxsize, int64_t max_bytes):
        """Appends of this process give `Full` before more waits, or the backlog is larger."""
        self._store.enter()
        self._store.end(mql_share_bound(self._c, maxsize, max_bytes))

    def backlog(self):
        """Bytes of the log from the first record on that is not final. Blocks."""
        cdef int64_t size = 0
        cdef int rc
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_backlog(self._c, &size)
                mql_leave(pinned)
            if self._store.heard(rc) != MQL_E_LATER:
                break
        return size

    def wait_final(self, int64_t offset, timeout):
        """True once all below `offset` is accepted or dead; False at the timeout. Blocks."""
        cdef int64_t deadline = deadline_of(timeout)
        cdef int64_t left
        cdef int rc, done = 0
        while done == 0:
            left = slice_until(deadline)
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_wait_final(self._c, offset, left)
                mql_leave(pinned)
            done = over(self._store, rc, deadline)
        return done == 1

    def due_in(self):
        """Seconds until a `get` may find something if nobody puts: 0.0: now; inf: never."""
        self._store.enter()
        cdef int64_t left = mql_share_due_in(self._c)
        return float("inf") if left == INT64_MAX else left / 1e9

    def purge(self):
        """Drops all that is to be delivered; how many it were. Blocks."""
        cdef mql_acquire how
        cdef mql_acquired got[AT_ONCE]
        cdef mql_settle items[AT_ONCE]
        cdef size_t count, i
        cdef int rc = MQL_OK
        cdef int64_t done = 0
        how.lock_ms, how.max_acquired, how.slice_ns, how.any = 60_000, 0, LOCK_SLICE_NS, 1
        while rc != MQL_END:
            count = AT_ONCE
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_acquire(self._c, &how, got, &count)
                mql_leave(pinned)
            if rc != MQL_E_CORRUPT:  # archived: gone as well
                self._store.end(rc)
            for i in range(count):
                items[i].offset, items[i].token, items[i].result = got[i].offset, got[i].token, 0
            if count > 0:
                self._store.end(self.settle(items, count, MQL_ARCHIVE, MQL_PURGED, 0))
            PyErr_CheckSignals()
            done += count
        return done

    def delete(self):
        """Forgets the group here; False, and nothing done, while live processes hold records."""
        cdef int rc
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_delete(self._c)
                mql_leave(pinned)
            if self._store.heard(rc) != MQL_E_LATER:
                break
        return rc != MQL_BUSY

    cdef Finder finder(self):
        """One that no other thread is using; it is used with the GIL held, but for inflating."""
        cdef Finder out = self._finder
        if out.busy:
            out = Finder.__new__(Finder)
            out._log = self.log
        return out

    cdef Record fill(self, Finder finder, Record out):
        """What the finder's view shows, copied."""
        cdef mql_record_view *view = &finder.view
        cdef object key = bytes_of(&view.key)
        cdef object raw = bytes_of(&view.value)
        out._headers = bytes_of(&view.headers) if view.header_count > 0 else None
        out._source = self._source
        out.offset = view.offset
        out._ms = view.timestamp
        out._decoded = False
        out.key = key
        out.raw = raw
        return out

    cdef int settle(self, mql_settle *items, size_t count, int event, int64_t when,
                    int flags) except -1:
        """All of them; their results tell. Without waiting if that is possible.

        A signal's handler may raise meanwhile: then those whose result is MQL_TIMEOUT are as they
        were, and of the others it is not known whether they are durable, if they were to be.
        """
        cdef mql_settlement how
        cdef size_t done = 0
        cdef int rc
        how.event, how.flags, how.when, how.slice_ns = event, flags, when, 0
        self._store.enter()
        rc = mql_share_settle(self._c, items, count, &how)
        how.slice_ns = LOCK_SLICE_NS
        while rc == MQL_TIMEOUT:
            while done < count and items[done].result != MQL_TIMEOUT:
                done += 1  # a round of many
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_settle(self._c, items + done, count - done, &how)
                mql_leave(pinned)
            if rc == MQL_TIMEOUT:
                PyErr_CheckSignals()
        while rc == MQL_UNSYNCED or rc == MQL_E_LATER:
            PyErr_CheckSignals()
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_sync(self._c)
                mql_leave(pinned)
        return rc

    cdef bint give_back(self, int64_t offset, uint64_t token, int64_t slice_ns) noexcept:
        """Releases a record, uncounted, while its store is being closed; or parks its move.

        False: not in time.
        """
        cdef mql_settle item
        cdef mql_settlement how
        item.offset, item.token, item.result = offset, token, MQL_TIMEOUT
        how.event, how.flags, how.when, how.slice_ns = MQL_RELEASE, MQL_UNCOUNTED, 0, slice_ns
        mql_enter(self._store._c)
        with nogil:
            mql_share_settle(self._c, &item, 1, &how)
            if item.result == MQL_E_LOST:
                how.event, how.flags = MQL_PARK, 0
                mql_share_settle(self._c, &item, 1, &how)
            mql_leave(self._store._c)
        return item.result != MQL_TIMEOUT

    cdef int settle_one(
            self, const mql_acquired *got, int event, int64_t when, int flags) except -1:
        """For what is not for delivery; a lock that was lost meanwhile is another's to look at."""
        cdef mql_settle item
        item.offset, item.token, item.result = got.offset, got.token, MQL_TIMEOUT
        return self._store.end(self.settle(&item, 1, event, when, flags))

    cdef int judge(self, mql_value headers, int64_t *due) except -1:
        """What is to be done with a record that has these headers."""
        cdef mql_value name, value
        cdef int64_t now = -1
        while headers.length > 0 and check(mql_header_next(&headers, &name, &value)) == MQL_OK:
            if name.length < 8 or name.data[0] != 95:
                continue
            if now < 0:
                now = mql_wall(self._store._c)
            if is_named(&name, DUE) and number_of(&value) > now:
                if due is not NULL:
                    due[0] = number_of(&value)
                return PUT_OFF
            if is_named(&name, EXPIRES) and number_of(&value) <= now:
                return DROP
            if is_named(&name, GROUP) and not is_named(&value, self._group):
                return PASS
        return DELIVER

    cdef bint is_for_delivery(self, mql_value headers, const mql_acquired *got) except -1:
        """Whether it is this group's, and at its first delivery due and not expired; else settled.

        One that was delivered and given back is not early, though the clock may have been set back
        since. One whose holder is gone may be: it was put a moment ago, and the holder ended before
        it looked. A move that was begun is ended, whatever the headers say.
        """
        cdef int64_t due = 0
        cdef int verdict = DELIVER if got.moving >= 0 else self.judge(headers, &due)
        if verdict == PUT_OFF and (got.deliveries == 1 or got.abandoned):
            self.settle_one(got, MQL_RELEASE, due, MQL_UNCOUNTED)
        elif verdict == DROP and got.deliveries == 1:
            self.settle_one(got, MQL_ARCHIVE, MQL_EXPIRED, 0)
        elif verdict == PASS:
            self.settle_one(got, MQL_ARCHIVE, MQL_PASSED, 0)
        else:
            return True
        return False

    cdef Message deliver(self, const mql_acquired *got, object queue):
        """The message of an acquisition; None: there is none, or it is not for delivery now."""
        cdef Message out
        self._store.enter()
        if not self._finder.busy and self._finder.is_next(got.offset):
            out = Message.__new__(Message)
            self.fill(self._finder, out)
            out.hold(self, got, queue)
            return out
        return self.look_for(got, queue)

    cdef Message look_for(self, const mql_acquired *got, object queue):
        """The same, wherever it is and whatever is to be done with it."""
        if self._damage_start <= got.offset < self._damage_stop:
            self.settle_one(got, MQL_ARCHIVE, MQL_DAMAGED, 0)  # the damage was told
            return None
        cdef Finder finder = self.finder()
        cdef Message out = Message.__new__(Message)
        cdef int64_t found
        cdef bint due = True
        finder.busy = True
        try:
            found = finder.find(got.offset)
            if found == FOUND and finder.view.header_count > 0:
                due = self.is_for_delivery(finder.view.headers, got)
            if found == FOUND and due:
                self.fill(finder, out)
        except errors.CorruptError as error:
            self._damage_start, self._damage_stop = error.start, error.stop
            self.settle_one(got, MQL_ARCHIVE, MQL_DAMAGED, 0)
            raise
        except BaseException:
            self.settle_one(got, MQL_RELEASE, 0, MQL_UNCOUNTED)
            raise
        finally:
            finder.busy = False
        if found != FOUND:
            self.skip(got, found)
        if found != FOUND or not due:
            return None
        out.hold(self, got, queue)
        return out

    cdef int skip(self, const mql_acquired *got, int64_t following) except -1:
        """There is no record at the offset, nor any before the following one."""
        cdef int rc = MQL_E_LATER
        while rc == MQL_E_LATER:
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_skip(self._c, got.offset, got.token, following)
                mql_leave(pinned)
            if rc != MQL_E_LOST:
                self._store.heard(rc)
        return 0


def open_share(Log log not None, str name not None, bint create, int64_t start, codec):
    """Opens share group `name` in a partition; a new one begins at `start`. Blocks."""
    cdef bytes encoded = c_name(name, "a group's name")
    cdef const char *c_group = encoded
    cdef Share share = Share.__new__(Share)
    cdef Finder finder = Finder.__new__(Finder)
    cdef Source source = Source.__new__(Source)
    cdef int rc
    while True:
        pinned = log.store.begin()
        with nogil:
            rc = mql_share_open(log._c, c_group, create, start, &share._c)
            mql_leave(pinned)
        if log.store.heard(rc) != MQL_E_LATER:
            break
    finder._log = log
    source.topic, source.partition, source.codec = log.topic, log.partition, codec
    share._store, share._finder, share._source = log.store, finder, source
    share._group, share.log, share.name = encoded, log, name
    return share
