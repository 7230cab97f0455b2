# What is written: from Python's arguments to the engine's structs, and Sender, which chooses the
# partition and the call. Part of _engine.pyx.

from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.pyport cimport PY_SSIZE_T_MAX
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_Tailmatch

cdef enum:
    # At most so much more than alone does a record take inside a batch: longer deltas and length.
    RECORD_SLACK = 14

cdef tuple NOTHING = ()


# -- arguments -----------------------------------------------------------------------------------

cdef inline const uint8_t *start_of(bytes data) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(data)


cdef inline object borrow(object thing, mql_value *out, str what):
    """Points `out` at the bytes of `thing`. The caller keeps what it returns as long as `out`."""
    if thing is None:
        out.data = NULL
        out.length = -1
        return None
    if isinstance(thing, bytes):
        out.data = start_of(thing)
        out.length = PyBytes_GET_SIZE(thing)
        return thing
    return borrow_buffer(thing, out, what)


cdef object borrow_buffer(object thing, mql_value *out, str what):
    cdef memoryview view
    try:
        view = PyMemoryView_FromObject(thing)  # holds the buffer: nobody resizes it
    except TypeError:
        raise not_bytes(thing, what) from None
    if not view.c_contiguous:
        return borrow(view.tobytes(), out, what)
    out.data = <const uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    out.length = PyMemoryView_GET_BUFFER(view).len
    return view


cdef object not_bytes(object thing, str what):
    if isinstance(thing, str):
        remedy = ": .encode() it" + (", or give a codec=" if what == "a value" else "")
    else:
        remedy = ", or None"
    return TypeError(f"{what} is bytes-like, not {type(thing).__name__}{remedy}")


cdef object borrow_headers(object headers, mql_record *record, list extra=None):
    """Encodes a mapping or pairs as the engine stores them; returned as `borrow` does."""
    cdef list pairs
    cdef bytes encoded, name, value
    cdef size_t size = 0
    cdef uint8_t *at
    record.headers.data = NULL
    record.headers.length = 0
    record.header_count = 0
    if extra is None and (headers is None or headers is NOTHING):
        return None
    pairs = [] if headers is None else encoded_pairs(headers)
    if extra is not None:
        pairs += extra
    if not pairs:
        return None
    for name, value in pairs:
        size += mql_header_size(len(name), -1 if value is None else len(value))
    encoded = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    at = <uint8_t *>start_of(encoded)
    for name, value in pairs:
        if value is None:
            at += mql_header_encode(start_of(name), len(name), NULL, -1, at)
        else:
            at += mql_header_encode(start_of(name), len(name), start_of(value), len(value), at)
    record.header_count = <int32_t>len(pairs)
    return borrow(encoded, &record.headers, "headers")


cdef list encoded_pairs(object headers):
    cdef list out = []
    if type(headers) is dict:
        for name, value in (<dict>headers).items():
            out.append(encoded_pair(name, value))
        return out
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for pair in items_of(pairs, "headers is a mapping, or pairs of str and bytes or None"):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            kind = type(pair).__name__
            raise TypeError(f"a header is a pair of str and bytes or None, not {kind}")
        out.append(encoded_pair(pair[0], pair[1]))
    return out


cdef tuple encoded_pair(object name, object value):
    cdef mql_value view
    if not isinstance(name, str):
        raise TypeError(f"a header's name is str, not {type(name).__name__}")
    if PyUnicode_Tailmatch(name, RESERVED, 0, PY_SSIZE_T_MAX, -1):
        raise ValueError(f'the header name {name!r} is reserved: none starts with "{RESERVED}"')
    if value is not None and type(value) is not bytes:
        value = bytes(borrow(value, &view, "a header's value"))
    try:
        return PyUnicode_AsUTF8String(name), value
    except UnicodeEncodeError:
        raise ValueError(f"the header name {name!r} cannot be written as UTF-8") from None


cdef object items_of(object given, str says):
    """What iterates over it; bytes and str are taken for mistakes."""
    if not isinstance(given, (str, bytes, bytearray, memoryview)):
        try:
            return iter(given)
        except TypeError:
            pass
    raise TypeError(f"{says}, not {type(given).__name__}")


cdef tuple column(object given, str name, Py_ssize_t count):
    """Keys, headers or timestamps of append_many: None, or one for each value."""
    if given is None:
        return None
    cdef tuple out = tuple(items_of(given, f"{name} is as many as there are values, or None"))
    if len(out) != count:
        raise ValueError(f"{count} values but {len(out)} {name}: nothing was appended")
    return out


# -- one call of the engine ----------------------------------------------------------------------

cdef struct Job:  # exactly one of the three pointers is set
    const mql_record *records
    const mql_value *values
    const uint8_t *batches
    size_t count  # of records or values; bytes of batches
    int64_t timestamp  # of values
    int64_t size  # about so many bytes will be moved
    int64_t offsets  # that it takes up


cdef inline int put(mql_log *log, const Job *job, int flags, int64_t *offset) noexcept nogil:
    if job.values is not NULL:
        return mql_append_values(log, job.values, job.count, job.timestamp, flags, offset)
    if job.batches is not NULL:
        return mql_append_batches(log, job.batches, job.count, flags, offset)
    if job.count == 1:
        return mql_append(log, job.records, flags, offset)
    return mql_append_records(log, job.records, job.count, flags, offset)


cdef int appended(Log log, int rc) except -1:
    cdef const mql_error *wanted
    if rc == MQL_FULL:
        wanted = mql_error_last()
        full = errors.Full(f"topic {log.topic!r} holds as much as its maxsize or max_bytes says")
        full._wanted = (wanted.start, wanted.stop)
        raise full
    return log.store.end(rc)


cdef int64_t perform(Log log, const Job *job, bint durable) except -1:
    """Appends, and returns the first offset. With the GIL where that is sure to be quick.

    A signal's handler may raise meanwhile: then nothing was appended, or, while it waits to be
    durable, all is in the log and not known to be on disk.
    """
    cdef int64_t offset = -1
    cdef int flags = MQL_DURABLE if durable else 0
    cdef int rc
    cdef bint waits = durable or log.waits
    cdef mql_store *pinned
    log.store.enter()
    if not waits and job.size <= BIG:
        rc = put(log._c, job, MQL_NOWAIT, &offset)
        if rc != MQL_BUSY:
            appended(log, rc)
            return offset
    while True:
        pinned = log.store.begin()
        with nogil:
            if waits:
                mql_give_turn()
            rc = put(log._c, job, flags, &offset)
            if waits:
                mql_take_turn()
            mql_leave(pinned)
        if rc == MQL_UNSYNCED:
            until_durable(log, offset + job.offsets)
        if appended(log, rc) != MQL_TIMEOUT:
            return offset
        PyErr_CheckSignals()


cdef int until_durable(Log log, int64_t offset) except -1:
    """What was appended below `offset` is durable: who syncs may be stopped."""
    cdef int rc = MQL_UNSYNCED
    cdef mql_store *pinned
    while rc == MQL_UNSYNCED:
        PyErr_CheckSignals()
        pinned = log.store.begin()
        with nogil:
            mql_give_turn()
            rc = mql_log_sync_until(log._c, offset)
            mql_take_turn()
            mql_leave(pinned)
        log.store.end(rc)
    return 0


cdef bytes pack(const mql_record *records, Py_ssize_t count, str compression, int64_t limit):
    """Whole batches of at most `limit` bytes of records, compressed if that makes them smaller."""
    cdef int64_t now = time_ns() // 1_000_000
    cdef list parts = []
    cdef Py_ssize_t first = 0, last
    cdef int64_t size, one
    while first < count:
        size, last = 0, first
        while last < count:
            one = mql_records_size(&records[last], 1, now) + RECORD_SLACK
            if last > first and size + one > limit:
                break
            size += one
            last += 1
        pack_batch(&records[first], last - first, now, compression, parts)
        first = last
    return b"".join(parts)


cdef int pack_batch(const mql_record *records, Py_ssize_t count, int64_t now, str compression,
                    list parts) except -1:
    cdef int64_t size = mql_records_size(records, <size_t>count, now)
    cdef bytes plain = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef bytes header = PyBytes_FromStringAndSize(NULL, MQL_BATCH_HEADER)
    cdef bytes packed
    cdef int code = _compression.CODES[compression]
    size = mql_records_encode(records, <size_t>count, now, <uint8_t *>start_of(plain), <size_t>size)
    if size < 0:
        check(<int>size)
    packed = _compression.compress(compression, plain)
    if len(packed) >= len(plain):
        packed, code = plain, MQL_NONE
    check(mql_batch_build(records, <size_t>count, now, code, start_of(packed), <size_t>len(packed),
                          <uint8_t *>start_of(header)))
    parts.append(header)
    parts.append(packed)
    return 0


@cython.final
@cython.internal
@cython.no_gc  # lives as long as one call
cdef class Many:
    """The records of one append_many, and all that their pointers point into."""

    cdef Py_ssize_t count
    cdef int64_t size
    cdef mql_value *values
    cdef mql_record *records
    cdef Py_ssize_t *places  # in the order given, of `records` once they are sorted by partition
    cdef tuple items
    cdef tuple keys
    cdef list kept

    def __cinit__(self):
        self.values = NULL
        self.records = NULL
        self.places = NULL
        self.kept = []

    def __dealloc__(self):
        free(self.values)
        free(self.records)
        free(self.places)

    cdef inline int keep(self, object given, object holder) except -1:
        if holder is not given:
            self.kept.append(holder)
        return 0

    cdef int borrow_values(self) except -1:
        """Values alone: the short way."""
        cdef Py_ssize_t i = 0
        cdef int64_t size = 0
        cdef mql_value *out = <mql_value *>malloc(<size_t>self.count * sizeof(mql_value))
        self.values = out
        if out is NULL:
            raise MemoryError()
        for item in self.items:
            if type(item) is bytes:
                out[i].data = <const uint8_t *>PyBytes_AS_STRING(item)
                out[i].length = PyBytes_GET_SIZE(item)
            else:
                self.keep(item, borrow(item, &out[i], "a value"))
            size += out[i].length
            i += 1
        self.size = size
        return 0

    cdef int borrow_records(self, tuple headers) except -1:
        cdef Py_ssize_t i
        cdef mql_record *out = <mql_record *>malloc(<size_t>self.count * sizeof(mql_record))
        self.records = out
        if out is NULL:
            raise MemoryError()
        for i in range(self.count):
            item = self.items[i]
            self.keep(item, borrow(item, &out[i].value, "a value"))
            item = None if self.keys is None else self.keys[i]
            self.keep(item, borrow(item, &out[i].key, "a key"))
            self.keep(None, borrow_headers(None if headers is None else headers[i], &out[i]))
            self.size += out[i].value.length + out[i].key.length + out[i].headers.length
        return 0

    cdef list group(self, Py_ssize_t partitions, int32_t keyless):
        """Sorts the records by partition, each in the order given. How many each partition gets."""
        cdef list counts = [0] * partitions
        cdef Py_ssize_t i, next_one
        cdef mql_record *sorted_ = <mql_record *>malloc(<size_t>self.count * sizeof(mql_record))
        cdef mql_record *given = self.records
        self.places = <Py_ssize_t *>malloc(<size_t>self.count * sizeof(Py_ssize_t))
        if sorted_ is NULL or self.places is NULL:
            free(sorted_)
            raise MemoryError()
        cdef list homes = []
        for i in range(self.count):
            home = keyless if given[i].key.length < 0 else mql_partition_for(
                given[i].key.data, <size_t>given[i].key.length, <int32_t>partitions)
            homes.append(home)
            counts[home] += 1
        starts, total = [], 0
        for n in counts:
            starts.append(total)
            total += n
        for i in range(self.count):
            next_one = starts[homes[i]]
            starts[homes[i]] += 1
            sorted_[next_one] = given[i]
            self.places[next_one] = i
        free(given)
        self.records = sorted_
        return counts


# -- the handle ----------------------------------------------------------------------------------

@cython.no_gc_clear  # `_only` is good as long as `_logs` is
cdef class Sender:
    """What handles that append have in common: where records go, and the calls. Any thread."""

    cdef Store _store
    cdef mql_log *_only  # the one partition, if a plain append may go there with the GIL held
    cdef unsigned int _generation
    cdef tuple _logs
    cdef object _codec
    cdef object _clock
    cdef str _compression  # None: none
    cdef int64_t _room  # for records in one compressed batch, before it is compressed
    cdef Py_ssize_t _turn
    cdef Py_ssize_t _spread  # keys are spread over so many partitions, the first ones

    def __cinit__(self, *args, **options):
        self._only = NULL
        self._turn = 0

    def _bind(self, Store store not None, logs, *, codec, compression, clock, batch_bytes,
              max_message_bytes, generation=None, spread=None):
        """Says where appends go. `generation`: the options' when they were read; None: now.

        `spread`: keys are spread over the first so many partitions only.
        """
        cdef tuple all_logs = tuple(logs)
        cdef Log log
        if not all_logs:
            raise ValueError("a handle is bound to at least one Log")
        for log in all_logs:  # TypeError: something else
            pass
        cdef int64_t limit = min(<int64_t>batch_bytes, <int64_t>max_message_bytes)
        cdef str packing = compression_name(compression)
        cdef unsigned int now = store.options_generation if generation is None else generation
        log = all_logs[0]
        self._only = NULL
        self._store, self._logs, self._codec, self._clock = store, all_logs, codec, clock
        self._compression, self._generation = packing, now
        self._room = max(1, limit - MQL_BATCH_HEADER)
        self._spread = len(all_logs) if spread is None else spread
        if self._spread == 1 and not log.waits and codec is clock is packing is None:
            self._only = log._c

    def _refresh(self):
        """Binds again, or raises; the subclass knows how."""
        raise NotImplementedError(f"{type(self).__name__}._refresh")

    def _check(self):
        """What every method of a handle calls first: `_refresh()` if the store moved on."""
        self.check()

    cdef inline bint current(self) noexcept:
        return (self._store is not None and not self._store.closed and self._store._forks == FORKS
                and self._generation == mql_options_generation(self._store._c))

    cdef int check(self) except -1:
        if not self.current():
            self._refresh()
            if self._store is None:
                raise errors.ClosedError(f"this {type(self).__name__} was never opened")
            self._store.enter()
        if self._clock is not None:
            mql_set_wall(self._store._c, max(1, ms_of(self._clock())))
        return 0

    cdef inline int64_t quick(
            self, object value, object key, object headers, bint durable) except? -1:
        """Appends a plain value at once and returns its offset; -1: go the long way."""
        cdef mql_record record
        cdef int64_t offset = -1
        cdef int rc
        if (self._only is NULL or type(value) is not bytes or key is not None
                or headers is not NOTHING or durable or not self.current()
                or PyBytes_GET_SIZE(value) > BIG):
            return -1
        record.key.data = record.headers.data = NULL
        record.key.length = -1
        record.headers.length = record.header_count = 0
        record.value.data = <const uint8_t *>PyBytes_AS_STRING(value)
        record.value.length = PyBytes_GET_SIZE(value)
        record.timestamp = MQL_NOW
        rc = mql_append(self._only, &record, MQL_NOWAIT, &offset)
        if rc == MQL_OK:
            return offset
        self._store.end(rc)
        return -1

    cdef object append_one(self, value, key, headers, timestamp, partition, bint durable,
                           list extra=None, bint encode=True):
        """`extra`: headers of our own, as pairs of bytes; `encode`: with the codec, if any."""
        cdef mql_record record
        cdef Job job
        self.check()
        if encode and self._codec is not None and value is not None:
            value = self._codec.encode(value)
        value = borrow(value, &record.value, "a value")
        key = borrow(key, &record.key, "a key")
        headers = borrow_headers(headers, &record, extra)
        record.timestamp = self.moment(timestamp)
        cdef Log log = self.route(partition, &record.key)
        cdef bytes packed
        memset(&job, 0, sizeof(job))
        job.records = &record
        job.count = 1
        job.offsets = 1
        job.size = record.value.length + record.key.length + record.headers.length
        if self._compression is not None and extra is None:
            packed = pack(&record, 1, self._compression, self._room)
            job.records, job.batches = NULL, start_of(packed)
            job.count = <size_t>len(packed)
        return perform(log, &job, durable)

    cdef object append_all(self, values, keys, headers, timestamps, partition, compression,
                           Py_ssize_t first, bint durable, bint encode=True):
        """What `append_many` does; `first`: of the partitions that keys are spread over."""
        self.check()
        cdef Many many = Many.__new__(Many)
        cdef str packing = self._compression
        if compression is not None:
            packing = compression_name(compression)
        values = items_of(values, "append_many() takes many values")
        many.items = self.encoded(tuple(values)) if encode else tuple(values)
        many.count = len(many.items)
        many.keys = column(keys, "keys", many.count)
        cdef tuple every_headers = column(headers, "headers", many.count)
        cdef tuple times = column(timestamps, "timestamps", many.count)
        cdef bint spread = partition is None and keys is not None and self._spread > 1
        cdef Log log = self._logs[first] if spread else self.route(partition, NULL)
        if many.count == 0:
            end = log.ends().end_offset
            return range(end, end)
        if keys is None and headers is None and timestamps is None and packing is None:
            many.borrow_values()
            return self.append_values(log, many, durable)
        many.borrow_records(every_headers)
        cdef int64_t now = self.moment(None)
        for i in range(many.count):
            many.records[i].timestamp = now if times is None else self.moment(times[i])
        if spread:
            return self.append_spread(many, packing, first, durable)
        start = self.append_records(log, many, 0, many.count, packing, durable)
        return range(start, start + many.count)

    cdef object append_values(self, Log log, Many many, bint durable):
        cdef Job job
        memset(&job, 0, sizeof(job))
        job.values = many.values
        job.count = <size_t>many.count
        job.offsets = many.count
        job.timestamp = self.moment(None)
        job.size = many.size
        first = perform(log, &job, durable)
        return range(first, first + many.count)

    cdef int64_t append_records(self, Log log, Many many, Py_ssize_t start, Py_ssize_t count,
                                str packing, bint durable) except -1:
        cdef Job job
        cdef bytes packed
        memset(&job, 0, sizeof(job))
        job.records = many.records + start
        job.count = <size_t>count
        job.offsets = count
        job.size = many.size
        if packing is not None:
            packed = pack(job.records, count, packing, self._room)
            job.records, job.batches = NULL, start_of(packed)
            job.count = <size_t>len(packed)
        return perform(log, &job, durable)

    cdef object append_spread(self, Many many, str packing, Py_ssize_t first_log, bint durable):
        """To the partitions that the keys say; all or nothing in each."""
        cdef tuple logs = self._logs[first_log:first_log + self._spread]
        cdef list counts = many.group(len(logs), <int32_t>self.turn())
        cdef list offsets = [None] * many.count
        cdef Py_ssize_t start = 0, i, number
        cdef int64_t first
        for number in range(len(logs)):
            if counts[number] == 0:
                continue
            first = self.append_records(logs[number], many, start, counts[number], packing, durable)
            if counts[number] == many.count:
                return range(first, first + many.count)
            for i in range(start, start + counts[number]):
                offsets[many.places[i]] = first + i - start
            start += counts[number]
        return offsets

    cdef tuple encoded(self, tuple values):
        encode = None if self._codec is None else self._codec.encode
        if encode is None:
            return values
        return tuple([None if value is None else encode(value) for value in values])

    cdef int64_t moment(self, object timestamp) except? -1:
        if timestamp is not None:
            return ms_of(timestamp)
        return MQL_NOW if self._clock is None else ms_of(self._clock())

    cdef Log route(self, object partition, const mql_value *key):
        """The partition asked for, else the key's, else the next in turn."""
        cdef tuple logs = self._logs
        cdef int32_t count = <int32_t>self._spread
        if partition is not None:
            return self.at(partition)
        if count == 1:
            return logs[0]
        if key is NULL or key.length < 0:
            return logs[self.turn()]
        return logs[mql_partition_for(key.data, <size_t>key.length, count)]

    cdef Py_ssize_t turn(self) noexcept:
        cdef Py_ssize_t count = self._spread
        cdef Py_ssize_t now = self._turn % count
        self._turn = (now + 1) % count
        return now

    cdef Log at(self, object partition):
        cdef tuple logs = self._logs
        if type(partition) is not int:
            if isinstance(partition, bool):
                raise TypeError("a partition is an int, not bool")
            try:
                partition = index_of(partition)
            except TypeError:
                raise TypeError(f"a partition is an int, not {type(partition).__name__}") from None
        if not 0 <= partition < len(logs):
            last = len(logs) - 1
            raise ValueError(f"there is no partition {partition}: this topic has 0 .. {last}")
        return logs[<Py_ssize_t>partition]


cdef class Appender(Sender):
    """The hot half of a stream handle; `mqlog.Stream` is its subclass. Any thread may call."""

    def append(self, value, *, key=None, headers=(), timestamp=None, partition=None,
               bint durable=False):
        """Appends one record and returns its offset. See `mqlog.Stream.append`."""
        cdef int64_t offset = -1
        if timestamp is None and partition is None:
            offset = self.quick(value, key, headers, durable)
        if offset >= 0:
            return offset
        return self.append_one(value, key, headers, timestamp, partition, durable)

    def append_many(self, values, *, keys=None, headers=None, timestamps=None, partition=None,
                    compression=None, bint durable=False):
        """Appends records and returns their offsets. See `mqlog.Stream.append_many`."""
        return self.append_all(
            values, keys, headers, timestamps, partition, compression, 0, durable)


cdef str compression_name(object given):
    """None for no compression."""
    if given is None or given == "none":
        return None
    if not isinstance(given, str):
        raise TypeError(f"compression is a str or None, not {type(given).__name__}")
    if given not in _compression.CODES:
        raise ValueError(f"there is no compression {given!r}: {', '.join(_compression.CODES)}")
    return given
