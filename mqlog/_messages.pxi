# What is handed over: Message, the settling of many, and Taker, the hot half of a queue handle.
# Part of _engine.pyx.

# -- messages ------------------------------------------------------------------------------------

cdef extern from *:
    """
    /* `Message.__del__` is for those that nobody has settled. To be asked whether there is anything
     * to do costs each that was settled some hundred instructions: this looks first. */
    static destructor message_dealloc;  /* as it was made of the class */
    static Py_ssize_t message_state;    /* where `_state` is in one, */
    static int message_held;            /* and what it is while somebody holds it */

    static void message_drop(PyObject *self) {
        int state;
        memcpy(&state, (const char *)self + message_state, sizeof state);
        int held = state == message_held && Py_TYPE(self)->tp_dealloc == message_drop;
        if (!held || PyObject_CallFinalizerFromDealloc(self) == 0) message_dealloc(self);
    }
    static void look_before_finalizing(PyObject *of, Py_ssize_t state, int held) {
        PyTypeObject *type = (PyTypeObject *)of;
        message_dealloc = type->tp_dealloc;
        message_state = state;
        message_held = held;
        type->tp_dealloc = message_drop;
    }
    """
    void look_before_finalizing(object type, Py_ssize_t state, int held)


@cython.no_gc
cdef class Message(Record):
    """A record acquired by one consumer. Made by a queue's `get`; see `mqlog.Message`."""

    cdef Share _share
    cdef object _queue
    cdef int _state
    cdef int64_t _moving
    cdef int64_t _lock  # as the group's then, or as `get` was told
    cdef PyObject *_before  # in the list of its store: borrowed, with the GIL held
    cdef PyObject *_after
    cdef readonly uint64_t token
    cdef readonly int delivery_count

    def __del__(self):
        cdef Store store
        if self._state == HELD:
            store = self._share._store
            if not store.closed and store._forks == FORKS:
                self._queue._dropped(self)

    def __dealloc__(self):
        if self._state == HELD:
            self.let_go(LOST)

    cdef int hold(self, Share share, const mql_acquired *got, object queue) noexcept:
        """From now on it is acquired; the store knows."""
        cdef Store store = share._store
        self._share, self._queue = share, queue
        self._moving, self.token, self.delivery_count = got.moving, got.token, <int>got.deliveries
        self._state = HELD
        self._before, self._after = NULL, store._held
        if store._held is not NULL:
            (<Message>store._held)._before = <PyObject *>self
        store._held = <PyObject *>self
        return 0

    cdef int let_go(self, int state) noexcept:
        """It is held no longer."""
        cdef Store store = self._share._store
        if self._before is NULL:
            store._held = self._after
        else:
            (<Message>self._before)._after = self._after
        if self._after is not NULL:
            (<Message>self._after)._before = self._before
        self._before = self._after = NULL
        self._state = state
        return 0

    @property
    def reason(self):
        """Of a dead letter: why it is one; "" for any other message."""
        return _letters.reason_of(self)

    @property
    def origin(self):
        """Of a dead letter: the id of the record that it was; None for any other message."""
        return _letters.origin_of(self)

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
        if durable or not self.accepted_at_once():
            self.settle(MQL_ACCEPT, 0, MQL_DURABLE if durable else 0)

    cdef bint accepted_at_once(self) noexcept:
        """False: not without more ado, and nothing was changed."""
        cdef mql_settle item
        cdef mql_settlement how
        cdef Store store
        if self._state != HELD:
            return False
        store = self._share._store
        if store.closed or store._forks != FORKS:
            return False
        item.offset, item.token, item.result = self.offset, self.token, MQL_TIMEOUT
        how.event, how.flags, how.when, how.slice_ns = MQL_ACCEPT, 0, 0, 0
        mql_share_settle(self._share._c, &item, 1, &how)
        if item.result != MQL_OK:
            return False
        self.let_go(DONE)
        return True

    def release(self, double delay=0.0, str reason not None=""):
        """To be delivered again, after `delay` seconds. See `mqlog.Message`."""
        self.is_held()
        self._queue._release(self, delay, reason)

    def reject(self, str reason not None=""):
        """To the dead letters, with the reason, now or when there is room. See `Queue.reject`."""
        self.is_held()
        self._queue._reject(self, reason)

    def renew(self, lock_duration=None):
        """The lock holds from now on as long as at the beginning. See `mqlog.Message`."""
        lock = self._lock if lock_duration is None else self._queue._lock_ms(lock_duration)
        self.settle(MQL_RENEW, lock, 0)

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
    def _lock_ms(self):
        """How long its lock was to hold at the beginning, in milliseconds; -1: without an end."""
        return self._lock

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
        try:
            rc = self._share.settle(&item, 1, event, when, flags)
        finally:
            self.settled_as(item.result, event)
        self._share._store.end(rc)
        if item.result == MQL_E_LOST:
            raise self.lost()
        if item.result < 0:
            raise errors.Error(f"{self!r} could not be settled")
        return 0

    cdef int settled_as(self, int result, int event) noexcept:
        if self._state != HELD:
            return 0
        if result == MQL_E_LOST:
            self.let_go(LOST)
        elif result == MQL_OK and event != MQL_RENEW and event != MQL_MOVE:
            self.let_go(DONE)
        return 0

    def __reduce__(self):
        raise TypeError(
            f"{self!r} belongs to its process: send record.raw, or the queue and the offset")


cdef Message _one = Message.__new__(Message)
look_before_finalizing(Message, <char *>&_one._state - <char *><PyObject *>_one, HELD)
_one = None


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
            if message._share._c is not share._c:
                raise ValueError(f"{message!r} is of another queue: nothing was changed")
            items[i].offset, items[i].token = message.offset, message.token
            items[i].result = MQL_TIMEOUT
        lost = []
        try:
            rc = share.settle(items, <size_t>count, event, when, flags)
        finally:
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

cdef int check_timeout(object timeout) except -1:
    """As the standard library's queue has it: seconds from 0 on."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        kind = type(timeout).__name__
        raise TypeError(f"timeout is float seconds or None, not {kind}")
    if not timeout >= 0:
        raise ValueError(f"timeout is seconds from 0 on, not {timeout!r}")
    return 0


cdef class Taker(Sender):
    """The hot half of a queue handle; `mqlog.Queue` is its subclass. Any thread may call."""

    cdef tuple _shares  # highest priority first; `_spread` of each
    cdef Share _single  # the only one, or None
    cdef int64_t _lock
    cdef int64_t _most
    cdef int _deliveries  # the limit; 0: none
    cdef Py_ssize_t _next  # of each priority's partitions the one to be asked first
    cdef object _postponed  # an error that waits until the messages before it are given out
    cdef bint _plain  # a put may go the short way
    cdef bint _halted  # nothing is given out any more
    cdef bint _watched  # somebody looks at a descriptor: `_show` after each call that takes

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
        return self._put(value, block, timeout, key=key, headers=headers, delay=delay,
                         deliver_at=deliver_at, priority=priority, ttl=ttl, dedupe=dedupe,
                         durable=durable)

    def _send(self, value, key, headers, partition, bint durable, list extra=None):
        """Appends one record; `extra`: headers of mqlog's own."""
        return self.append_one(value, key, headers, None, partition, durable, extra)

    def _send_once(self, value, key, headers, int partition, bint durable, list extra,
                   bytes once_key, int64_t window_ms, bint full):
        """The same, unless a record of that key came to the partition within the window.

        Its offset, and whether it is the earlier one's. `full`: there is no room for another.
        """
        cdef mql_record record
        cdef mql_once once
        cdef int64_t offset = -1
        cdef int rc, flags = MQL_DURABLE if durable else 0
        cdef Log log
        self.check()
        log = self._logs[partition]
        if self._codec is not None:
            value = self._codec.encode(value)
        value = borrow(value, &record.value, "a value")
        key = borrow(key, &record.key, "a key")
        headers = borrow_headers(headers, &record, extra)
        record.timestamp = self.moment(None)
        once.key.data, once.key.length = start_of(once_key), PyBytes_GET_SIZE(once_key)
        once.window_ms, once.ignore, once.look = window_ms, -1, full
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_append_once(log._c, &record, &once, flags, &offset)
                mql_leave(pinned)
            if rc == MQL_TIMEOUT or rc == MQL_E_LATER:
                PyErr_CheckSignals()
            elif rc == MQL_FOUND and self.is_another(log, offset, once_key):
                once.ignore = offset
            else:
                appended(log, rc)
                if rc == MQL_UNSYNCED:
                    until_durable(log, offset + 1)
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

    def _watch(self):
        """From now on `_show` is called after each look at what is there."""
        self._watched = True

    def get(self, block=True, timeout=None, *, lock_duration=...):
        """Acquires the next record. See `mqlog.Queue.get`."""
        cdef Message message
        if timeout is not None and block:
            check_timeout(timeout)
        if (self._spread == 1 and lock_duration is ... and self._postponed is None
                and not self._halted and not self._watched and self._clock is None
                and self.current()):
            message = self.get_at_once()
            if message is not None:
                return message
        lock = self._lock if lock_duration is ... else self._lock_ms(lock_duration)
        found = self.gather(1, block, timeout, lock, True)
        if not found:
            raise self._empty()
        return found[0]

    cdef Message get_at_once(self):
        """None: not without more ado."""
        cdef mql_acquire how
        cdef mql_acquired got
        cdef size_t count = 1
        cdef Share share
        cdef int rc
        how.lock_ms, how.max_acquired, how.slice_ns, how.any = self._lock, self._most, 0, 0
        for share in self._shares:
            if self._single is None and mql_share_due_in(share._c) != 0:
                continue
            rc = mql_share_acquire(share._c, &how, &got, &count)
            if rc == MQL_OK:
                return self.accepted_for_delivery(share, &got, self._lock)
            if rc == MQL_E_CORRUPT:  # it is told once
                self._store.end(rc)
            return None
        return None

    cdef Message accepted_for_delivery(self, Share share, const mql_acquired *got, int64_t lock):
        """None: nothing to deliver there; what is out of deliveries went to the dead letters."""
        cdef Message message = share.deliver(got, self)
        if message is None:
            return None
        message._lock = lock
        if got.moving >= 0 or 0 < self._deliveries < message.delivery_count:
            if got.moving < 0:
                message.delivery_count -= 1  # it was acquired, but is not delivered
            self._bury(message)
            return None
        return message

    def _gather(self, Py_ssize_t count, block, timeout, lock_ms, bint raises):
        """Up to so many messages, as soon as there is one."""
        return self.gather(count, block, timeout, lock_ms, raises)

    cdef list gather(
            self, Py_ssize_t count, object block, object timeout, int64_t lock, bint raises):
        cdef int64_t deadline = deadline_of(timeout if block else None)
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
            if self._watched:
                self._show()
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
        if share is not None:
            pinned = store.begin()
            with nogil:
                rc = mql_share_wait(share._c, left)
                mql_leave(pinned)
        else:
            for share in self._shares:
                left = min(left, mql_share_due_in(share._c))
            pinned = store.begin()
            with nogil:
                rc = mql_doorbell_wait(store._c, seen, left)
                mql_leave(pinned)
        if rc != MQL_E_CLOSED and rc != MQL_E_DELETED:  # check() says it better
            store.end(rc)
        PyErr_CheckSignals()
        return 0

    cdef list attempt(self, Py_ssize_t count, int64_t lock):
        """What is there now."""
        cdef list out = []
        cdef Share share
        for share in self.in_turn():
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

    cdef tuple in_turn(self):
        """The shares in the order in which to ask them: a priority's partitions take turns."""
        cdef Py_ssize_t spread = self._spread, first
        cdef list out = []
        if spread == 1:
            return self._shares
        self._next = (self._next + 1) % spread
        for first in range(0, len(self._shares), spread):
            out += self._shares[first + self._next:first + spread]
            out += self._shares[first:first + self._next]
        return tuple(out)

    cdef int drain(self, Share share, Py_ssize_t count, int64_t lock, list out) except -1:
        """Adds to `out` what one share has now, up to `count` in all."""
        cdef mql_acquired got[AT_ONCE]
        cdef size_t some, i
        cdef int rc = MQL_OK
        cdef Message message
        cdef object failed = None
        while len(out) < count and failed is None and rc != MQL_END:
            some = <size_t>min(count - len(out), AT_ONCE)
            rc = self.acquire(share, lock, got, &some)
            if rc < 0:
                failed = failure(rc, self._store.path)
            for i in range(some):
                try:
                    message = self.accepted_for_delivery(share, &got[i], lock)
                    if message is not None:
                        out.append(message)
                except BaseException as error:
                    failed = error
        if failed is not None:
            raise failed
        return 0

    cdef int acquire(
            self, Share share, int64_t lock, mql_acquired *got, size_t *count) except? 1000:
        """The engine's, with the GIL as long as nobody else is inside."""
        cdef mql_acquire how
        cdef size_t most = count[0]
        cdef int rc
        how.lock_ms, how.max_acquired, how.slice_ns, how.any = lock, self._most, 0, 0
        rc = mql_share_acquire(share._c, &how, got, count)
        how.slice_ns = LOCK_SLICE_NS
        while rc == MQL_TIMEOUT:
            count[0] = most
            pinned = self._store.begin()
            with nogil:
                rc = mql_share_acquire(share._c, &how, got, count)
                mql_leave(pinned)
            if rc == MQL_TIMEOUT:
                PyErr_CheckSignals()
        return rc

    def _owns(self, message):
        """Whether it was acquired by this handle, or by another of the same queue here."""
        cdef Share share
        if isinstance(message, Message):
            for share in self._shares:
                if (<Message>message)._share._c is share._c:
                    return True
        return False
