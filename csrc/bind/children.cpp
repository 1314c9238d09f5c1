#include "bind/children.h"

namespace lyra {
namespace {

// Borrowed references, or null: nothing here is anything that PyTorch's modules would not have.
PyObject* item(PyObject* tuple, Py_ssize_t i) { return PyTuple_GetItem(tuple, i); }

PyObject* entry(PyObject* dictionary, PyObject* key) {
  return dictionary && PyDict_Check(dictionary) ? PyDict_GetItemWithError(dictionary, key) : nullptr;
}

bool has_size(PyObject* dictionary, Py_ssize_t size) {
  return dictionary && PyDict_Check(dictionary) && PyDict_Size(dictionary) == size;
}

// The dictionary of a module's attributes, which the module keeps alive.
PyObject* attributes(PyObject* module) {
  PyObject* state = PyObject_GenericGetDict(module, nullptr);
  Py_XDECREF(state);
  return state;
}

// Only functions of Python, none of its variables such as Py_None: without Python the library could not be loaded.
struct Names {
  PyObject *none, *modules, *parameters, *buffers, *forward, *compiled, *dtype, *hooks[4];

  Names() {
    none = Py_BuildValue("");
    const auto name = PyUnicode_InternFromString;
    modules = name("_modules"), parameters = name("_parameters"), buffers = name("_buffers");
    forward = name("forward"), compiled = name("_compiled_call_impl"), dtype = name("dtype");
    hooks[0] = name("_forward_hooks"), hooks[1] = name("_forward_pre_hooks");
    hooks[2] = name("_backward_hooks"), hooks[3] = name("_backward_pre_hooks");
  }
};

class Search {
 public:
  Search(const Names& names, PyObject* ordinary, PyObject* found) : names_(names), ordinary_(ordinary), found_(found) {}

  // Appends the tensors of one Part of layers/_children.py, whose fields stand in that order.
  bool look(PyObject* layer, PyObject* part) {
    PyObject *path = item(part, 0), *kind = item(part, 1), *forward = item(part, 2), *settings = item(part, 5);
    const Py_ssize_t depth = PyTuple_Size(path);
    PyObject* module = layer;
    PyObject* state = attributes(layer);
    for (Py_ssize_t i = 0; i < depth; ++i) {
      module = entry(entry(state, names_.modules), item(path, i));
      if (!module) return false;
      state = attributes(module);
    }
    if (depth && !is_as_made(module, state, kind, forward, PyLong_AsSsize_t(item(part, 3)))) return false;
    for (Py_ssize_t i = 0; i < PyTuple_Size(settings); ++i) {
      PyObject* value = entry(state, item(item(settings, i), 0));
      if (!value || PyObject_RichCompareBool(value, item(item(settings, i), 1), Py_EQ) != 1) return false;
    }
    if (PyObject_IsTrue(item(part, 6)) == 1) dtype_ = nullptr;
    return take(state, item(part, 4));
  }

 private:
  bool is_as_made(PyObject* module, PyObject* state, PyObject* kind, PyObject* forward, Py_ssize_t children) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(module)) != kind || !does(kind, forward)) return false;
    if (entry(state, names_.forward)) return false;
    PyObject* compiled = entry(state, names_.compiled);  // by Module.compile()
    if (compiled && compiled != names_.none) return false;
    for (PyObject* hooks : names_.hooks)
      if (!has_size(entry(state, hooks), 0)) return false;
    return has_size(entry(state, names_.modules), children);
  }

  // Whether a class still has its forward; one looks as long as all else of a module.
  bool does(PyObject* kind, PyObject* forward) {
    if (kind == last_kinds_[0] || kind == last_kinds_[1]) return true;
    PyObject* present = PyObject_GetAttr(kind, names_.forward);
    Py_XDECREF(present);  // its class has it
    if (present != forward) return false;
    last_kinds_[1] = last_kinds_[0];
    last_kinds_[0] = kind;
    return true;
  }

  bool take(PyObject* state, PyObject* tensors) {
    PyObject* parameters = entry(state, names_.parameters);
    for (Py_ssize_t i = 0; i < PyTuple_Size(tensors); ++i) {
      PyObject* x = entry(parameters, item(tensors, i));
      if (!x) x = entry(entry(state, names_.buffers), item(tensors, i));
      if (!x || (x != names_.none && !is_alike(x)) || PyList_Append(found_, x) != 0) return false;
    }
    return true;
  }

  // Whether x is an ordinary tensor of the dtype of those before.
  bool is_alike(PyObject* x) {
    bool ordinary = false;
    for (Py_ssize_t i = 0; i < PyTuple_Size(ordinary_); ++i)
      ordinary |= reinterpret_cast<PyObject*>(Py_TYPE(x)) == item(ordinary_, i);
    if (!ordinary) return false;
    PyObject* own = PyObject_GetAttr(x, names_.dtype);
    Py_XDECREF(own);  // torch has one object for each, which stays
    const bool alike = own && (!dtype_ || own == dtype_);
    dtype_ = own;
    return alike;
  }

  const Names& names_;
  PyObject *ordinary_, *found_, *dtype_ = nullptr, *last_kinds_[2] = {};
};

}  // namespace

PyObject* plain_tensors(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static const Names names;
  if (count != 4) {
    PyErr_BadArgument();
    return nullptr;
  }
  PyObject *layer = args[0], *parts = args[1], *global_hooks = args[2];
  PyObject* found = PyList_New(0);
  if (!found) return nullptr;
  bool plain = true;
  for (Py_ssize_t i = 0; plain && i < PyTuple_Size(global_hooks); ++i) plain = has_size(item(global_hooks, i), 0);
  Search search(names, args[3], found);
  for (Py_ssize_t i = 0; plain && i < PyTuple_Size(parts); ++i) plain = search.look(layer, item(parts, i));
  if (plain && !PyErr_Occurred()) return found;
  PyErr_Clear();  // Python looks again
  Py_DECREF(found);
  Py_INCREF(names.none);
  return names.none;
}

}  // namespace lyra
