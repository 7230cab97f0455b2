# What is delivered: Share (a share group in one partition), Finder (a record by its offset),
# Message, and Taker, the hot half of a queue handle. Part of _engine.pyx.

ShareInfo = namedtuple(
    "ShareInfo",
    "ready delayed acquired first end oldest next_ms bytes "
    "accepted dead expired damaged gone passed purged",
    module=__name__,
)
Holder = namedtuple(
    "Holder", "offset token deliveries deadline_ms member", module=__name__
)

cdef enum:
    NOBODYS, HELD, DONE, LOST  # how a message stands with its holder
    AT_ONCE = 64  # records acquired in one call of the engine
    LOCK_SLICE_NS = 50_000_000
    FOUND = -1

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
    cdef Log _log
    cdef bint busy

    def __cinit__(self):
        self._cursor = NULL
        self._owners = [None, None]
        memset(self._entered, 0, sizeof(self._entered))

    def __dealloc__(self):
        if self._cursor is not NULL:
            mql_cursor_free(self._cursor)

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
        cdef int rc = MQL_OK
        if self._cursor is NULL:
            rc = mql_cursor_open(self._log._c, offset, 0, &self._cursor)
        elif mql_cursor_offset(self._cursor) != offset:
            rc = mql_cursor_seek(self._cursor, offset)
        if rc == MQL_OK:
            rc = mql_cursor_next(self._cursor, &batch)
        if rc == MQL_E_RANGE:
            start = self._log.ends().start_offset
            if offset < start:
                return start
        if self._log.store.end(rc) == MQL_END:
            return max(offset + 1, mql_cursor_offset(self._cursor))
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
    cdef readonly Log log
    cdef readonly str name

    def __cinit__(self):
        self._c = NULL

    def waiting(self):
        """Records to be delivered, delayed ones included."""
        self._store.enter()
        return mql_share_waiting(self._c)

    def describe(self):
        """All that is known; it takes the share lock for a moment."""
        cdef mql_share_info info
        cdef int rc
        pinned = self._store.begin()
        with nogil:
            rc = mql_share_describe(self._c, &info)
            mql_unpin(pinned)
        self._store.end(rc)
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
        cdef int64_t *offsets = <int64_t *>malloc(<size_t>max(count, 1) * sizeof(int64_t))
        cdef int64_t found, i
        cdef Finder finder
        cdef list out = []
        if offsets is NULL:
            raise MemoryError()
        try:
            pinned = self._store.begin()
            with nogil:
                found = mql_share_peek(self._c, offsets, count)
                mql_unpin(pinned)
            if found < 0:
                self._store.end(<int>found)
            for i in range(found):
                self._store.enter()
                finder = self.finder()
                if finder.find(offsets[i]) == FOUND:
                    out.append(self.fill(finder, Record.__new__(Record)))
        finally:
            free(offsets)
        return out

    def holders(self, int64_t most):
        """What is acquired, by whom and until when (`mql_share_now`'s milliseconds, or None)."""
        cdef mql_acquired *found = <mql_acquired *>malloc(<size_t>max(most, 1) * sizeof(mql_acquired))
        cdef int64_t count, i
        cdef list out = []
        if found is NULL:
            raise MemoryError()
        try:
            pinned = self._store.begin()
            with nogil:
                count = mql_share_holders(self._c, found, most)
                mql_unpin(pinned)
            if count < 0:
                self._store.end(<int>count)
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

    def bound(self, int64_t maxsize):
        """Appends of this process give `Full` while so many records wait; 0: no bound."""
        self._store.enter()
        self._store.end(mql_share_bound(self._c, maxsize))

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
                mql_unpin(pinned)
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
                mql_unpin(pinned)
            if rc != MQL_E_CORRUPT:  # archived: gone as well
                self._store.end(rc)
            PyErr_CheckSignals()
            for i in range(count):
                items[i].offset, items[i].token, items[i].result = got[i].offset, got[i].token, 0
            if count > 0:
                self._store.end(self.settle(items, count, MQL_ARCHIVE, MQL_PURGED, 0))
            done += count
        return done

    def delete(self):
        """Forgets the group here; False, and nothing done, while live processes hold records."""
        cdef int rc
        pinned = self._store.begin()
        with nogil:
            rc = mql_share_delete(self._c)
            mql_unpin(pinned)
        return self._store.end(rc) != MQL_BUSY

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
        """All of them; their results tell. Without waiting if that is possible."""
        cdef mql_settlement how
        cdef int rc
        how.event, how.flags, how.when, how.slice_ns = event, flags, when, 0
        self._store.enter()
        rc = mql_share_settle(self._c, items, count, &how)
        how.slice_ns = LOCK_SLICE_NS
        while rc == MQL_TIMEOUT:
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_settle(self._c, items, count, &how)
                mql_unpin(pinned)
            if rc == MQL_TIMEOUT:
                PyErr_CheckSignals()
                self._store.enter()
        return rc

    cdef int settle_one(self, const mql_acquired *got, int event, int64_t when, int flags) except -1:
        """For what is not for delivery; a lock that was lost meanwhile is another's to look at."""
        cdef mql_settle item
        item.offset, item.token, item.result = got.offset, got.token, MQL_TIMEOUT
        return self._store.end(self.settle(&item, 1, event, when, flags))

    cdef bint is_for_delivery(self, mql_value headers, const mql_acquired *got) except -1:
        """Whether a record with these headers is due, not expired and this group's; else settled."""
        cdef mql_value name, value
        cdef int64_t now = -1
        while headers.length > 0 and check(mql_header_next(&headers, &name, &value)) == MQL_OK:
            if name.length < 8 or name.data[0] != 95:
                continue
            if now < 0:
                now = time_ns() // 1_000_000
            if is_named(&name, DUE) and number_of(&value) > now:
                self.settle_one(got, MQL_RELEASE, number_of(&value), MQL_UNCOUNTED)
                return False
            if is_named(&name, EXPIRES) and number_of(&value) <= now and got.deliveries == 1:
                self.settle_one(got, MQL_ARCHIVE, MQL_EXPIRED, 0)
                return False
            if is_named(&name, GROUP) and not is_named(&value, self._group):
                self.settle_one(got, MQL_ARCHIVE, MQL_PASSED, 0)
                return False
        return True

    cdef Message deliver(self, const mql_acquired *got, object queue):
        """The message of an acquisition; None: there is none, or it is not for delivery now."""
        cdef Finder finder = self.finder()
        cdef Message out = Message.__new__(Message)
        cdef int64_t found
        cdef bint due = True
        cdef int rc
        finder.busy = True
        try:
            found = finder.find(got.offset)
            if found == FOUND and finder.view.header_count > 0:
                due = self.is_for_delivery(finder.view.headers, got)
            if found == FOUND and due:
                self.fill(finder, out)
        except errors.CorruptError:
            self.settle_one(got, MQL_ARCHIVE, MQL_DAMAGED, 0)
            raise
        except BaseException:
            self.settle_one(got, MQL_RELEASE, 0, MQL_UNCOUNTED)
            raise
        finally:
            finder.busy = False
        if found != FOUND:
            rc = mql_share_skip(self._c, got.offset, got.token, found)
            if rc != MQL_E_LOST:
                self._store.end(rc)
            return None
        if not due:
            return None
        out._share = self
        out._queue = queue
        out._state = HELD
        out._moving = got.moving
        out.token = got.token
        out.delivery_count = <int>got.deliveries
        return out


def open_share(Log log not None, str name not None, bint create, int64_t start, codec):
    """Opens share group `name` in a partition; a new one begins at `start`. Blocks."""
    cdef bytes encoded = c_name(name, "a group's name")
    cdef const char *c_group = encoded
    cdef Share share = Share.__new__(Share)
    cdef Finder finder = Finder.__new__(Finder)
    cdef Source source = Source.__new__(Source)
    cdef int rc
    pinned = log.store.begin()
    with nogil:
        rc = mql_share_open(log._c, c_group, create, start, &share._c)
        mql_unpin(pinned)
    log.store.end(rc)
    finder._log = log
    source.topic, source.partition, source.codec = log.topic, log.partition, codec
    share._store, share._finder, share._source = log.store, finder, source
    share._group, share.log, share.name = encoded, log, name
    return share


# -- messages ------------------------------------------------------------------------------------

def _dead_module():
    from mqlog import _dead  # upwards: what dead letters say of themselves is not the engine's

    return _dead


@cython.no_gc
cdef class Message(Record):
    """A record acquired by one consumer. Made by a queue's `get`; see `mqlog.Message`."""

    cdef Share _share
    cdef object _queue
    cdef int _state
    cdef int64_t _moving
    cdef readonly uint64_t token
    cdef readonly int delivery_count

    def __del__(self):
        if self._state == HELD:
            self._dropped()

    def _dropped(self):
        store = self._share._store
        if store.closed or store._forks != FORKS:
            return
        self._queue._dropped(self)

    @property
    def reason(self):
        """Of a dead letter: why it is one; "" for any other message."""
        return _dead_module().reason_of(self)

    @property
    def origin(self):
        """Of a dead letter: the id of the record that it was; None for any other message."""
        return _dead_module().origin_of(self)

    @property
    def _group(self):
        """The share group that it was acquired for."""
        return self._share.name

    def _check_held(self):
        """Raises what settling it would raise if this holder has it no longer."""
        self.is_held()

    @property
    def settled(self):
        """Whether this holder has settled it, or was told that its lock is lost."""
        return self._state != HELD

    def accept(self, *, bint durable=False):
        """Done: it is not delivered again. See `mqlog.Message`."""
        self.settle(MQL_ACCEPT, 0, MQL_DURABLE if durable else 0)

    def release(self, double delay=0.0, str reason not None=""):
        """To be delivered again, after `delay` seconds. See `mqlog.Message`."""
        self.is_held()
        self._queue._release(self, delay, reason)

    def reject(self, str reason not None=""):
        """To the dead letters. See `mqlog.Message`."""
        self.is_held()
        self._queue._reject(self, reason)

    def renew(self, lock_duration=None):
        """The lock holds from now on as long as at the beginning. See `mqlog.Message`."""
        self.settle(MQL_RENEW, self._queue._lock_ms(lock_duration), 0)

    def __enter__(self):
        self.is_held()
        return self

    def __exit__(self, kind, value, trace, /):
        if self._state != HELD:
            return
        if value is None:
            self.accept()
        else:
            self._queue._failed(self, value)

    def _settle(self, int event, int64_t when=0, int flags=0):
        """Any event; for the queue's own use."""
        self.settle(event, when, flags)

    @property
    def _is_moving(self):
        """The dead letters' end when its move there began, or -1."""
        return self._moving

    cdef int is_held(self) except -1:
        if self._share is None:
            raise TypeError("a message is made by a queue")
        if self._share._store._forks != FORKS:
            raise errors.ForkedError(
                f"{self!r} was acquired by the parent process: get one in this process")
        self._share._store.enter()
        if self._state == LOST:
            raise self.lost()
        if self._state != HELD:
            raise errors.SettledError(f"{self!r} was settled before: nothing was changed")
        return 0

    cdef object lost(self):
        return errors.LockLostError(
            f"the lock on {self.id} is lost: its deadline passed, and it may be with another "
            "consumer; nothing was changed", [self])

    cdef int settle(self, int event, int64_t when, int flags) except -1:
        cdef mql_settle item
        cdef int rc
        self.is_held()
        item.offset, item.token, item.result = self.offset, self.token, MQL_TIMEOUT
        rc = self._share.settle(&item, 1, event, when, flags)
        self.settled_as(item.result, event)
        self._share._store.end(rc)
        if item.result == MQL_E_LOST:
            raise self.lost()
        if item.result < 0:
            raise errors.Error(f"{self!r} could not be settled")
        return 0

    cdef int settled_as(self, int result, int event) noexcept:
        if result == MQL_E_LOST:
            self._state = LOST
        elif result == MQL_OK and event != MQL_RENEW and event != MQL_MOVE:
            self._state = DONE
        return 0

    def __reduce__(self):
        raise TypeError(
            f"{self!r} belongs to its process: send record.raw, or the queue and the offset")


def settle_many(list messages not None, int event, int64_t when, int flags):
    """Settles messages of one share group; those whose lock is lost are returned.

    Raises:
        TypeError, SettledError, ForkedError: One of them is not held; nothing was changed.
        DurabilityError: All are settled, but not known to be on disk.
    """
    cdef Py_ssize_t count = len(messages), i
    cdef Message message
    cdef Share share
    cdef int rc
    if count == 0:
        return []
    cdef mql_settle *items = <mql_settle *>malloc(<size_t>count * sizeof(mql_settle))
    if items is NULL:
        raise MemoryError()
    try:
        share = (<Message?>messages[0])._share
        for i in range(count):
            message = <Message?>messages[i]
            message.is_held()
            if message._share is not share:
                raise ValueError(f"{message!r} is of another queue: nothing was changed")
            items[i].offset, items[i].token = message.offset, message.token
            items[i].result = MQL_TIMEOUT
        rc = share.settle(items, <size_t>count, event, when, flags)
        lost = []
        for i in range(count):
            message = <Message>messages[i]
            message.settled_as(items[i].result, event)
            if items[i].result == MQL_E_LOST:
                lost.append(message)
        share._store.end(rc)
        return lost
    finally:
        free(items)


# -- the handle ----------------------------------------------------------------------------------

cdef class Taker(Sender):
    """The hot half of a queue handle; `mqlog.Queue` is its subclass. Any thread may call."""

    cdef tuple _shares  # highest priority first; `_spread` of each
    cdef Share _single  # the only one, or None
    cdef int64_t _lock
    cdef int64_t _most
    cdef int _deliveries  # the limit; 0: none
    cdef object _postponed  # an error that waits until the messages before it are given out
    cdef bint _plain  # a put may go the short way
    cdef bint _halted  # nothing is given out any more

    def _bind_shares(self, shares, *, lock_ms, max_acquired, max_deliveries, plain):
        """Says whence messages come, in the order of priority, and under which options."""
        cdef Share share
        for share in shares:  # TypeError: something else
            pass
        self._shares = tuple(shares)
        self._single = self._shares[0] if len(self._shares) == 1 else None
        self._lock, self._most, self._deliveries = lock_ms, max_acquired, max_deliveries
        self._plain = plain

    def put(self, value, block=True, timeout=None, *, key=None, headers=(), delay=0.0,
            deliver_at=None, priority=4, ttl=None, dedupe=None, bint durable=False):
        """Puts one record and returns its offset. See `mqlog.Queue.put`."""
        cdef int64_t offset
        if (self._plain and delay == 0.0 and deliver_at is None and priority == 4 and ttl is None
                and dedupe is None and block is True and timeout is None and value is not None
                and self.current()):
            offset = self.quick(value, key, headers, durable)
            if offset >= 0:
                return offset
        return self._put(value, block, timeout, key, headers, delay, deliver_at, priority, ttl,
                         dedupe, durable)

    def _send(self, value, key, headers, partition, bint durable, list extra=None):
        """Appends one record; `extra`: headers of mqlog's own."""
        return self.append_one(value, key, headers, None, partition, durable, extra)

    def _send_once(self, value, key, headers, int partition, bint durable, list extra, bytes once_key,
                   int64_t window_ms):
        """The same, unless a record of that key came to the partition within the window.

        Its offset, and whether it is the earlier one's.
        """
        cdef mql_record record
        cdef mql_once once
        cdef int64_t offset = -1
        cdef int rc
        cdef Log log = self._logs[partition]
        self.check()
        if self._codec is not None:
            value = self._codec.encode(value)
        value = borrow(value, &record.value, "a value")
        key = borrow(key, &record.key, "a key")
        headers = borrow_headers(headers, &record, extra)
        record.timestamp = self.moment(None)
        once.key.data, once.key.length = start_of(once_key), PyBytes_GET_SIZE(once_key)
        once.window_ms, once.ignore = window_ms, -1
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_append_once(log._c, &record, &once, MQL_DURABLE if durable else 0, &offset)
                mql_unpin(pinned)
            if rc == MQL_TIMEOUT:
                PyErr_CheckSignals()
            elif rc == MQL_FOUND and self.is_another(log, offset, once_key):
                once.ignore = offset
            elif appended(log, rc) != MQL_TIMEOUT:
                return offset, rc == MQL_FOUND
            self._store.enter()

    cdef bint is_another(self, Log log, int64_t offset, bytes once_key) except -1:
        """Whether the record there was put with another key, of the same hash."""
        cdef Record record
        if offset < log.ends().start_offset:
            return False  # trimmed away: its hash is all that is left
        for record in open_reader(log, offset, offset + 1, MQL_TO_END, None):
            for name, value in record._all_headers():
                if name == "__mqlog.dedupe":
                    return value != once_key
        return False

    def _send_many(self, values, keys, headers, partition, Py_ssize_t first, bint durable):
        """Appends many, all or nothing in each partition, from the `first` one on."""
        return self.append_all(values, keys, headers, None, partition, None, first, durable)

    def _send_raw(self, values, keys, headers):
        """Appends bytes as they are, durably."""
        return self.append_all(values, keys, headers, None, 0, None, 0, True, False)

    def _send_one_raw(self, value, key, headers, partition, list extra):
        """The same, one record with headers of mqlog's own."""
        return self.append_one(value, key, headers, None, partition, True, extra, False)

    def _halt(self, bint immediate):
        """From now on every call looks at `_may_wait` first, and no put goes the short way."""
        self._plain = False
        self._halted = self._halted or immediate

    def get(self, block=True, timeout=None, *, lock_duration=...):
        """Acquires the next record. See `mqlog.Queue.get`."""
        cdef mql_acquire how
        cdef mql_acquired got
        cdef size_t count = 1
        cdef Message message
        deadline_of(timeout)  # refuses what is no timeout, also where there is no need to wait
        if (self._spread == 1 and lock_duration is ... and self._postponed is None
                and not self._halted and self.current()):
            how.lock_ms, how.max_acquired, how.slice_ns, how.any = self._lock, self._most, 0, 0
            for share in self._shares:
                count = 1
                if self._single is None and mql_share_due_in((<Share>share)._c) != 0:
                    continue
                if mql_share_acquire((<Share>share)._c, &how, &got, &count) != MQL_OK:
                    break
                message = self.accepted_for_delivery(<Share>share, &got)
                if message is not None:
                    return message
                break
        lock = self._lock if lock_duration is ... else self._lock_ms(lock_duration)
        found = self.gather(1, block, timeout, lock, True)
        if not found:
            raise self._empty()
        return found[0]

    cdef Message accepted_for_delivery(self, Share share, const mql_acquired *got):
        """None: nothing to deliver there; what is out of deliveries went to the dead letters."""
        cdef Message message = share.deliver(got, self)
        if message is not None and (
                got.moving >= 0 or 0 < self._deliveries < message.delivery_count):
            self._bury(message)
            return None
        return message

    def _gather(self, Py_ssize_t count, block, timeout, lock_ms, bint raises):
        """Up to so many messages, as soon as there is one."""
        return self.gather(count, block, timeout, lock_ms, raises)

    cdef list gather(self, Py_ssize_t count, object block, object timeout, int64_t lock, bint raises):
        cdef int64_t deadline = deadline_of(timeout)
        cdef int64_t left
        cdef uint32_t seen = 0
        cdef bint waits = bool(block)
        cdef list out
        while True:
            self.check()
            if self._postponed is not None:
                error, self._postponed = self._postponed, None
                raise error
            seen = mql_doorbell(self._store._c)
            out = [] if self._halted else self.attempt(count, lock)
            if out or not self._may_wait(raises):
                return out
            left = slice_until(deadline)
            if not waits or left == 0:
                return out
            self.sleep(seen, left)

    cdef int sleep(self, uint32_t seen, int64_t left) except -1:
        """Until something may be there, at most a slice."""
        cdef Store store = self._store
        cdef Share share = self._single
        cdef int rc
        pinned = store.begin()
        if share is not None:
            with nogil:
                rc = mql_share_wait(share._c, left)
                mql_unpin(pinned)
        else:
            for share in self._shares:
                left = min(left, mql_share_due_in(share._c))
            with nogil:
                rc = mql_doorbell_wait(store._c, seen, left)
                mql_unpin(pinned)
        if rc != MQL_E_CLOSED and rc != MQL_E_DELETED:  # check() says it better
            store.end(rc)
        PyErr_CheckSignals()
        return 0

    cdef list attempt(self, Py_ssize_t count, int64_t lock):
        """What is there now."""
        cdef list out = []
        cdef Share share
        for share in self._in_turn():
            try:
                self.drain(share, count, lock, out)
            except BaseException as error:
                if not out:
                    raise
                self._postponed = error
                return out
            if len(out) >= count:
                break
        return out

    def _in_turn(self):
        """The shares in the order in which to ask them."""
        return self._shares

    cdef int drain(self, Share share, Py_ssize_t count, int64_t lock, list out) except -1:
        cdef mql_acquire how
        cdef mql_acquired got[AT_ONCE]
        cdef size_t some, i
        cdef int rc
        cdef Message message
        cdef object failed = None
        how.lock_ms, how.max_acquired, how.any = lock, self._most, 0
        while len(out) < count and failed is None:
            how.slice_ns = 0
            some = <size_t>min(count - len(out), AT_ONCE)
            rc = mql_share_acquire(share._c, &how, got, &some)
            how.slice_ns = LOCK_SLICE_NS
            while rc == MQL_TIMEOUT:
                some = <size_t>min(count - len(out), AT_ONCE)
                pinned = self._store.begin()
                with nogil:
                    rc = mql_share_acquire(share._c, &how, got, &some)
                    mql_unpin(pinned)
                if rc == MQL_TIMEOUT:
                    PyErr_CheckSignals()
                self._store.enter()
            if rc < 0:
                failed = failure(rc, self._store.path)
            for i in range(some):
                try:
                    message = self.accepted_for_delivery(share, &got[i])
                    if message is not None:
                        out.append(message)
                except BaseException as error:
                    failed = error
            if rc == MQL_END:
                break
        if failed is not None:
            raise failed
        return 0
