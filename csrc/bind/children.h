// What a layer asks at every call: whether its children are the plain modules that it made.
#pragma once

#define Py_LIMITED_API 0x030A0000
#include <Python.h>

namespace lyra {

// plain_tensors(layer, parts, global_hooks, ordinary): the list of the parts' tensors; None where not everything is
// plain, or is not where it usually is. What is plain, layers/_children.py says, which has the same in Python.
PyObject* plain_tensors(PyObject* module, PyObject* const* args, Py_ssize_t count);

}  // namespace lyra
