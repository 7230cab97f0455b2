# The handles: Store and its Gate, Log (a partition), Group. Part of _engine.pyx.
#
# Each method is the same four steps: convert, `enter()`, call, `end()`. A call that may block is
# made without the GIL; then `begin()` and `mql_leave` stand around it. Who holds a lock may be
# stopped, so such a call may come back without it, for a look at signals: `heard()` stands in place
# of `end()`, and says whether it is to be made again.

@cython.final
cdef class Store:
    """One opening of a store. Any thread may call."""

    cdef mql_store *_c
    cdef unsigned int _forks
    cdef readonly str path
    cdef readonly bint read_only
    cdef readonly bint closed
    cdef PyObject *_held  # the messages that were acquired here and not settled, linked; borrowed
    cdef object __weakref__

    def __cinit__(self):
        self._c = self._held = NULL
        self._forks = FORKS
        self.closed = True

    def __init__(self, path, *, bint read_only=False, bint create=True, bint threads=True,
                 min_free_bytes=None, max_bytes=0, file_mode=0o600):
        cdef mql_open_options options
        cdef bytes where = os.fsencode(path)  # TypeError: neither str, bytes nor PathLike
        cdef const char *name
        cdef int rc
        if self._c is not NULL:
            raise RuntimeError(f"this Store is open on {self.path}: make another")
        if not where or b"\0" in where:
            raise ValueError(f"a store's path is not empty and holds no NUL character: {path!r}")
        where = os.path.abspath(where)
        name = where
        self.path = os.fsdecode(where)
        memset(&options, 0, sizeof(options))
        options.read_only = read_only
        options.create = create
        options.threads = threads
        options.file_mode = file_mode
        options.min_free_bytes = MQL_DEFAULT_FREE if min_free_bytes is None else min_free_bytes
        options.max_bytes = max_bytes
        while True:
            with nogil:
                mql_enter(NULL)
                rc = mql_open(name, &options, &self._c)
                mql_leave(NULL)
            if self.heard(rc) != MQL_E_LATER:
                break
        self.read_only = read_only
        self.closed = False

    def __dealloc__(self):
        if self._c is NULL:
            return
        if not self.closed and self._forks == FORKS:
            try:
                self.finish()
            except KeyboardInterrupt:
                PyErr_SetInterrupt()  # to be heard where it can be raised
            except BaseException:
                pass
        mql_free(self._c)

    def close(self):
        """Ends this opening; calls that wait get `ClosedError`. If it raises, it is closed too."""
        if self.closed:
            return
        self.closed = True
        if self._forks != FORKS:
            return
        self.release_all()
        mql_wake(self._c)
        self.finish()

    cdef int finish(self) except -1:
        """Closes it. A signal that raises ends the waiting: then as a death would."""
        cdef int rc = MQL_E_LATER
        while rc == MQL_E_LATER:
            with nogil:
                mql_enter(self._c)
                rc = mql_close(self._c)
                mql_leave(self._c)
            try:
                self.heard(rc)
            except BaseException:
                if rc == MQL_E_LATER:
                    with nogil:
                        mql_abandon(self._c)
                raise
        return 0

    cdef int release_all(self) except -1:
        """What is held is to be delivered again; where that fails, when this process has ended."""
        cdef Message message
        cdef int64_t slice_ns = LOCK_SLICE_NS
        while self._held is not NULL:
            message = <Message>self._held
            message.let_go(LOST)
            if not message._share.give_back(message.offset, message.token, slice_ns):
                slice_ns = 0  # who has the lock may be stopped, and there may be many
        return 0

    cdef inline int enter(self) except -1:
        """What every call does first, and again when it has retaken the GIL."""
        if self.closed or self._forks != FORKS:
            self.refuse()
        return 0

    cdef mql_store *begin(self) except NULL:
        """`enter()` before a call without the GIL: what it uses stays mapped until `mql_leave`."""
        self.enter()
        mql_enter(self._c)
        return self._c

    cdef inline int end(self, int rc) except -1:
        """What every call does last: results pass, failures are raised with the full path."""
        if rc < 0:
            raise failure(rc, self.path)
        return rc

    cdef inline int64_t heard(self, int64_t rc) except? -1:
        """`end()` of a call that waits for locks. MQL_E_LATER: it is to be made again.

        A signal's handler may raise in between: then nothing has changed.
        """
        if rc == MQL_E_LATER:
            PyErr_CheckSignals()
        elif rc < 0:
            raise failure(<int>rc, self.path)
        return rc

    cdef int refuse(self) except -1:
        if self.closed:
            raise errors.ClosedError(f"the store {self.path} is closed")
        raise errors.ForkedError(
            f"the store {self.path} was opened by the parent process: open it here again"
        )

    @property
    def forked(self):
        """Whether it was opened before a fork of this process."""
        return self._forks != FORKS

    @property
    def options_generation(self):
        """Grows with every `write_options` by any process; 0 in a read-only store."""
        self.enter()
        return mql_options_generation(self._c)

    def gate(self, timeout=10.0):
        """A context manager that holds the gate: one holder on the machine, or `TimeoutError`."""
        self.enter()
        cdef Gate gate = Gate.__new__(Gate)
        gate._store = self
        gate._timeout = timeout
        return gate

    def read_options(self):
        """The bytes of mqlog.json, or None."""
        cdef uint8_t *data = NULL
        cdef size_t length = 0
        self.enter()
        if self.end(mql_options_read(self._c, &data, &length)) == MQL_END:
            return None
        try:
            return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>length)
        finally:
            mql_bytes_free(data)

    def write_options(self, bytes data not None, /):
        """Replaces mqlog.json, durably; the caller holds the gate."""
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef size_t length = <size_t>PyBytes_GET_SIZE(data)
        cdef int rc
        cdef mql_store *pinned = self.begin()
        with nogil:
            rc = mql_options_write(self._c, start, length)
            mql_leave(pinned)
        self.end(rc)

    def set_limits(self, min_free_bytes, max_bytes):
        """New bounds for all processes of the machine, at once. None: the default."""
        cdef uint64_t least = MQL_DEFAULT_FREE if min_free_bytes is None else min_free_bytes
        cdef uint64_t most = max_bytes
        self.enter()
        self.end(mql_store_limits(self._c, least, most))

    def sync(self):
        """On return everything appended before the call is on stable storage. Blocks."""
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.begin()
            with nogil:
                rc = mql_sync(self._c)
                mql_leave(pinned)
            if self.heard(rc) != MQL_E_LATER:
                break

    def partition(self, str topic not None, int partition, bint create, options):
        """Opens a partition, making its directory when `create`. Blocks: recovery is done here."""
        cdef bytes encoded = c_name(topic, "a topic's name")
        cdef const char *name = encoded
        cdef mql_log_options limits = c_options(options)
        cdef Log log = Log.__new__(Log)
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.begin()
            with nogil:
                rc = mql_partition(self._c, name, partition, create, &limits, &log._c)
                mql_leave(pinned)
            if self.heard(rc) != MQL_E_LATER:
                break
        log.store = self
        log.topic = topic
        log.partition = partition
        log.waits = limits.durability == MQL_DURABILITY_SYNC
        return log

    def bell(self):
        """The doorbell's word, for `wait_bell`."""
        self.enter()
        return mql_doorbell(self._c)

    def wait_bell(self, uint32_t seen, timeout):
        """True once the bell differs from `seen`; False at the timeout. Blocks."""
        cdef int64_t deadline = deadline_of(timeout)
        cdef int64_t left
        cdef int rc, done = 0
        cdef mql_store *pinned
        while done == 0:
            left = slice_until(deadline)
            pinned = self.begin()
            with nogil:
                rc = mql_doorbell_wait(self._c, seen, left)
                mql_leave(pinned)
            done = over(self, rc, deadline)
        return done == 1

    def wake(self):
        """Ends every wait of every process of the machine, spuriously."""
        self.enter()
        mql_wake(self._c)

    def recovered(self):
        """What opening found and cut or set aside."""
        cdef mql_recovered found
        cdef list out = []
        cdef size_t number = 0
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.begin()
            with nogil:
                rc = mql_recovered_at(self._c, number, &found)
                mql_leave(pinned)
            if self.heard(rc) == MQL_END:
                return out
            if rc == MQL_E_LATER:
                continue
            number += 1
            out.append(Recovered(
                found.topic.decode(), found.partition, found.row, found.segment, found.position,
                found.bytes, os.fsdecode(<bytes>found.file),
            ))


@cython.final
@cython.no_gc  # holds nothing that could lead back
cdef class Gate:
    """Context manager that holds the store's gate."""

    cdef Store _store
    cdef object _timeout

    def __enter__(self):
        cdef int64_t deadline = deadline_of(self._timeout)
        cdef int64_t left
        cdef int rc, done = 0
        cdef mql_store *pinned
        while done == 0:
            left = slice_until(deadline)
            pinned = self._store.begin()
            with nogil:
                rc = mql_gate_take(pinned, left)
                mql_leave(pinned)
            if rc == MQL_OK:
                return self
            done = over(self._store, rc, deadline)
        raise TimeoutError(
            f"another process or thread held the gate of {self._store.path} for {self._timeout} s"
        )

    def __exit__(self, kind, value, trace, /):
        if self._store._forks == FORKS:  # a forked child never had it
            mql_gate_drop(self._store._c)


ctypedef int (*wait_function)(mql_log *, int64_t, int64_t) noexcept nogil


@cython.final
@cython.no_gc
cdef class Log:
    """One partition. Any thread may call."""

    cdef mql_log *_c
    cdef bint waits  # an append returns when it is durable: never with the GIL
    cdef readonly str topic
    cdef readonly int partition
    cdef readonly Store store

    def __cinit__(self):
        self._c = NULL

    def __repr__(self):
        return f"<mqlog._engine.Log {self.topic}-{self.partition} of {self.store.path}>"

    cdef mql_log_info ends(self) except *:
        cdef mql_log_info info
        self.store.enter()
        self.store.end(mql_log_ends(self._c, &info))
        return info

    @property
    def start_offset(self):
        """The first offset that can be read."""
        return self.ends().start_offset

    @property
    def end_offset(self):
        """The next offset to be given."""
        return self.ends().end_offset

    @property
    def durable_offset(self):
        """Everything below is on stable storage."""
        return self.ends().durable_offset

    @property
    def readable_offset(self):
        """What consumers may read up to: the durable end if durability is "sync", else the end."""
        self.store.enter()
        return mql_log_readable(self._c)

    def describe(self):
        """All that is known at once; a system call or a few."""
        cdef mql_log_info info
        self.store.enter()
        self.store.end(mql_log_describe(self._c, &info))
        return LogInfo(info.start_offset, info.end_offset, info.durable_offset, info.bytes,
                       info.segments, info.epoch, bool(info.poisoned))

    def measure(self, int64_t offset):
        """Bytes and segments of the log from the batch that holds `offset` on."""
        cdef mql_log_info info
        cdef int rc
        cdef mql_store *pinned = self.store.begin()
        with nogil:
            rc = mql_log_measure(self._c, offset, &info)
            mql_leave(pinned)
        self.store.end(rc)
        return info.bytes, info.segments

    def alter(self, options):
        """New options for this process' handle."""
        cdef mql_log_options limits = c_options(options)
        self.store.enter()
        self.store.end(mql_log_alter(self._c, &limits))
        self.waits = limits.durability == MQL_DURABILITY_SYNC

    def delete(self):
        """Marks it deleted for every process and takes its directory away, gated. Blocks."""
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_partition_delete(self._c)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break

    cdef object wait_for(self, wait_function wait, int64_t offset, object timeout):
        cdef int64_t deadline = deadline_of(timeout)
        cdef int64_t left
        cdef int rc, done = 0
        cdef mql_store *pinned
        while done == 0:
            left = slice_until(deadline)
            pinned = self.store.begin()
            with nogil:
                rc = wait(self._c, offset, left)
                mql_leave(pinned)
            done = over(self.store, rc, deadline)
        return done == 1

    def wait(self, int64_t offset, timeout):
        """True once a record at `offset` may be read; False at the timeout. Blocks."""
        return self.wait_for(mql_wait, offset, timeout)

    def wait_room(self, int64_t records, int64_t bytes, timeout):
        """True once a bounded queue may take so much; False at the timeout. Blocks."""
        cdef int64_t deadline = deadline_of(timeout)
        cdef int64_t left
        cdef int rc, done = 0
        while done == 0:
            left = slice_until(deadline)
            pinned = self.store.begin()
            with nogil:
                rc = mql_share_wait_room(self._c, records, bytes, left)
                mql_leave(pinned)
            done = over(self.store, rc, deadline)
        return done == 1

    def make_room(self):
        """Before a delayed record is put: space for it in every share group. Blocks."""
        cdef int rc
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_share_make_room(self._c)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break

    def delay(self, int64_t offset, int64_t due_ms):
        """A record just put is not delivered before `due_ms`, and then at once."""
        cdef int rc
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_share_delay(self._c, offset, due_ms)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break

    def wait_durable(self, int64_t offset, timeout):
        """True once all below `offset` is on stable storage; False at the timeout. Blocks."""
        return self.wait_for(mql_wait_durable, offset, timeout)

    def sync(self):
        """On return everything appended before the call is on stable storage. Blocks."""
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_log_sync(self._c)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break

    def trim(self, int64_t before):
        """Moves the log start to `before` and unlinks whole segments below it."""
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_trim(self._c, before)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break

    def unfinished(self, int64_t start, int64_t stop):
        """The first offset in the range that a share group has not finished; `stop`: none."""
        cdef int64_t found
        cdef mql_store *pinned
        while True:
            pinned = self.store.begin()
            with nogil:
                found = mql_unfinished(self._c, start, stop)
                mql_leave(pinned)
            if self.store.heard(found) != MQL_E_LATER:
                break
        return found

    def offset_at(self, int64_t timestamp_ms):
        """The first offset whose record's timestamp is >= it; the log end if there is none."""
        cdef Reader reader = open_reader(self, self.ends().start_offset, None, MQL_TO_END, None)
        return reader.first_since(timestamp_ms)

    def reader(self, int64_t start, stop=None, *, bint copy=True, bint verify=True,
               bint skip_corrupt=False, bint to_end=False, codec=None):
        """A place in this partition. `to_end`: also what is not durable yet in a "sync" topic."""
        cdef int flags = (0 if verify else MQL_UNVERIFIED) | (MQL_TO_END if to_end else 0)
        cdef Reader reader = open_reader(self, start, stop, flags, codec)
        reader._copy = copy
        reader._skip = skip_corrupt
        return reader

    def group(self, str name not None, bint create):
        """The place of the consumer group `name`. Blocks for the gate, if it is made here."""
        cdef bytes encoded = c_name(name, "a group's name")
        cdef const char *c_group = encoded
        cdef Group group = Group.__new__(Group)
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self.store.begin()
            with nogil:
                rc = mql_group_open(self._c, c_group, create, &group._c)
                mql_leave(pinned)
            if self.store.heard(rc) != MQL_E_LATER:
                break
        group._store = self.store
        group.name = name
        return group

    def verify(self, found, progress=None):
        """Reads everything and calls `found(path, position, what)` for each problem. Blocks."""
        cdef Verification run = Verification.__new__(Verification)
        cdef mql_verify_report report
        cdef int rc
        run.store, run.found, run.progress = self.store, found, progress
        self.store.enter()
        cdef mql_store *pinned = self.store._c
        mql_pin(pinned)  # in no hurry: it waits for no lock, and calls back
        with nogil:
            rc = mql_verify(self._c, on_found, on_progress, <void *>run, &report)
            mql_unpin(pinned)
        if run.error is not None:
            raise run.error
        self.store.end(rc)
        return VerifyReport(report.segments, report.batches, report.records, report.bytes,
                            report.index_entries, report.problems)


@cython.final
@cython.internal
cdef class Verification:
    """What the engine's callbacks need, and the first exception of one of them."""

    cdef Store store
    cdef object found
    cdef object progress
    cdef object error


cdef void on_found(
    void *context, const char *file, int64_t position, const char *what
) noexcept with gil:
    cdef Verification run = <Verification>context
    if run.error is None:
        try:
            path = os.path.join(run.store.path, os.fsdecode(<bytes>file))
            run.found(path, position, (<bytes>what).decode("utf-8", "replace"))
        except BaseException as error:
            run.error = error


cdef int on_progress(void *context, int64_t done, int64_t total) noexcept with gil:
    cdef Verification run = <Verification>context
    if run.error is None:
        try:
            PyErr_CheckSignals()
            run.store.enter()
            if run.progress is not None:
                run.progress(done, total)
        except BaseException as error:
            run.error = error
    return run.error is not None


@cython.final
@cython.no_gc
cdef class Group:
    """The place of one consumer group in one partition. Any thread may call."""

    cdef mql_group *_c
    cdef Store _store
    cdef readonly str name

    def __cinit__(self):
        self._c = NULL

    def committed(self):
        """The next offset that the group will read, or None before its first commit."""
        cdef int64_t offset = MQL_NO_OFFSET
        self._store.enter()
        self._store.end(mql_group_committed(self._c, &offset))
        return None if offset == MQL_NO_OFFSET else offset

    def commit(self, uint64_t member, int64_t offset, bint durable=False):
        """Raises `LockLostError` when `member` does not own the partition. Blocks if `durable`."""
        cdef int rc
        cdef mql_store *pinned
        if durable:
            pinned = self._store.begin()
            with nogil:
                rc = mql_group_commit(self._c, member, offset, True)
                mql_leave(pinned)
        else:
            self._store.enter()
            rc = mql_group_commit(self._c, member, offset, False)
        self._store.end(rc)

    def join(self):
        """A new member's id: unique in the store, dropped when this process dies."""
        cdef uint64_t member = 0
        self._store.enter()
        self._store.end(mql_group_join(self._c, &member))
        return member

    def leave(self, uint64_t member):
        """Drops a member; nothing to do after close or fork."""
        if not self._store.closed and self._store._forks == FORKS:
            mql_group_leave(self._c, member)

    def members(self):
        """The ids of the live members, ascending."""
        cdef uint64_t ids[MEMBERS]
        self._store.enter()
        cdef int count = self._store.end(mql_group_members(self._c, ids, MEMBERS))
        return [ids[i] for i in range(count)]

    def claim(self, uint64_t member):
        """Takes ownership of the partition; False while another live member has it."""
        self._store.enter()
        return self._store.end(mql_group_claim(self._c, member)) != MQL_BUSY

    def drop(self, uint64_t member):
        """Gives ownership up; nothing to do after close or fork."""
        if not self._store.closed and self._store._forks == FORKS:
            mql_group_drop(self._c, member)

    def owner(self):
        """The live member that owns the partition, or 0."""
        self._store.enter()
        return mql_group_owner(self._c)

    def delete(self):
        """Forgets the group in this partition; False while a live consumer holds it. Blocks."""
        cdef int rc
        cdef mql_store *pinned
        while True:
            pinned = self._store.begin()
            with nogil:
                rc = mql_group_delete(self._c)
                mql_leave(pinned)
            if self._store.heard(rc) != MQL_E_LATER:
                break
        return rc != MQL_BUSY
