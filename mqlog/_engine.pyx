# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False
"""The border between Python and the engine: converts, holds lifetimes, releases the GIL, raises.

Why it is correct:

* A `Store` frees the engine's memory in its `__dealloc__` only, and whatever points into that
  memory (`Log`, `Reader`, `Group`) holds a reference to its `Store`; the ones that can be in a
  reference cycle are `no_gc_clear`, so they keep it until they are gone themselves.
* `Store.closed` is set with the GIL held before files and mappings are given back without it.
  Whoever has seen it unset and has not released the GIL since may use mapped memory and pays no
  lock for that; whoever has released the GIL, or made an object that the garbage collector knows,
  asks again. A call without the GIL pins the store, which then goes when the call ends.
* What other threads could change or free while the GIL is released is a `bytes`, a tuple, a
  memoryview or a C array of ours. Nothing waits inside the engine with the GIL held.

Here are failures, forks and times; `_handles.pxi` has stores, partitions and groups, `_records.pxi`
what is read, `_append.pxi` what is written.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject, newfunc
from cpython.time cimport monotonic_ns, time_ns
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memset

from mqlog._c cimport *

cdef extern from "Python.h":
    void PyErr_SetInterrupt()

cdef extern from "Python.h":  # only to close types: what Cython knows of them has no tp_vectorcall
    ctypedef struct PyTypeObject:
        newfunc tp_new
        void *tp_vectorcall

import errno
import logging
import os
from collections import namedtuple
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from operator import index as index_of
from types import GenericAlias

from mqlog import _compression, _letters, errors

LogOptions = namedtuple(
    "LogOptions",
    "segment_bytes batch_bytes max_message_bytes sync_interval "
    "retention_bytes retention_age dedupe_window durability cleanup",
    module=__name__,
)
LogInfo = namedtuple(
    "LogInfo",
    "start_offset end_offset durable_offset bytes segments epoch poisoned",
    module=__name__,
)
Recovered = namedtuple(
    "Recovered", "topic partition row segment position bytes file", module=__name__
)
VerifyReport = namedtuple(
    "VerifyReport", "segments batches records bytes index_entries problems", module=__name__
)

cdef object LOGGER = logging.getLogger("mqlog")
cdef object EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
cdef object MILLISECOND = timedelta(milliseconds=1)

cdef enum:
    SLICE_NS = 250_000_000  # the longest time between two looks at signals, close and deadline
    BIG = 65536  # from so many bytes on, the GIL is worth releasing
    MEMBERS = 512  # more than a store can have

# -- forks ---------------------------------------------------------------------------------------

cdef unsigned int FORKS = 0


def _forked():
    global FORKS
    FORKS += 1


os.register_at_fork(after_in_child=_forked)


def fork_generation():
    """Grows by one in every forked child."""
    return FORKS


# -- failures ------------------------------------------------------------------------------------

cdef dict KINDS = {
    MQL_E_MEMORY: MemoryError,
    MQL_E_CLOSED: errors.ClosedError,
    MQL_E_DELETED: errors.TopicDeletedError,
    MQL_E_RANGE: errors.OffsetOutOfRangeError,
    MQL_E_NOT_FOUND: errors.NotFoundError,
    MQL_E_TOO_LARGE: errors.RecordTooLargeError,
    MQL_E_FORMAT: errors.FormatError,
    MQL_E_FORKED: errors.ForkedError,
    MQL_E_READ_ONLY: errors.ReadOnlyError,
    MQL_E_ARGUMENT: ValueError,
    MQL_E_LOST: errors.LockLostError,
}


cdef int check(int rc) except -1:
    """Results pass, failures are raised: of calls without a store. Others go by `Store.end`."""
    if rc < 0:
        raise failure(rc, "")
    return rc


cdef object failure(int rc, str root):
    """The exception for what `mql_error_last` tells of this thread's last call.

    The engine names files within the store, which is the directory `root`.
    """
    cdef const mql_error *last = mql_error_last()
    cdef str path = os.path.join(root, os.fsdecode(<bytes>last.path)) if last.path[0] else ""
    cdef str text = (<bytes>last.text).decode("utf-8", "replace")
    cdef int code = last.os_errno
    if rc == MQL_E_OS:
        text = f"{os.strerror(code)} ({text})" if text else os.strerror(code)
        return OSError(code, text, path or None)
    if rc == MQL_E_REFUSED:
        return OSError(errno.ENOTSUP, text, path or None)
    if rc == MQL_E_CORRUPT:
        return errors.CorruptError(text, path, last.position, last.start, last.stop)
    if rc == MQL_E_TOO_LARGE:
        text = f"{text or 'too large'}: {last.start} bytes, the limit is {last.stop}"
    if rc == MQL_E_DURABILITY:
        return errors.DurabilityError(code or errno.EIO, text, path or None)
    error = KINDS.get(rc, errors.Error)(f"{text} ({path})" if path else text)
    if rc == MQL_E_RANGE:
        error.start, error.stop = last.start, last.stop
    return error


cdef object refuse_new(type kind, PyObject *args, PyObject *keywords):
    raise TypeError(f"{kind.__name__} objects are made by mqlog only")


cdef int made_by_us_only(object kind) except -1:
    """Closes `kind(...)` and `kind.__new__(kind)` to Python; Cython's own calls go another way."""
    (<PyTypeObject *>kind).tp_new = <newfunc>refuse_new
    (<PyTypeObject *>kind).tp_vectorcall = NULL
    return 0


# -- time and text -------------------------------------------------------------------------------

cdef int64_t deadline_of(object timeout) except -1:
    if timeout is None:
        return INT64_MAX
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("a timeout is a number of seconds, or None to wait for ever; got NaN")
    return monotonic_ns() + <int64_t>(min(max(seconds, 0.0), 1e9) * 1e9)


cdef inline int64_t slice_until(int64_t deadline) noexcept:
    cdef int64_t left = deadline - monotonic_ns()
    return 0 if left < 0 else SLICE_NS if left > SLICE_NS else left


cdef int over(Store store, int rc, int64_t deadline) except -1:
    """What a slice of waiting came to. 1: it happened, 2: the deadline passed, 0: wait on."""
    store.end(rc)
    PyErr_CheckSignals()
    store.enter()
    return 1 if rc == MQL_OK else 2 if monotonic_ns() >= deadline else 0


cdef int64_t ms_of(object moment) except? -1:
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(
                "a moment needs a time zone, as datetime.now(timezone.utc) has: this one is naive"
            )
        return ms_of((moment - EPOCH) / MILLISECOND / 1000)
    if isinstance(moment, bool) or not isinstance(moment, (float, int)):
        kind = type(moment).__name__
        raise TypeError(f"a moment is epoch seconds or an aware datetime, not {kind}")
    if not 0 <= moment <= 1e11:  # NaN is neither
        why = "; are these milliseconds?" if moment > 1e11 and moment != float("inf") else ""
        raise ValueError(f"a moment is epoch seconds from 0 to 1e11, got {moment!r}{why}")
    return round(moment * 1000)


def to_ms(moment, /):
    """Milliseconds since 1970, rounded.

    Raises:
        ValueError: Naive, NaN, negative, or over 1e11 (milliseconds?).
        TypeError: Neither a number nor a datetime.
    """
    return ms_of(moment)


cdef bytes c_name(str name, str what):
    cdef bytes encoded = name.encode()
    if b"\0" in encoded:
        raise ValueError(f"{what} holds a NUL character: {name!r}")
    return encoded


cdef mql_log_options c_options(object options) except *:
    cdef mql_log_options out
    cdef double age = options.retention_age
    out.segment_bytes = options.segment_bytes
    out.batch_bytes = options.batch_bytes
    out.max_message_bytes = options.max_message_bytes
    out.sync_interval_ns = <int64_t>(<double>options.sync_interval * 1e9)
    out.retention_bytes = options.retention_bytes
    out.retention_age_ms = -1 if age < 0 else <int64_t>(min(age, 1e12) * 1000)
    out.dedupe_ms = <int64_t>(<double>options.dedupe_window * 1000)
    out.durability = options.durability
    out.cleanup = options.cleanup
    return out


include "_handles.pxi"
include "_records.pxi"
include "_append.pxi"
include "_shares.pxi"
include "_messages.pxi"


def partition_for(key, partitions):
    """Kafka's partition for a key: murmur2, made positive, modulo `partitions`."""
    cdef mql_value view
    cdef int32_t count = partitions
    if count < 1:
        raise ValueError(f"a topic has at least one partition, got {partitions}")
    if key is None:
        raise TypeError("only a key has a partition of its own, and this one is None")
    key = borrow(key, &view, "a key")
    return mql_partition_for(view.data, <size_t>view.length, count)


for _kind in (Gate, Log, Group, Share, Record, Message, Reader, Values, Columns):
    made_by_us_only(_kind)
del _kind
