// The Python module lyra_kernels._C: importing it registers the operators; its functions tell and choose the
// instruction set, tell what the CUDA kernels were compiled for, and look at a layer's children. Limited API, so that one
// build serves every Python from 3.10 on.
#include "bind/children.h"
#include "cpu/dispatch.h"

#ifndef LYRA_CUDA_ARCHITECTURES
#define LYRA_CUDA_ARCHITECTURES ""
#endif

namespace {

constexpr lyra::cpu::Isa kIsas[] = {lyra::cpu::Isa::baseline, lyra::cpu::Isa::avx2, lyra::cpu::Isa::avx512};

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

PyObject* set_cpu_isa(PyObject*, PyObject* name) {
  for (lyra::cpu::Isa isa : kIsas) {
    PyObject* candidate = PyUnicode_FromString(lyra::cpu::isa_name(isa));
    if (!candidate) return nullptr;
    const int equal = PyObject_RichCompareBool(candidate, name, Py_EQ);
    Py_DECREF(candidate);
    if (equal < 0) return nullptr;
    if (equal) return PyBool_FromLong(lyra::cpu::set_isa(isa));
  }
  return PyBool_FromLong(0);
}

PyObject* cuda_architectures(PyObject*, PyObject*) { return PyUnicode_FromString(LYRA_CUDA_ARCHITECTURES); }

PyMethodDef kMethods[] = {
    {"cpu_isa", cpu_isa, METH_NOARGS, "Name of the instruction set that the CPU kernels use."},
    {"available_cpu_isas", available_cpu_isas, METH_NOARGS, "Instruction sets that were built and that this CPU has."},
    {"set_cpu_isa", set_cpu_isa, METH_O, "Choose the instruction set by name; False if it is not available."},
    {"cuda_architectures", cuda_architectures, METH_NOARGS,
     "What the CUDA kernels are compiled for: \"sm_80, sm_90, compute_90\"; empty where they are not built."},
    {"plain_tensors", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lyra::plain_tensors)), METH_FASTCALL,
     "The tensors of a layer's children where all are as it made them, else None; see layers/_children.py."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&kModule); }
