# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True, embedsignature=True
"""The usual step, compiled: actions to tasks, and what they give into arrays and out of them.

It knows memory, actions, tickets, bells and usual results; nothing of samplers' states, errors,
restarts, infos or the episode log's meaning. Whatever is not usual is handed back to Python, which
does all of it by itself where this module was not built (see ``compiled.py``). A result is usual if
it has four values, its observation consists of arrays as the space declares, its reward is a float,
its episode goes on and its info is empty.
"""

from collections import OrderedDict

import numpy as np

from vectasks.batch import StepBatch
from vectasks.spaces import copy_arrays
from vectasks.task import RLStepResult, Task

cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport Py_GE, PyObject, PyObject_RichCompareBool
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

cnp.import_array()

cdef extern from *:
    """
    #include <sched.h>
    #include <time.h>
    #include <pthread.h>

    #define load_word(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define store_word(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    #define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

    static double monotonic_s(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }

    /* As cls(*items) of a class of named tuples, without its Python code. */
    static PyObject *named_tuple(PyObject *cls, PyObject *items) {
        PyObject *args = PyTuple_Pack(1, items), *made = NULL;
        if (args != NULL) {
            made = PyTuple_Type.tp_new((PyTypeObject *)cls, args, NULL);
            Py_DECREF(args);
        }
        return made;
    }

    static int has_dtype(PyObject *array, PyObject *dtype) {
        PyArray_Descr *own = PyArray_DESCR((PyArrayObject *)array);
        return own == (PyArray_Descr *)dtype || PyArray_EquivTypes(own, (PyArray_Descr *)dtype);
    }

    static PyObject *empty_array(int num_dims, npy_intp *dims, PyObject *dtype) {
        Py_INCREF(dtype);  /* numpy takes it */
        return PyArray_Empty(num_dims, dims, (PyArray_Descr *)dtype, 0);
    }

    static long num_forks = 0;
    static void count_fork(void) { num_forks += 1; }
    static void count_forks(void) { pthread_atfork(NULL, NULL, count_fork); }
    """
    int64_t load_word(int64_t *place) nogil
    void store_word(int64_t *place, int64_t value) nogil
    void full_fence() nogil
    double monotonic_s() nogil
    int sched_yield() nogil
    object named_tuple(object cls, object items)
    bint has_dtype(object array, object dtype)
    object empty_array(int num_dims, cnp.npy_intp *dims, object dtype)
    long num_forks
    void count_forks()

cdef extern from "marshal.h":
    object PyMarshal_WriteObjectToString(object value, int version)
    object PyMarshal_ReadObjectFromString(char *data, Py_ssize_t size)

cdef extern from "Python.h":
    int PyMethod_Check(PyObject *)
    PyObject *PyMethod_GET_FUNCTION(PyObject *)
    PyObject *PyMethod_GET_SELF(PyObject *)

cdef extern from "numpy/arrayobject.h":
    int PyArray_CheckExact(PyObject *)

count_forks()

cdef enum:
    DONE = 1
    TERMINATED = 2
    TRUNCATED = 4
    EXHAUSTED = 8
    EMPTY_INFO = 16
    EXTRA = 32

    AS_BATCH = 1
    ONE_BY_ONE = 2
    TIMED = 4
    ROW_SHIFT = 3
    ROW_BITS = 22

    # What is made of a step of all.
    _RESULTS = 0
    _BATCH = 1
    _INTO_ROWS = 2

    # What a step's result is.
    UNUSUAL = 0
    USUAL = 1
    WITH_INFO = 2
    IN_PLACE = 3  # its task writes the observation by itself

    # What carries a leaf in an observation.
    NO_FORM = -1
    ARRAY = 0
    INT = 1
    FLOAT = 2

#: As in ``compiled.py``; raise both together.
INTERFACE = 2

RESULTS, BATCH, INTO_ROWS = _RESULTS, _BATCH, _INTO_ROWS

#: Stands for the result of a step that was not made yet.
UNMADE = object()


# -- tasks ---------------------------------------------------------------------------------------

cdef PyObject *_STEP = <PyObject *>Task.step
cdef PyObject *_IS_DONE = <PyObject *>Task.is_done
cdef PyObject *_REACHED_MAX_STEPS = <PyObject *>Task.reached_max_steps
cdef PyObject *_REACHED_TERMINAL_STATE = <PyObject *>Task.reached_terminal_state


cdef inline bint _is_method(object method, object owner, PyObject *function):
    """Tell whether ``method`` is this very function, bound to this very object."""
    return (
        PyMethod_Check(<PyObject *>method)
        and PyMethod_GET_FUNCTION(<PyObject *>method) == function
        and PyMethod_GET_SELF(<PyObject *>method) == <PyObject *>owner
    )


# An info of nothing but these, by names, goes through shared memory without pickle.
_IMMUTABLE = frozenset({int, float, bool, str, bytes, type(None)})
_MARSHALLED = -1  # in the place of how many parts out-of-band data has
_VERSION = 4  # of marshal's format


cdef object _step_task(object task, object action):
    """Step a task: as ``task.step(action)``, without the frames of the library's own ``step``."""
    cdef object method = task.step
    if (
        not _is_method(method, task, _STEP)
        or not _is_method(task.is_done, task, _IS_DONE)
        or not _is_method(task.reached_max_steps, task, _REACHED_MAX_STEPS)
    ):
        return method(action)
    cdef object reached_terminal_state = task.reached_terminal_state
    if _is_method(reached_terminal_state, task, _REACHED_TERMINAL_STATE):
        reached_terminal_state = None  # it is always False
    if (
        task._is_over is not False
        or PyObject_RichCompareBool(task._num_steps_taken, task.max_steps, Py_GE)
        or (reached_terminal_state is not None and reached_terminal_state())
    ):
        return method(action)  # which says that the task is done
    cdef object result = task._step(action)
    if type(result) is not RLStepResult:
        return task._counted(result)
    cdef object reward = <object>PyTuple_GET_ITEM(result, 1)
    cdef object done = <object>PyTuple_GET_ITEM(result, 2)
    cdef object total = task._total_reward
    if type(reward) is not float or type(done) is not bool or type(total) is not float:
        return task._counted(result)
    cdef object num_steps = task._num_steps_taken + 1
    task._num_steps_taken = num_steps
    task._total_reward = total + reward
    if done is True:
        task._is_over = True
        return result
    if PyObject_RichCompareBool(num_steps, task.max_steps, Py_GE) or (
        reached_terminal_state is not None and reached_terminal_state()
    ):
        task._is_over = True
        return result._replace(done=True)
    return result


# -- rows ----------------------------------------------------------------------------------------

cdef struct Place:
    char *first  # of sampler 0 in row 0
    Py_ssize_t row_bytes
    Py_ssize_t item_bytes
    int form  # in results of step(); NO_FORM: what is usual there has no place here


cdef class RowArrays:
    """The arrays that steps are written into: flags and rewards, and one for each leaf.

    Args:
        flags: uint8 [rows, samplers].
        rewards: float64 [rows, samplers].
        leaf_arrays: [rows, samplers, *shape] each.
        tree: how observations are nested: the number of a leaf, or
            ``(is a Dict, kind, [(key, tree)])``.
        forms: the type that carries each leaf, or None.

    Raises:
        ValueError: an array does not fit the others.
    """

    cdef Place *_places
    cdef uint8_t *_flags
    cdef double *_rewards
    cdef readonly Py_ssize_t num_rows
    cdef readonly Py_ssize_t num_samplers
    cdef Py_ssize_t _num_leaves
    cdef list _leaf_arrays
    cdef list _dtypes
    cdef list _shapes
    cdef object _held
    cdef object _tree
    cdef bint _gives_results  # of step(), in the forms in which they came

    def __cinit__(self, flags, rewards, leaf_arrays, tree, forms):
        cdef cnp.ndarray array
        cdef Py_ssize_t number
        self._num_leaves = len(leaf_arrays)
        self._places = <Place *>PyMem_Malloc(max(1, self._num_leaves) * sizeof(Place))
        if self._places == NULL:
            raise MemoryError
        self.num_rows, self.num_samplers = flags.shape
        if self.num_rows == 0 or self.num_samplers == 0:
            raise ValueError(f"flags: expected rows and samplers, got {list(flags.shape)}")
        for name, array, dtype in (("flags", flags, np.uint8), ("rewards", rewards, np.float64)):
            if (
                (<object>array).shape != (self.num_rows, self.num_samplers)
                or array.dtype != dtype
                or not (<object>array).flags.c_contiguous
            ):
                raise ValueError(f"{name}: expected {dtype.__name__} {list(flags.shape)}")
        self._flags = <uint8_t *>cnp.PyArray_DATA(flags)
        self._rewards = <double *>cnp.PyArray_DATA(rewards)
        self._leaf_arrays = list(leaf_arrays)
        self._dtypes = []
        self._shapes = []
        for number, array in enumerate(leaf_arrays):
            shape = (<object>array).shape
            if shape[:2] != (self.num_rows, self.num_samplers):
                raise ValueError(f"leaf {number}: expected {flags.shape} first, got {shape}")
            if not (<object>array).flags.c_contiguous or array.dtype.hasobject:
                raise ValueError(f"leaf {number} is not contiguous, or holds objects")
            self._dtypes.append(array.dtype)
            self._shapes.append(shape[2:])
            self._places[number].first = <char *>cnp.PyArray_DATA(array)
            # Not its strides: those of an array without items are of one that has some.
            self._places[number].row_bytes = cnp.PyArray_NBYTES(array) // self.num_rows
            self._places[number].item_bytes = (
                self._places[number].row_bytes // self.num_samplers
            )
            self._places[number].form = _form_of(forms[number], array.dtype, shape[2:])
        self._tree = tree
        self._gives_results = _is_plain(tree) and all(
            self._places[number].form != NO_FORM for number in range(self._num_leaves)
        )
        self._held = (flags, rewards)

    def __dealloc__(self):
        PyMem_Free(self._places)

    cdef int _check(self, Py_ssize_t row, Py_ssize_t sampler) except -1:
        if not (0 <= row < self.num_rows and 0 <= sampler < self.num_samplers):
            raise IndexError(f"there is no row {row} of sampler {sampler}")
        return 0

    # -- into them ---------------------------------------------------------------------------

    cdef int _put(
        self, Py_ssize_t row, Py_ssize_t sampler, bint as_batch, object result
    ) except -1:
        """Write a step's result if it is usual: USUAL, or what is left to be done."""
        if type(result) is not RLStepResult and not (
            type(result) is tuple and PyTuple_GET_SIZE(result) == 4
        ):
            return UNUSUAL
        cdef object reward = <object>PyTuple_GET_ITEM(result, 1)
        cdef object info = <object>PyTuple_GET_ITEM(result, 3)
        if <object>PyTuple_GET_ITEM(result, 2) is not False or type(reward) is not float:
            return UNUSUAL
        cdef uint8_t flags = 0
        if info is not None:
            if type(info) is not dict:
                return UNUSUAL
            flags = EMPTY_INFO if PyDict_Size(info) == 0 else EXTRA
        cdef object observation = <object>PyTuple_GET_ITEM(result, 0)
        cdef bint is_in_place = observation is None and flags != EXTRA
        if not is_in_place and not self._put_part(
            self._tree, row, sampler, as_batch, observation
        ):
            return UNUSUAL
        self._rewards[row * self.num_samplers + sampler] = reward
        self._flags[row * self.num_samplers + sampler] = flags
        if is_in_place:
            return IN_PLACE
        return WITH_INFO if flags == EXTRA else USUAL

    cdef bint _put_part(
        self, object tree, Py_ssize_t row, Py_ssize_t sampler, bint as_batch, object part
    ) except -1:
        cdef Py_ssize_t position = 0
        cdef Py_ssize_t k = 0
        cdef PyObject *key
        cdef PyObject *value
        cdef list trees
        if type(tree) is int:
            return self._put_leaf(tree, row, sampler, as_batch, part)
        kind = <object>PyTuple_GET_ITEM(tree, 1)
        trees = <list>PyTuple_GET_ITEM(tree, 2)
        if type(part) is not kind:
            return False
        if kind is dict:
            if PyDict_Size(part) != len(trees):
                return False
            while PyDict_Next(part, &position, &key, &value):
                name = <object>PyTuple_GET_ITEM(trees[k], 0)
                if <PyObject *>name != key and not (name == <object>key):
                    return False
                if not self._put_part(
                    <object>PyTuple_GET_ITEM(trees[k], 1), row, sampler, as_batch, <object>value
                ):
                    return False
                k += 1
            return True
        if kind is OrderedDict or len(part) != len(trees):
            return False
        for k in range(len(trees)):
            if not self._put_part(trees[k][1], row, sampler, as_batch, part[k]):
                return False
        return True

    cdef bint _put_leaf(
        self, Py_ssize_t number, Py_ssize_t row, Py_ssize_t sampler, bint as_batch, object value
    ) except -1:
        cdef Place *place = &self._places[number]
        cdef char *target = place.first + row * place.row_bytes + sampler * place.item_bytes
        cdef cnp.ndarray array
        cdef tuple shape
        cdef Py_ssize_t axis
        cdef int overflow = 0
        cdef int64_t whole
        cdef double real
        if PyArray_CheckExact(<PyObject *>value):
            if not as_batch and place.form != ARRAY:
                return False
            array = value
            if not has_dtype(array, self._dtypes[number]):
                return False
            shape = <tuple>self._shapes[number]
            if cnp.PyArray_NDIM(array) != len(shape) or not cnp.PyArray_IS_C_CONTIGUOUS(array):
                return False
            for axis in range(len(shape)):
                if cnp.PyArray_DIM(array, axis) != <Py_ssize_t>shape[axis]:
                    return False
            if place.item_bytes <= 32:  # copied sooner than a function is called
                for axis in range(place.item_bytes):
                    target[axis] = (<char *>cnp.PyArray_DATA(array))[axis]
            else:
                memcpy(target, cnp.PyArray_DATA(array), place.item_bytes)
            return True
        if place.form == INT and type(value) is int:
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                return False
            memcpy(target, &whole, sizeof(whole))
            return True
        if place.form == FLOAT and type(value) is float:
            real = value
            memcpy(target, &real, sizeof(real))
            return True
        return False

    # -- out of them -------------------------------------------------------------------------

    cdef object _build(self, object tree, list values):
        if type(tree) is int:
            return values[<Py_ssize_t>tree]
        is_dict, _, trees = tree
        if is_dict:
            return {key: self._build(sub, values) for key, sub in trees}
        return tuple([self._build(sub, values) for _, sub in trees])

    cdef object _batch(self, Py_ssize_t row, list lent, object sampler_ids):
        """Make a batch of a whole row, with an empty info for each sampler.

        Args:
            row: which.
            lent: the arrays of the row, where they may be handed out; None: copy them.
            sampler_ids: int64 [samplers]; it is copied.
        """
        cdef Py_ssize_t n = self.num_samplers
        cdef Py_ssize_t number, i
        cdef cnp.ndarray array, terminated, truncated, done, exhausted, reward
        cdef cnp.npy_intp dim = n
        cdef uint8_t *flags = self._flags + row * n
        cdef double *rewards = self._rewards + row * n
        cdef float *small
        cdef uint8_t flag
        cdef list values = lent
        if values is None:
            values = []
            for number in range(self._num_leaves):
                values.append(self._copy_of_row(number, row))
        reward = cnp.PyArray_EMPTY(1, &dim, cnp.NPY_FLOAT32, 0)
        small = <float *>cnp.PyArray_DATA(reward)
        terminated = cnp.PyArray_ZEROS(1, &dim, cnp.NPY_BOOL, 0)
        truncated = cnp.PyArray_ZEROS(1, &dim, cnp.NPY_BOOL, 0)
        done = cnp.PyArray_ZEROS(1, &dim, cnp.NPY_BOOL, 0)
        exhausted = cnp.PyArray_ZEROS(1, &dim, cnp.NPY_BOOL, 0)
        for i in range(n):
            small[i] = <float>rewards[i]
            flag = flags[i]
            if flag & DONE:
                (<uint8_t *>cnp.PyArray_DATA(done))[i] = 1
                (<uint8_t *>cnp.PyArray_DATA(terminated))[i] = (flag & TERMINATED) != 0
                (<uint8_t *>cnp.PyArray_DATA(truncated))[i] = (flag & TRUNCATED) != 0
                (<uint8_t *>cnp.PyArray_DATA(exhausted))[i] = (flag & EXHAUSTED) != 0
        infos = [{} for _ in range(n)]
        return named_tuple(
            StepBatch,
            (
                cnp.PyArray_NewCopy(sampler_ids, cnp.NPY_CORDER),
                self._build(self._tree, values),
                reward,
                terminated,
                truncated,
                done,
                exhausted,
                infos,
            ),
        )

    cdef object _copy_of_row(self, Py_ssize_t number, Py_ssize_t row):
        cdef tuple shape = <tuple>self._shapes[number]
        cdef cnp.npy_intp dims[32]
        cdef Py_ssize_t axis
        cdef Place *place = &self._places[number]
        cdef cnp.ndarray array
        dims[0] = self.num_samplers
        for axis in range(len(shape)):
            dims[axis + 1] = shape[axis]
        array = empty_array(<int>len(shape) + 1, dims, self._dtypes[number])
        memcpy(cnp.PyArray_DATA(array), place.first + row * place.row_bytes, place.row_bytes)
        return array

    cdef object _value(self, Py_ssize_t number, Py_ssize_t row, Py_ssize_t sampler):
        """Give one sampler's value of a leaf, owned, in the form in which it came."""
        cdef Place *place = &self._places[number]
        cdef char *source = place.first + row * place.row_bytes + sampler * place.item_bytes
        cdef cnp.npy_intp dims[32]
        cdef tuple shape
        cdef Py_ssize_t axis
        cdef cnp.ndarray array
        if place.form == INT:
            return (<int64_t *>source)[0]
        if place.form == FLOAT:
            return (<double *>source)[0]
        shape = <tuple>self._shapes[number]
        for axis in range(len(shape)):
            dims[axis] = shape[axis]
        array = empty_array(<int>len(shape), dims, self._dtypes[number])
        memcpy(cnp.PyArray_DATA(array), source, place.item_bytes)
        return array

    def results(self, Py_ssize_t row, list lent, dict infos):
        """Read a row of steps made for ``step()`` as a list of RLStepResults, if it can be.

        Args:
            row: which.
            lent: the arrays of the row, where parts of them may be handed out; None: copy them.
            infos: those that are not empty, by sampler id.

        Returns:
            the list; None: the forms in which observations came are not known here.
        """
        cdef Py_ssize_t n = self.num_samplers
        cdef Py_ssize_t i, number
        cdef uint8_t *flags
        cdef list values
        cdef list results = []
        self._check(row, 0)
        if not self._gives_results:
            return None
        flags = self._flags + row * n
        for i in range(n):
            values = []
            for number in range(self._num_leaves):
                if lent is not None and len(<tuple>self._shapes[number]) > 0:
                    values.append(lent[number][i])
                else:
                    values.append(self._value(number, row, i))
            results.append(
                named_tuple(
                    RLStepResult,
                    (
                        self._build(self._tree, values),
                        self._rewards[row * n + i],
                        (flags[i] & DONE) != 0,
                        infos[i] if i in infos else ({} if flags[i] & EMPTY_INFO else None),
                    ),
                )
            )
        return results

    def flags_of(self, Py_ssize_t row):
        """Give each sampler's flags in a row, as bytes."""
        self._check(row, 0)
        return PyBytes_FromStringAndSize(
            <char *>self._flags + row * self.num_samplers, self.num_samplers
        )

    def put(self, Py_ssize_t row, Py_ssize_t sampler, bint as_batch, result):
        """Write a step's result into a row if it is usual, but for its info; whether it is."""
        self._check(row, sampler)
        return self._put(row, sampler, as_batch, result) in (USUAL, WITH_INFO)


cdef bint _is_plain(object tree) except -1:
    if type(tree) is int:
        return True
    _, kind, trees = tree
    return kind in (dict, tuple) and all(_is_plain(sub) for _, sub in trees)


cdef int _form_of(object form, object dtype, tuple shape) except -2:
    if form is np.ndarray:
        return ARRAY
    if form is int and shape == () and dtype == np.int64:
        return INT
    if form is float and shape == () and dtype == np.float64:
        return FLOAT
    return NO_FORM


# -- steps ---------------------------------------------------------------------------------------

cdef int _run(
    dict hosts,
    RowArrays rows,
    Py_ssize_t row,
    bint as_batch,
    list ids,
    list actions,
    object places,
    object unusual,
    object keep_info,
) except -1:
    """Step hosts one after another, and write what is usual; as :func:`run_steps`."""
    cdef Py_ssize_t k
    cdef int kind
    cdef Py_ssize_t num_done = 0
    if len(ids) != len(actions):
        raise ValueError(f"{len(ids)} samplers got {len(actions)} actions")
    try:
        for k in range(len(ids)):
            i, action = ids[k], actions[k]
            rows._check(row, i)
            host = hosts.get(i)
            if host is None or host.is_plain is not True:
                unusual(i, action, UNMADE, None)
            else:
                try:
                    result = _step_task(host.task, action)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    unusual(i, action, None, error)
                else:
                    kind = rows._put(row, i, as_batch, result)
                    if kind == IN_PLACE:
                        kind = _write_in_place(host.task, places[i], i, action, unusual)
                    if kind == UNUSUAL:
                        unusual(i, action, result, None)
                    elif kind == WITH_INFO:
                        info = <object>PyTuple_GET_ITEM(result, 3)
                        if type(keep_info) is dict:
                            (<dict>keep_info)[i] = _owned_info(<dict>info)
                        elif type(keep_info) is WorkerSteps:
                            if not (<WorkerSteps>keep_info)._infos.write(i, <dict>info):
                                (<WorkerSteps>keep_info)._keep_info(i, info)
                        else:
                            keep_info(i, info)
            num_done += 1
    except BaseException as error:
        for cut in ids[num_done:]:
            unusual(cut, None, None, error)
        raise
    return 0


cdef bint _is_simple(dict info) except -1:
    for name, value in info.items():
        if type(name) is not str or type(value) not in _IMMUTABLE:
            return False
    return True


cdef class InfoPlaces:
    """Infos in the place of out-of-band data: for each sampler, its size and marshal's bytes.

    Args:
        num_parts: int64 [samplers]; -1 tells that it is an info.
        data: uint8 [samplers, bytes].
    """

    cdef int64_t *_num_parts
    cdef char *_data
    cdef Py_ssize_t _num_samplers
    cdef Py_ssize_t _most_bytes
    cdef object _held
    cdef readonly int64_t num_bytes  # of what was read

    def __init__(self, num_parts, data):
        self._num_samplers, self._most_bytes = data.shape
        self._num_parts = <int64_t *>_words(num_parts, self._num_samplers, 8)
        self._data = <char *>_words(data, 0, 1)
        self._held = (num_parts, data)

    cpdef bint write(self, Py_ssize_t sampler, dict info) except -1:
        """Write an info if it is simple and not too large; whether it is."""
        cdef bytes packed
        cdef int64_t size
        cdef char *place
        if not 0 <= sampler < self._num_samplers:
            raise IndexError(f"there is no sampler {sampler}")
        if not _is_simple(info):
            return False
        packed = PyMarshal_WriteObjectToString(info, _VERSION)
        size = len(packed)
        if size + 8 > self._most_bytes:
            return False
        place = self._data + sampler * self._most_bytes
        memcpy(place, &size, 8)
        memcpy(place + 8, PyBytes_AS_STRING(packed), size)
        self._num_parts[sampler] = _MARSHALLED
        return True

    cpdef object read(self, Py_ssize_t sampler):
        """Read the info that was written for a sampler; None: none was."""
        cdef int64_t size
        cdef char *place
        if not 0 <= sampler < self._num_samplers:
            raise IndexError(f"there is no sampler {sampler}")
        if self._num_parts[sampler] != _MARSHALLED:
            return None
        place = self._data + sampler * self._most_bytes
        memcpy(&size, place, 8)
        if not 0 <= size <= self._most_bytes - 8:
            raise ValueError(f"the info of sampler {sampler} is said to have {size} bytes")
        self.num_bytes += size + 8
        return PyMarshal_ReadObjectFromString(place + 8, size)


def _owned_info(dict info):
    """Copy an info, so that the task may go on to write into its own."""
    for value in info.values():
        if type(value) not in _IMMUTABLE and not isinstance(value, (np.number, np.bool_)):
            return copy_arrays(info, True)
    return info.copy()


cdef int _write_in_place(task, place, i, action, unusual) except -1:
    """Let a task write its observation into a row; UNUSUAL where it cannot."""
    write = getattr(task, "write_observation", None)
    if write is None or place is None:
        return UNUSUAL
    try:
        write(place)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        unusual(i, action, None, error)
    return USUAL


def run_steps(
    dict hosts,
    RowArrays rows,
    Py_ssize_t row,
    bint as_batch,
    list ids,
    list actions,
    places,
    unusual,
    keep_info,
):
    """Step hosts one after another, and write what is usual into a row.

    Args:
        hosts: by sampler id.
        rows: where to.
        row: which.
        as_batch: written as a StepBatch has it; otherwise what it was can be told exactly.
        ids: whose.
        actions: one for each.
        places: by sampler id: arrays that a task may write its observation into, or None.
        unusual: called as ``unusual(sampler_id, action, result, error)`` with what is not usual:
            what the task gave or raised, or ``UNMADE`` where the host makes the step itself. Where
            Ctrl-C passes through, it gets that for each step that was not made.
        keep_info: called with the sampler id and the info of a step that is usual beside it; or a
            dict, which gets copies of these.
    """
    _run(hosts, rows, row, as_batch, ids, actions, places, unusual, keep_info)


cdef void *_words(array, Py_ssize_t count, int item_bytes) except NULL:
    """The memory of a contiguous array of at least so many numbers."""
    if (
        not array.flags.c_contiguous
        or array.size < count
        or array.itemsize != item_bytes
        or array.dtype.hasobject
    ):
        raise ValueError(f"expected {count} numbers of {item_bytes} bytes, got {array!r:.80}")
    return cnp.PyArray_DATA(<cnp.ndarray>array)


cdef class WorkerSteps:
    """A worker's side of the words in shared memory: what is asked for, and that it is done.

    Args:
        buffer: the step buffer's arrays, by name.
        worker: its number.
        sampler_ids: its samplers.
        has_integers: whether actions are integers; otherwise they are arrays.
        last: int64 [samplers]: the tickets that were answered last.
        hosts: by sampler id.
        writer_at: gives the row writer of a ticket.
        unusual, keep_info: as for :func:`run_steps`; the ticket is ``ticket``.
        extras: gets what these leave to be sent before the steps are announced.
        send: sends that.
        ring: wakes the parent up.
    """

    cdef int64_t *_step_bell
    cdef int64_t *_message_bell
    cdef int64_t *_parent_asleep
    cdef int64_t *_asked
    cdef int64_t *_answered
    cdef int64_t *_home
    cdef int64_t *_last
    cdef double *_answered_at
    cdef int64_t _number
    cdef object _actions
    cdef Py_ssize_t _num_samplers
    cdef bint _has_integers
    cdef list _ids
    cdef dict _hosts
    cdef list _extras
    cdef object _writer_at
    cdef object _unusual
    cdef object _keep_info
    cdef InfoPlaces _infos
    cdef object _send
    cdef object _ring
    cdef object _held
    cdef readonly int64_t ticket

    def __init__(
        self, buffer, worker, sampler_ids, bint has_integers, last, hosts, writer_at, unusual,
        keep_info, extras, send, ring
    ):
        n = self._num_samplers = len(buffer["asked"])
        self._step_bell = <int64_t *>_words(buffer["step_bell"][worker], 1, 8)
        self._message_bell = <int64_t *>_words(buffer["message_bell"][worker], 1, 8)
        self._parent_asleep = <int64_t *>_words(buffer["parent_asleep"], 1, 8)
        self._asked = <int64_t *>_words(buffer["asked"], n, 8)
        self._answered = <int64_t *>_words(buffer["answered"], n, 8)
        self._home = <int64_t *>_words(buffer["home"], n, 8)
        self._number = worker
        self._answered_at = <double *>_words(buffer["answered_at"], n, 8)
        self._last = <int64_t *>_words(last, n, 8)
        self._actions = buffer["action"]
        if has_integers:
            _words(self._actions, n, 8)
        self._has_integers = has_integers
        self._ids = list(sampler_ids)
        if any(not 0 <= i < n for i in self._ids):
            raise IndexError(f"samplers {self._ids} are not all among {n}")
        self._hosts, self._writer_at = hosts, writer_at
        self._unusual, self._keep_info = unusual, keep_info
        self._infos = InfoPlaces(buffer["out_of_band_parts"], buffer["out_of_band"])
        self._extras, self._send, self._ring = extras, send, ring
        self._held = (buffer, last)

    def poll(self, int64_t seen_steps, int64_t seen_messages, int polls, double prompt_s):
        """Look at the bells so often, giving the core up in between; whether one has rung.

        It ends sooner where giving the core up takes longer than ``prompt_s``: somebody else
        computes on it, and who polls on there may be moved to where a mate is to wake up.
        """
        cdef bint has_rung = False
        cdef double before_s
        with nogil:
            while True:
                has_rung = (
                    load_word(self._step_bell) != seen_steps
                    or load_word(self._message_bell) > seen_messages
                )
                if has_rung or polls <= 0:
                    break
                polls -= 1
                before_s = monotonic_s()
                sched_yield()
                if monotonic_s() - before_s >= prompt_s:
                    polls = 0
        return has_rung

    def serve(self):
        """Make the steps that are asked for and announce them; False: Python has to."""
        cdef int64_t ticket = 0
        cdef int64_t asked
        cdef Py_ssize_t i
        cdef list ids = []
        for i in self._ids:
            asked = load_word(&self._asked[i])
            # What came by message was answered, and never asked here; what a spare was asked, it
            # answered before the sampler moved here.
            if (
                asked > self._last[i]
                and asked > load_word(&self._answered[i])
                and load_word(&self._home[i]) == self._number
            ):
                if ticket != 0 and asked != ticket:
                    return False
                ticket = asked
                ids.append(i)
        if ticket == 0:
            return True
        if ticket & TIMED:
            return False
        writer = self._writer_at(ticket)
        cdef RowArrays rows = writer.compiled
        cdef Py_ssize_t row = writer.row
        cdef list actions = self._actions_of(ids)
        self.ticket = ticket
        if not ticket & ONE_BY_ONE:
            self._run(rows, row, ids, actions, writer.places)
            self._announce(ids)
            return True
        for k in range(len(ids)):
            one = [ids[k]]
            self._run(rows, row, one, [actions[k]], writer.places)
            self._answered_at[<Py_ssize_t>ids[k]] = monotonic_s()
            self._announce(one)
        return True

    cdef int _run(
        self, RowArrays rows, Py_ssize_t row, list ids, list actions, places
    ) except -1:
        return _run(
            self._hosts,
            rows,
            row,
            self.ticket & AS_BATCH,
            ids,
            actions,
            places,
            self._unusual,
            self,
        )

    cdef list _actions_of(self, list ids):
        cdef int64_t *integers
        if self._has_integers:
            integers = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>self._actions)
            return [integers[<Py_ssize_t>i] for i in ids]
        copies = self._actions[ids]
        return [copies[k, ...] for k in range(len(ids))]

    cdef int _announce(self, list ids) except -1:
        cdef Py_ssize_t i
        if self._extras:
            self._send()
        for i in ids:
            self._last[i] = self.ticket
            store_word(&self._answered[i], self.ticket)
        full_fence()
        if load_word(self._parent_asleep):
            self._ring()
        return 0


# -- the parent ----------------------------------------------------------------------------------

ctypedef fused number:
    int64_t
    float
    double


cdef bint _are_between(number *low, number *values, number *high, Py_ssize_t count):
    """Tell whether each value is within its bounds; NaN is not."""
    cdef Py_ssize_t k
    for k in range(count):
        if not low[k] <= values[k] <= high[k]:
            return False
    return True


cdef class Actions:
    """Checks all samplers' actions together, and holds them as the step buffer does.

    Args:
        count: of samplers.
        has_integers: whether an action is an integer; otherwise it is an array.
        array_of: makes what is no array as the buffer has it one, or gives None where an action is
            wrong.
        low, high: arrays [count, ...] of the buffer's dtype; between them actions must be.
        is_checked: whether they must.
    """

    cdef Py_ssize_t _count
    cdef Py_ssize_t _num_items
    cdef object _array_of
    cdef cnp.ndarray _low
    cdef cnp.ndarray _high
    cdef bint _is_checked
    cdef bint _is_known
    cdef bint _has_integers
    cdef int _kind
    cdef readonly cnp.ndarray array

    def __init__(
        self, Py_ssize_t count, bint has_integers, array_of, low, high, bint is_checked
    ):
        self._count = count
        self._array_of = array_of
        self._low = np.ascontiguousarray(low)
        self._high = np.ascontiguousarray(high)
        if low.shape != high.shape or low.dtype != high.dtype or len(low) != count:
            raise ValueError(f"bounds of {count} actions differ, or are not so many")
        self._is_checked = is_checked
        self.array = np.zeros_like(self._low)
        self._num_items = self._low.size
        self._kind = cnp.PyArray_TYPE(self._low)
        self._has_integers = has_integers
        if has_integers and (self._kind != cnp.NPY_INT64 or low.ndim != 1):
            raise ValueError(f"integers have bounds int64 [{count}], got {low!r:.80}")
        # Others are left to `array_of`.
        self._is_known = self._kind in (cnp.NPY_INT64, cnp.NPY_FLOAT32, cnp.NPY_FLOAT64)

    cpdef bint take(self, object actions) except -1:
        """Copy the actions, if each is inside its bounds; whether it is."""
        if type(actions) is list and self._has_integers:
            return self._take_list(<list>actions)
        if (
            not self._is_known
            or not PyArray_CheckExact(<PyObject *>actions)
            or not self._fits(actions)
        ):
            actions = self._array_of(actions, self._count)
            if actions is None or not self._fits(actions):
                return False
        elif self._is_checked and not self._are_inside(cnp.PyArray_DATA(<cnp.ndarray>actions)):
            return False
        memcpy(
            cnp.PyArray_DATA(self.array),
            cnp.PyArray_DATA(<cnp.ndarray>actions),
            cnp.PyArray_NBYTES(self.array),
        )
        return True

    cdef bint _take_list(self, list actions) except -1:
        cdef int64_t *target = <int64_t *>cnp.PyArray_DATA(self.array)
        cdef Py_ssize_t k
        cdef int overflow = 0
        if len(actions) != self._count:
            return False
        for k in range(self._count):
            action = actions[k]
            if type(action) is not int:
                if not isinstance(action, np.integer):
                    return False
                action = int(action)
            target[k] = PyLong_AsLongLongAndOverflow(action, &overflow)
            if overflow:
                return False
        return not self._is_checked or self._are_inside(target)

    cdef bint _fits(self, cnp.ndarray given):
        cdef int axis
        if (
            cnp.PyArray_TYPE(given) != self._kind
            or cnp.PyArray_NDIM(given) != cnp.PyArray_NDIM(self._low)
            or not cnp.PyArray_IS_C_CONTIGUOUS(given)
            or not cnp.PyArray_ISBEHAVED_RO(given)
        ):
            return False
        for axis in range(cnp.PyArray_NDIM(given)):
            if cnp.PyArray_DIM(given, axis) != cnp.PyArray_DIM(self._low, axis):
                return False
        return True

    cdef bint _are_inside(self, void *source) except -1:
        cdef void *low = cnp.PyArray_DATA(self._low)
        cdef void *high = cnp.PyArray_DATA(self._high)
        if self._kind == cnp.NPY_INT64:
            return _are_between(
                <int64_t *>low, <int64_t *>source, <int64_t *>high, self._num_items
            )
        if self._kind == cnp.NPY_FLOAT32:
            return _are_between(<float *>low, <float *>source, <float *>high, self._num_items)
        return _are_between(<double *>low, <double *>source, <double *>high, self._num_items)

    cdef list rows(self):
        """Give what each task receives, owned."""
        cdef Py_ssize_t k
        cdef int64_t *integers
        if self._has_integers:
            integers = <int64_t *>cnp.PyArray_DATA(self.array)
            return [integers[k] for k in range(self._count)]
        copies = self.array.copy()
        return [copies[k, ...] for k in range(self._count)]


cdef class UsualSteps:
    """Steps all samplers of a vector at once, as long as all that happens is usual.

    While it is *armed*, nothing but these steps has happened to the vector, and it keeps account of
    them by itself; whoever else uses the vector takes the account in first and disarms it.

    Args:
        rows: the step buffer's rows.
        actions: checks actions.
        entries: of the episode log.
        lock: of the vector, which lets one thread in.
        called: float64 [1]: when the last call came, in seconds.
        next_free: chooses the row of a step that is handed out as it is; None: all are copied.
        lend: gives the arrays of such a row.
        hand_over: goes on in Python with a step that is out: called as
            ``hand_over(form, infos)``.
        read_unusual: called as ``read_unusual(rows, index, lent, sampler_ids, infos, form)`` where
            something more than arrays belongs to the steps of these; it gives the results.
    """

    cdef RowArrays _rows
    cdef Actions _actions
    cdef list _entries
    cdef object _try_lock
    cdef object _unlock
    cdef double *_called
    cdef object _held
    cdef object _next_free_batch
    cdef object _next_free_list
    cdef object _lend
    cdef object _hand_over
    cdef object _read_unusual
    cdef object _sampler_ids
    cdef long _fork
    cdef readonly bint is_armed
    cdef readonly bint is_running  # a step is out, and Python code runs
    cdef readonly int64_t step_number
    cdef readonly int64_t ticket
    cdef readonly int64_t num_steps  # since it was armed
    cdef int64_t _steps_left
    cdef bint _as_views
    cdef double _until_s

    def __init__(
        self, RowArrays rows, Actions actions, list entries, lock, called, next_free_batch,
        next_free_list, lend, hand_over, read_unusual
    ):
        if rows.num_samplers != actions._count:
            raise ValueError(f"{rows.num_samplers} samplers, and {actions._count} actions")
        self._rows, self._actions, self._entries = rows, actions, entries
        self._try_lock, self._unlock = lock.acquire, lock.release
        self._called = <double *>_words(called, 1, 8)
        self._held = called
        self._next_free_batch, self._next_free_list = next_free_batch, next_free_list
        self._lend = lend
        self._hand_over, self._read_unusual = hand_over, read_unusual
        self._sampler_ids = np.arange(rows.num_samplers)
        self._fork = num_forks

    @property
    def actions(self):
        """The actions of the last step, as an array of their own."""
        return self._actions.array.copy()

    def arm(self, int64_t step_number, int64_t steps_left, double until_s):
        """Begin to step.

        Args:
            step_number: of the last step.
            steps_left: so many steps at most.
            until_s: no longer than until then, in seconds of ``time.monotonic``.
        """
        self.step_number, self._steps_left, self._until_s = step_number, steps_left, until_s
        self.num_steps = 0
        self.is_armed = True

    def disarm(self):
        """Step no more until it is armed again; how many steps were made since."""
        self.is_armed = False
        num_steps, self.num_steps = self.num_steps, 0
        return num_steps

    def step(self, actions, bint as_batch, bint as_views=False):
        """Step all samplers.

        Args:
            actions: one each.
            as_batch: whether to give a StepBatch; otherwise a list of RLStepResults.
            as_views: its arrays may change after the second following step.

        Returns:
            a StepBatch, or a list of RLStepResults; None where nothing was done, because it is not
            armed, an action is wrong, or the time has come to do it in Python.
        """
        if not (as_batch or self._rows._gives_results):
            return None
        if not self._enter(actions):
            return None
        try:
            next_free = self._next_free_batch if as_batch else self._next_free_list
            row = 0 if next_free is None else next_free(self.step_number + 1)
            self._as_views = as_views
            return self._step(self._rows, row, row, _BATCH if as_batch else _RESULTS)
        finally:
            self._unlock()

    def step_into(self, actions, RowArrays rows, Py_ssize_t index, Py_ssize_t row):
        """Step all samplers, and have what comes of it written to rollout rows.

        Args:
            actions: one each.
            rows: the rollout rows.
            index: the row's among them.
            row: its number, by which workers find it.

        Returns:
            the infos that are not empty, by sampler id; None as for :meth:`step`.
        """
        if rows.num_samplers != self._rows.num_samplers or not self._enter(actions):
            return None
        try:
            return self._step(rows, index, row, _INTO_ROWS)
        finally:
            self._unlock()

    cdef bint _enter(self, actions) except -1:
        """Begin a call, if all is quiet and the actions are right; whether it is."""
        cdef double now_s
        if (
            not self.is_armed
            or self.is_running  # a task, or a handler of a signal, comes back to the vector
            or self._fork != num_forks
            or self._steps_left <= 0
        ):
            return False
        now_s = monotonic_s()
        if now_s >= self._until_s or not self._try_lock(False):
            return False
        try:
            if self.is_armed and not self.is_running and self._actions.take(actions):
                self._called[0] = now_s
                return True
        except BaseException:
            self._unlock()
            raise
        self._unlock()
        return False

    cdef int _begin(self, RowArrays rows, Py_ssize_t index, Py_ssize_t row, int form) except -1:
        """Give the step a number and a ticket."""
        rows._check(index, 0)
        self.step_number += 1
        self._steps_left -= 1
        self.ticket = (self.step_number << ROW_BITS | row) << ROW_SHIFT
        self.ticket |= 0 if form == _RESULTS else AS_BATCH
        return 0

    cdef object _step(self, RowArrays rows, Py_ssize_t index, Py_ssize_t row, int form):
        raise NotImplementedError

    cdef object _finish(self, RowArrays rows, Py_ssize_t index, int form, dict infos):
        """Give what the steps that were written to a row brought."""
        cdef Py_ssize_t i
        cdef Py_ssize_t n = rows.num_samplers
        cdef uint8_t *flags = rows._flags + index * n
        cdef list unusual = None
        cdef list lent = None
        if not self.is_armed:  # somebody used the vector meanwhile
            return self._hand_over(form, infos)
        for i in range(n):
            if flags[i] == EXTRA and i not in infos:
                info = self._info_of(i)
                if info is not None:
                    infos[i] = info
            if flags[i] & ~EMPTY_INFO and i not in infos:
                if unusual is None:
                    unusual = []
                unusual.append(i)
        if form != _INTO_ROWS and index != 0:
            try:
                lent = self._lend(index, self.step_number, self._as_views)
            except BaseException:  # Ctrl-C: the step is made, and what it gave is dropped
                self._hand_over(form, infos)
                raise
        if unusual is not None:
            return self._read_unusual(rows, index, lent, unusual, infos, form)
        self.count(rows, index)
        return self.results(rows, index, lent, infos, form)

    cdef object _info_of(self, Py_ssize_t sampler):
        """Read the info of a step that has nothing else unusual; None: it is elsewhere."""
        return None

    cpdef count(self, RowArrays rows, Py_ssize_t index):
        """Count a step that was written to a row, and write it down."""
        self.num_steps += 1
        self._entries.append(self.entry(rows, index))

    cpdef results(self, RowArrays rows, Py_ssize_t index, list lent, dict infos, int form):
        """Make of a row what a step gives in one of the forms.

        Args:
            rows: the rows.
            index: which of them.
            lent: its arrays, where they may be handed out; None: copy them.
            infos: those that are not empty, by sampler id.
            form: RESULTS: a list of RLStepResults; BATCH: a StepBatch; INTO_ROWS: the infos.
        """
        cdef list filled
        if form == _INTO_ROWS:
            return infos
        if form == _RESULTS:
            return rows.results(index, lent, infos)
        rows._check(index, 0)
        batch = rows._batch(index, lent, self._sampler_ids)
        if infos:
            filled = <list>batch.infos
            for i, info in infos.items():
                filled[<Py_ssize_t>i] = info
        return batch

    cpdef bytes entry(self, RowArrays rows, Py_ssize_t index):
        """Pack a row's actions, ends and rewards: the episode log's entry of a step of all."""
        cdef Py_ssize_t n = rows.num_samplers
        cdef Py_ssize_t i
        cdef int64_t *integers = <int64_t *>cnp.PyArray_DATA(self._actions.array)
        cdef bint are_small = self._actions._has_integers
        cdef Py_ssize_t actions_bytes = cnp.PyArray_NBYTES(self._actions.array)
        cdef bytes packed
        cdef char *place
        cdef float reward
        rows._check(index, 0)
        if are_small:
            for i in range(n):
                if not 0 <= integers[i] < 256:
                    are_small = False
                    break
        if are_small:
            actions_bytes = n
        packed = PyBytes_FromStringAndSize(NULL, actions_bytes + 5 * n)
        place = PyBytes_AS_STRING(packed)
        if are_small:
            for i in range(n):
                place[i] = <char>integers[i]
        else:
            memcpy(place, cnp.PyArray_DATA(self._actions.array), actions_bytes)
        place += actions_bytes
        for i in range(n):
            place[i] = rows._flags[index * n + i] & DONE
        place += n
        for i in range(n):
            reward = <float>rows._rewards[index * n + i]
            memcpy(place + 4 * i, &reward, 4)
        return packed


cdef class UsualStepsOfWorkers(UsualSteps):
    """Usual steps in worker processes, through shared memory."""

    cdef int64_t *_asked
    cdef int64_t *_answered
    cdef int64_t *_step_bells
    cdef int64_t *_asleep
    cdef int64_t *_residents
    cdef char *_shared_actions
    cdef Py_ssize_t _num_workers
    cdef Py_ssize_t _line
    cdef int _polls
    cdef object _wake
    cdef InfoPlaces _infos

    @property
    def num_info_bytes(self):
        """Bytes of the infos that were read."""
        return self._infos.num_bytes

    def share(self, buffer, residents, int polls, wake):
        """Take in where workers are told what to do.

        Args:
            buffer: the step buffer's arrays, by name.
            residents: int64 [workers]: how many samplers live in each.
            polls: how often to look before the step is handed over.
            wake: called with the numbers of the workers that are asleep; whether it could.
        """
        n = self._rows.num_samplers
        bells, asleep = buffer["step_bell"], buffer["asleep"]
        self._num_workers, self._line = bells.shape
        if asleep.shape != bells.shape or buffer["action"].nbytes != self._actions.array.nbytes:
            raise ValueError("the step buffer's arrays do not fit each other")
        self._asked = <int64_t *>_words(buffer["asked"], n, 8)
        self._answered = <int64_t *>_words(buffer["answered"], n, 8)
        self._step_bells = <int64_t *>_words(bells, 1, 8)
        self._asleep = <int64_t *>_words(asleep, 1, 8)
        self._residents = <int64_t *>_words(residents, self._num_workers, 8)
        self._shared_actions = <char *>cnp.PyArray_DATA(<cnp.ndarray>buffer["action"])
        self._polls, self._wake = polls, wake
        self._infos = InfoPlaces(buffer["out_of_band_parts"], buffer["out_of_band"])
        self._held = (self._held, buffer, residents)

    cdef object _step(self, RowArrays rows, Py_ssize_t index, Py_ssize_t row, int form):
        cdef Py_ssize_t i
        cdef Py_ssize_t w
        cdef int64_t *bell
        cdef list asleep = None
        self._begin(rows, index, row, form)
        memcpy(
            self._shared_actions,
            cnp.PyArray_DATA(self._actions.array),
            cnp.PyArray_NBYTES(self._actions.array),
        )
        for i in range(self._rows.num_samplers):
            store_word(&self._asked[i], self.ticket)
        for w in range(self._num_workers):
            if self._residents[w] > 0:
                bell = self._step_bells + w * self._line
                store_word(bell, bell[0] + 1)
        full_fence()  # between the bells and the look at who is asleep
        for w in range(self._num_workers):
            if self._residents[w] > 0 and load_word(self._asleep + w * self._line):
                if asleep is None:
                    asleep = []
                asleep.append(w)
        if asleep is not None:
            self.is_running = True
            try:
                if not self._wake(asleep):
                    asleep = None
            except BaseException:  # Ctrl-C: the step is made, and what it gives is dropped
                self.is_running = False
                self._hand_over(form, {})
                raise
            self.is_running = False
            if asleep is None:  # one is gone
                return self._hand_over(form, {})
        if not self._poll():
            return self._hand_over(form, {})
        return self._finish(rows, index, form, {})

    cdef object _info_of(self, Py_ssize_t sampler):
        return self._infos.read(sampler)

    cdef bint _poll(self):
        cdef int polls = self._polls
        cdef bint is_done
        with nogil:
            while True:
                is_done = self._have_answered()
                if is_done or polls <= 0:
                    break
                polls -= 1
                sched_yield()
        return is_done

    cdef bint _have_answered(self) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(self._rows.num_samplers):
            if load_word(&self._answered[i]) != self.ticket:
                return False
        return True


cdef class UsualStepsHere(UsualSteps):
    """Usual steps of tasks in this process."""

    cdef dict _hosts
    cdef list _ids
    cdef object _places_at
    cdef object _unusual
    cdef object _cut_off

    def use(self, hosts, places_at, unusual, cut_off):
        """Take in whom to step.

        Args:
            hosts: by sampler id.
            places_at: gives the places of a ticket's row, as for :func:`run_steps`.
            unusual: as for :func:`run_steps`; the row is that of the ticket.
            cut_off: called when Ctrl-C passes through a step.
        """
        self._hosts, self._places_at = hosts, places_at
        self._unusual, self._cut_off = unusual, cut_off
        self._ids = list(range(self._rows.num_samplers))

    cdef object _step(self, RowArrays rows, Py_ssize_t index, Py_ssize_t row, int form):
        cdef list actions = self._actions.rows()
        cdef dict infos = {}
        self._begin(rows, index, row, form)
        self.is_running = True
        try:
            _run(
                self._hosts,
                rows,
                index,
                form != _RESULTS,
                self._ids,
                actions,
                self._places_at(self.ticket),
                self._unusual,
                infos,
            )
        except BaseException:
            self.is_running = False
            self._cut_off()
            raise
        self.is_running = False
        return self._finish(rows, index, form, infos)
