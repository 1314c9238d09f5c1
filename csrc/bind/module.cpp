// The Python module lyra_kernels._C: importing it registers the operators; its functions tell and choose the
// instruction set, tell what the CUDA kernels were compiled for, and look at a layer's children. Limited API, so that one
// build serves every Python from 3.10 on.
#include "bind/children.h"
#include "cpu/dispatch.h"

#ifndef LYRA_CUDA_ARCHITECTURES
#define LYRA_CUDA_ARCHITECTURES ""
#endif

namespace {

using lyra::cpu::Isa;
constexpr Isa kIsas[] = {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

PyObject* cpu_isa(PyObject*, PyObject*) {
  return PyUnicode_FromString(lyra::cpu::isa_name(lyra::cpu::active_isa()));
}

PyObject* available_cpu_isas(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  for (lyra::cpu::Isa isa : kIsas) {
    if (!names || !lyra::cpu::isa_available(isa)) continue;
    PyObject* name = PyUnicode_FromString(lyra::cpu::isa_name(isa));
    if (!name || PyList_Append(names, name) != 0) {
      Py_XDECREF(name);
      Py_DECREF(names);
      return nullptr;
    }
    Py_DECREF(name);
  }
  return names;
}

// 1 and the set of that name; 0 where no set has it; -1 with an exception.
int isa_named(PyObject* name, lyra::cpu::Isa* found) {
  for (lyra::cpu::Isa isa : kIsas) {
    PyObject* candidate = PyUnicode_FromString(lyra::cpu::isa_name(isa));
    if (!candidate) return -1;
    const int equal = PyObject_RichCompareBool(candidate, name, Py_EQ);
    Py_DECREF(candidate);
    if (equal) {
      *found = isa;
      return equal;
    }
  }
  return 0;
}

PyObject* set_cpu_isa(PyObject*, PyObject* name) {
  lyra::cpu::Isa isa;
  const int known = isa_named(name, &isa);
  return known < 0 ? nullptr : PyBool_FromLong(known && lyra::cpu::set_isa(isa));
}

PyObject* chooser = nullptr;  // of choose_cpu_isa_by

// Kernels run without the interpreter's lock, and under an exception they must not run at all: none gets out of here.
bool choice_of_python(lyra::cpu::Isa* isa) {
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* name = PyObject_CallNoArgs(chooser);
  const int known = name ? isa_named(name, isa) : 0;  // None is no name
  if (!name || known < 0) PyErr_WriteUnraisable(chooser);
  Py_XDECREF(name);
  PyErr_Restore(type, value, traceback);
  PyGILState_Release(state);
  return known > 0;
}

PyObject* choose_cpu_isa_by(PyObject*, PyObject* function) {
  Py_INCREF(function);
  Py_XDECREF(chooser);
  chooser = function;
  lyra::cpu::choose_isa_by(choice_of_python);
  return Py_BuildValue("");  // None, by a function: see children.cpp
}

PyObject* cuda_architectures(PyObject*, PyObject*) { return PyUnicode_FromString(LYRA_CUDA_ARCHITECTURES); }

PyMethodDef kMethods[] = {
    {"cpu_isa", cpu_isa, METH_NOARGS, "Name of the instruction set that the CPU kernels use."},
    {"available_cpu_isas", available_cpu_isas, METH_NOARGS, "Instruction sets that were built and that this CPU has."},
    {"set_cpu_isa", set_cpu_isa, METH_O,
     "Choose the instruction set of the process by name; False if it is not available."},
    {"choose_cpu_isa_by", choose_cpu_isa_by, METH_O,
     "Ask a function for the instruction set at every call of a kernel, in its thread: a name, or None for the process's."},
    {"cuda_architectures", cuda_architectures, METH_NOARGS,
     "What the CUDA kernels are compiled for: \"sm_80, sm_90, compute_90\"; empty where they are not built."},
    {"plain_tensors", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lyra::plain_tensors)), METH_FASTCALL,
     "The tensors of a layer's children where all are as it made them, else None; see layers/_children.py."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }
