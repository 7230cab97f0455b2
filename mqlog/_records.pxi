# What is read: Record, the Reader that makes them, and two ways past them, Values and Columns.
# Part of _engine.pyx.

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBuffer_FillInfo

cdef enum:
    COPY_BELOW = 4096  # a smaller batch is copied where a lease would do: the lease costs more
    INFLATE_MAX = 268435456  # no batch inflates to more

cdef str RESERVED = "__mqlog."  # header names of our own: not given in by users, not shown to them


@cython.final
@cython.internal
cdef class Source:
    """What the records of one reader have in common."""

    cdef str topic
    cdef int partition
    cdef object codec


@cython.final
@cython.internal
@cython.no_gc
cdef class Lease:
    """Keeps the payload of one batch readable, past close and retention; views hold on to it."""

    cdef mql_lease *_c
    cdef const uint8_t *data
    cdef Py_ssize_t length

    def __cinit__(self):
        self._c = NULL

    def __dealloc__(self):
        if self._c is not NULL:
            mql_lease_free(self._c)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.data, self.length, 1, flags)


cdef inline object bytes_of(const mql_value *value):
    if value.length < 0:
        return None
    return PyBytes_FromStringAndSize(<const char *>value.data, <Py_ssize_t>value.length)


# -- records -------------------------------------------------------------------------------------

@cython.no_gc  # millions are made; a record that is inside its own decoded value is never freed
@cython.freelist(256)
cdef class Record:
    """What a user appended, as it was read. Made by the engine only; equal to itself alone.

    With `copy=False` key, raw and header bytes are lent: key and raw are read-only memoryviews that
    keep the log's own memory, and such a record is not pickled.
    """

    cdef Source _source
    cdef int64_t _ms
    cdef object _headers  # None: there are none; bytes: as stored; tuple: taken apart
    cdef object _value  # decoded, if `_decoded`
    cdef bint _decoded
    cdef readonly int64_t offset
    cdef readonly object key
    cdef readonly object raw

    __class_getitem__ = classmethod(GenericAlias)

    @property
    def topic(self):
        return self._source.topic

    @property
    def partition(self):
        return self._source.partition

    @property
    def id(self):
        """Unique in the store for ever, such as "orders-0:17"."""
        return f"{self._source.topic}-{self._source.partition}:{self.offset}"

    @property
    def timestamp(self):
        """Epoch seconds, or None where the log has none."""
        return None if self._ms == -1 else self._ms / 1000.0

    @property
    def timestamp_ms(self):
        """Milliseconds since 1970; -1 where the log has none."""
        return self._ms

    @property
    def datetime(self):
        """The timestamp, aware, in UTC; `ValueError` if it is outside the years 1 to 9999."""
        if self._ms == -1:
            return None
        try:
            return EPOCH + self._ms * MILLISECOND
        except OverflowError:
            what = f"the timestamp of {self.id} is {self._ms} ms"
            raise ValueError(f"{what}, which no datetime can say: see timestamp_ms") from None

    @property
    def value(self):
        """The value as the codec decodes it, at the first access; None is a tombstone."""
        cdef object codec = self._source.codec
        if codec is None or self.raw is None:
            return self.raw
        if not self._decoded:
            self._value = codec.decode(self.raw if isinstance(self.raw, bytes) else bytes(self.raw))
            self._decoded = True
        return self._value

    @property
    def headers(self):
        """Pairs of name and bytes or None, in the order given; a name may come more than once."""
        if self._headers is None:
            return ()
        if isinstance(self._headers, bytes):
            self._headers = split_headers(self._headers)
        return tuple([pair for pair in self._headers if not pair[0].startswith(RESERVED)])

    def _all_headers(self):
        """Those of mqlog's own too."""
        self.headers
        return () if self._headers is None else self._headers

    def header(self, str name not None, default=None):
        """The last header of that name, or `default`."""
        for pair in reversed(self.headers):
            if pair[0] == name:
                return pair[1]
        return default

    def __repr__(self):
        return f"<mqlog.{type(self).__name__} {self.id}>"

    def __reduce__(self):
        if isinstance(self.raw, memoryview) or isinstance(self.key, memoryview):
            raise TypeError(f"{self!r} lends memory of its process: send bytes(record.raw) instead")
        where = (self._source.topic, self._source.partition, self._source.codec)
        return _restore_record, (*where, self.offset, self._ms, self.key, self.raw, self._headers)


def _restore_record(str topic not None, int partition, codec, int64_t offset, int64_t ms, key, raw,
                    headers):
    """Makes a pickled record again."""
    cdef Source source = Source.__new__(Source)
    cdef Record record = Record.__new__(Record)
    source.topic, source.partition, source.codec = topic, partition, codec
    record._source, record.offset, record._ms = source, offset, ms
    record.key, record.raw, record._headers = key, raw, headers
    return record


cdef tuple split_headers(bytes stored):
    cdef mql_value left, name, value
    cdef list out = []
    left.data = <const uint8_t *>PyBytes_AS_STRING(stored)
    left.length = PyBytes_GET_SIZE(stored)
    while left.length > 0:
        check(mql_header_next(&left, &name, &value))
        out.append(((<bytes>bytes_of(&name)).decode("utf-8", "surrogateescape"), bytes_of(&value)))
    return tuple(out)


# -- readers -------------------------------------------------------------------------------------

cdef Reader open_reader(Log log, int64_t start, object stop, int flags, object codec):
    cdef Reader reader = Reader.__new__(Reader)
    cdef Source source = reader._source
    reader._log, reader._store = log, log.store
    source.topic, source.partition, source.codec = log.topic, log.partition, codec
    reader._position = start
    reader._stop = INT64_MAX if stop is None else stop
    log.store.enter()
    log.store.end(mql_cursor_open(log._c, start, flags, &reader._cursor))
    return reader


@cython.final
@cython.no_gc_clear  # the cursor is freed while the store is still there
cdef class Reader:
    """A place in one partition, and what can be read from there; one thread at a time.

    Without a `stop` it reads on as records arrive: StopIteration then means "nothing now", and a
    later call goes on. `CorruptError` is raised once, the reader then stands behind the damage.
    """

    cdef mql_cursor *_cursor
    cdef mql_batch _batch  # entered last
    cdef mql_walk _walk  # through it, while `_walking`
    cdef mql_record_view _view  # the record that `step` found, lent as long as the batch is
    cdef int64_t _position
    cdef int64_t _stop
    cdef bint _walking
    cdef bint _busy  # in a call that may have released the GIL
    cdef bint _copy
    cdef bint _skip
    cdef Store _store
    cdef Log _log
    cdef Source _source
    cdef object _owner  # of the payload: a Lease, bytes, or None while the cursor lends it
    cdef memoryview _window  # on the owner, for copy=False
    cdef object _pending  # an exception that waits until the records before it are given out
    cdef int64_t _resume  # the position once it is raised

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self):
        self._cursor = NULL
        self._source = Source.__new__(Source)
        self._copy = True
        memset(&self._batch, 0, sizeof(mql_batch))

    def __dealloc__(self):
        if self._cursor is not NULL:
            mql_cursor_free(self._cursor)

    def __reduce__(self):
        raise TypeError(
            "a reader stays in its process: send the topic and the offset (reader.position) instead"
        )

    @property
    def position(self):
        """The next offset to be read."""
        return self._position

    @property
    def stop(self):
        """Where reading ends, exclusive; None: it follows the log."""
        return None if self._stop == INT64_MAX else self._stop

    def seek(self, int64_t offset):
        """The next record read is the first at or behind `offset`."""
        self.enter()
        self._walking = False
        self._store.end(mql_cursor_seek(self._cursor, offset))
        self._position = offset

    def __iter__(self):
        return self

    def __next__(self):
        self.enter()
        if self.step():
            return self.record()
        raise StopIteration

    def take(self, Py_ssize_t max_records):
        """Up to that many records that are there now; [] if none.

        What was read before a damage comes first, and the next call raises.
        """
        cdef list out = []
        cdef Py_ssize_t left = max_records
        self.enter()
        try:
            while left > 0 and self.step():
                out.append(self.record())
                left -= 1
                self._store.enter()
        except BaseException as error:
            if not out:
                raise
            self.postpone(error, (<Record>out[len(out) - 1]).offset + 1)
        return out

    def values(self, bint raw=False):
        """An iterator over the values alone; it moves this reader. `raw`: not decoded."""
        cdef Values out = Values.__new__(Values)
        self.enter()
        out._reader = self
        out._codec = None if raw else self._source.codec
        return out

    def columns(self, Py_ssize_t max_records):
        """Up to that many records that are there now, by column; None if there are none."""
        cdef Columns out
        self.enter()
        cdef int64_t room = min(self._log.ends().end_offset, self._stop) - self._position
        if min(room, max_records) <= 0:
            return None
        out = new_columns(self._source.partition, min(room, max_records))
        try:
            while out._count < out._room and (self._walking or self.load()):
                self.fill(out)
        except BaseException as error:
            if out._count == 0:
                raise
            self.postpone(error, out._offsets.data[out._count - 1] + 1)
        out.finish()
        return out if out._count else None

    # -- inside ----------------------------------------------------------------------------------

    cdef inline int enter(self) except -1:
        if (self._busy or self._pending is not None or self._store.closed
                or self._store._forks != FORKS):
            self.refuse()
        return 0

    cdef int refuse(self) except -1:
        self._store.enter()
        if self._busy:
            raise RuntimeError("a reader serves one thread at a time: open one for each thread")
        error, self._pending, self._position = self._pending, None, self._resume
        raise error

    cdef int postpone(self, object error, int64_t position) except -1:
        self._pending, self._resume, self._position = error, self._position, position
        return 0

    cdef inline int step(self) except -1:
        """1: `_view` is the next record; 0: there is none now."""
        cdef int rc
        while True:
            if self._walking:
                rc = mql_walk_next(&self._walk, &self._view)
                if rc != MQL_OK:
                    self.leave(rc)
                elif self._view.offset >= self._stop:
                    self._position = self._stop
                    self._walking = False
                    return 0
                elif self._view.offset >= self._position:
                    self._position = self._view.offset + 1
                    return 1
            elif not self.load():
                return 0

    cdef Record record(self):
        """What `_view` shows. The bytes first: making an object may run other Python code."""
        cdef object key = self.lent_or_copied(&self._view.key)
        cdef object raw = self.lent_or_copied(&self._view.value)
        cdef object headers = bytes_of(&self._view.headers) if self._view.header_count > 0 else None
        cdef Record out = Record.__new__(Record)
        out._source = self._source
        out.offset = self._view.offset
        out._ms = self._view.timestamp
        out._decoded = False
        out.key = key
        out.raw = raw
        out._headers = headers
        return out

    cdef inline object lent_or_copied(self, const mql_value *value):
        cdef Py_ssize_t start
        if self._copy or value.length < 0:
            return bytes_of(value)
        start = value.data - self.payload()
        return self._window[start:start + <Py_ssize_t>value.length]

    cdef int load(self) except -1:
        """Enters the next batch of ours. 1: `_walk` stands before its records; 0: none now."""
        cdef int rc
        self._busy = True
        try:
            while self._position < self._stop:
                rc = self.next_batch()
                if rc == MQL_END:
                    return 0
                if rc == MQL_OK and self.begin_walk():
                    return 1
            return 0
        finally:
            self._busy = False

    cdef int next_batch(self) except -1:
        """MQL_OK, MQL_END, or MQL_BUSY: what was there is not for readers, or damaged."""
        cdef int rc
        cdef mql_store *pinned
        self._owner = self._window = None
        if self._batch.payload_length > BIG:
            pinned = self._store.begin()
            with nogil:
                rc = mql_cursor_next(self._cursor, &self._batch)
                mql_leave(pinned)
        else:
            self._store.enter()
            rc = mql_cursor_next(self._cursor, &self._batch)
        if rc == MQL_E_CORRUPT:
            self.damaged(failure(rc, self._store.path))
            return MQL_BUSY
        self._store.enter()
        if self._store.end(rc) == MQL_END:
            return MQL_END
        if self._batch.attributes & MQL_BATCH_CONTROL or self._batch.count == 0:
            self._position = max(self._position, self._batch.last_offset + 1)
            return MQL_BUSY
        return MQL_OK

    cdef int begin_walk(self) except -1:
        cdef int code = MQL_BATCH_COMPRESSION(self._batch.attributes)
        cdef bytes data
        if code != MQL_NONE:
            data = self.copied()
            try:
                data = _compression.inflate(code, data, INFLATE_MAX)
            except ValueError as error:
                self.damaged(self.damage_of_batch(str(error)))
                return 0
            except BaseException:
                if not self._store.closed:
                    mql_cursor_seek(self._cursor, self._position)
                raise
            self.own(data)
            self._store.enter()
        else:
            mql_walk_start(&self._walk, &self._batch, self._batch.payload,
                           <size_t>self._batch.payload_length)
        if not self._copy:
            self._window = PyMemoryView_FromObject(self.keep())
        self._walking = True
        return 1

    cdef int own(self, bytes data) except -1:
        self._owner = data
        mql_walk_start(&self._walk, &self._batch, <const uint8_t *>PyBytes_AS_STRING(data),
                       <size_t>PyBytes_GET_SIZE(data))
        return 0

    cdef bytes copied(self):
        return PyBytes_FromStringAndSize(
            <const char *>self._batch.payload, <Py_ssize_t>self._batch.payload_length
        )

    cdef const uint8_t *payload(self) noexcept:
        if isinstance(self._owner, bytes):
            return <const uint8_t *>PyBytes_AS_STRING(self._owner)
        return self._batch.payload

    cdef object keep(self):
        """What keeps the entered batch when the cursor goes on; moves `_walk`, not `_view`."""
        cdef Lease lease
        cdef const uint8_t *before = self._batch.payload
        if self._owner is not None:
            return self._owner
        if not self._copy or self._batch.payload_length >= COPY_BELOW:
            lease = Lease.__new__(Lease)
            if self._store.end(mql_cursor_lease(self._cursor, &lease._c)) == MQL_OK:
                lease.data, lease.length = before, <Py_ssize_t>self._batch.payload_length
                self._owner = lease
                return lease
        self._owner = self.copied()
        self._walk.at = self.payload() + (self._walk.at - before)
        self._walk.end = self.payload() + (self._walk.end - before)
        return self._owner

    cdef int leave(self, int rc) except -1:
        """Behind the entered batch: its records are through, or a record in it is malformed."""
        self._walking = False
        if rc < 0:
            what = (<bytes>mql_error_last().text).decode("utf-8", "replace")
            self.damaged(self.damage_of_batch(what))
        self._position = max(self._position, self._batch.last_offset + 1)
        return 0

    cdef object damage_of_batch(self, str what):
        file = f"{self._source.topic}-{self._source.partition}/{self._batch.segment:020d}.log"
        path = os.path.join(self._store.path, file)
        start, stop = max(self._position, self._batch.base_offset), self._batch.last_offset + 1
        return errors.CorruptError(what, path, self._batch.position, start, stop)

    cdef int damaged(self, object error) except -1:
        """Stands behind the damage; raises, or says so in the log."""
        cdef int64_t before = self._position
        self._position = max(before, <int64_t>error.stop)
        if not self._skip or self._position == before:
            raise error
        LOGGER.warning("skipped: %s", error)
        return 0

    cdef int fill(self, Columns out) except -1:
        """Moves records of the entered batch into `out`."""
        cdef mql_record_view view
        cdef Py_ssize_t n = out._count
        cdef Py_ssize_t room = out._room
        cdef int64_t *offsets = out._offsets.data
        cdef int64_t *times = out._times.data
        cdef int64_t position = self._position
        cdef int rc = MQL_OK
        self._store.enter()  # `out` is new: making it may have closed the store
        out.begin_part(self.keep(), &self._walk, position)
        while n < room:
            rc = mql_walk_next(&self._walk, &view)
            if rc != MQL_OK:
                break
            if view.offset < position:
                continue
            if view.offset >= self._stop:
                self._walking = False
                position = self._stop
                break
            offsets[n] = view.offset
            times[n] = view.timestamp
            position = view.offset + 1
            n += 1
        self._position = position
        out.end_part(n)
        if rc != MQL_OK:
            self.leave(rc)
        return 0

    cdef int64_t first_since(self, int64_t timestamp) except -1:
        cdef int64_t offset = self._position
        cdef int rc
        cdef mql_store *pinned = self._store.begin()
        with nogil:
            rc = mql_cursor_seek_time(self._cursor, timestamp, &offset)
            mql_leave(pinned)
        self._store.end(rc)
        self.enter()
        self._position = offset
        while self.step():
            if self._view.timestamp >= timestamp:
                return self._view.offset
        return self._position


@cython.final
cdef class Values:
    """Iterates over the values of a reader; made by `Reader.values`."""

    cdef Reader _reader
    cdef object _codec

    def __iter__(self):
        return self

    def __next__(self):
        cdef Reader reader = self._reader
        reader.enter()
        if not reader.step():
            raise StopIteration
        value = bytes_of(&reader._view.value)
        return value if self._codec is None or value is None else self._codec.decode(value)

    def __reduce__(self):
        return self._reader.__reduce__()


# -- columns -------------------------------------------------------------------------------------

@cython.final
@cython.internal
@cython.no_gc
cdef class Int64s:
    """An array of int64 that owns its memory and lends it as a buffer."""

    cdef int64_t *data
    cdef Py_ssize_t length
    cdef Py_ssize_t stride

    def __cinit__(self):
        self.data = NULL

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.obj = self
        view.buf = self.data
        view.len = self.length * <Py_ssize_t>sizeof(int64_t)
        view.readonly = 0
        view.itemsize = sizeof(int64_t)
        view.format = <char *>b"q" if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = &self.length if flags & PyBUF_ND else NULL
        view.strides = &self.stride if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL


cdef Int64s new_int64s(Py_ssize_t room):
    cdef Int64s out = Int64s.__new__(Int64s)
    out.data = <int64_t *>malloc(<size_t>room * sizeof(int64_t))
    out.stride = sizeof(int64_t)
    if out.data is NULL:
        raise MemoryError()
    return out


cdef struct Part:  # of a Columns: records of one batch
    mql_walk walk  # stands at or before the first of them
    int64_t first  # its offset, or one before it
    Py_ssize_t count


cdef Columns new_columns(int partition, Py_ssize_t room):
    cdef Columns out = Columns.__new__(Columns)
    out.partition = partition
    out._room = room
    out._offsets = new_int64s(room)
    out._times = new_int64s(room)
    out._owners = []
    return out


@cython.final
@cython.no_gc  # holds bytes and leases
cdef class Columns:
    """Records of one partition by column, as NumPy and Arrow like them.

    Keys and values are made when asked for; until it goes, a Columns keeps the log's memory that
    they stand in.
    """

    cdef readonly int partition
    cdef Int64s _offsets
    cdef Int64s _times
    cdef Py_ssize_t _room
    cdef Py_ssize_t _count
    cdef Part *_parts
    cdef Py_ssize_t _parts_used
    cdef Py_ssize_t _parts_room
    cdef list _owners  # of the bytes that the parts walk through

    def __cinit__(self):
        self._parts = NULL
        self._count = self._parts_used = self._parts_room = 0

    def __dealloc__(self):
        free(self._parts)

    def __len__(self):
        return self._count

    @property
    def offsets(self):
        """int64, one a record."""
        return memoryview(self._offsets)

    @property
    def timestamps_ms(self):
        """int64, milliseconds since 1970, one a record; -1 where the log has none."""
        return memoryview(self._times)

    def values(self):
        """The values as stored, in a new list."""
        return self.gather(False)

    def keys(self):
        """The keys, in a new list."""
        return self.gather(True)

    cdef list gather(self, bint keys):
        cdef list out = []
        cdef mql_record_view view
        cdef mql_walk walk
        cdef Py_ssize_t i, left
        for i in range(self._parts_used):
            walk = self._parts[i].walk
            left = self._parts[i].count
            while left > 0 and check(mql_walk_next(&walk, &view)) == MQL_OK:
                if view.offset >= self._parts[i].first:
                    out.append(bytes_of(&view.key if keys else &view.value))
                    left -= 1
        return out

    cdef int begin_part(self, object owner, const mql_walk *walk, int64_t first) except -1:
        cdef Py_ssize_t room = max(8, 2 * self._parts_room)
        cdef void *moved
        if self._parts_used == self._parts_room:
            moved = realloc(self._parts, <size_t>room * sizeof(Part))
            if moved is NULL:
                raise MemoryError()
            self._parts, self._parts_room = <Part *>moved, room
        self._owners.append(owner)
        self._parts[self._parts_used].walk = walk[0]
        self._parts[self._parts_used].first = first
        return 0

    cdef int end_part(self, Py_ssize_t count) noexcept:
        self._parts[self._parts_used].count = count - self._count
        self._parts_used += 1
        self._count = count
        return 0

    cdef int finish(self) noexcept:
        """Gives back what the arrays did not need, where that is much."""
        cdef void *moved
        self._offsets.length = self._times.length = self._count
        if self._count and self._count <= self._room // 2:
            moved = realloc(self._offsets.data, <size_t>self._count * sizeof(int64_t))
            self._offsets.data = <int64_t *>moved if moved is not NULL else self._offsets.data
            moved = realloc(self._times.data, <size_t>self._count * sizeof(int64_t))
            self._times.data = <int64_t *>moved if moved is not NULL else self._times.data
        return 0
