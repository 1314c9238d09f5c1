"""The GPU kernels without a GPU.

``python -m benchmarks.gpu_static`` counts what the Triton kernels move and compiles them for every card;
``python -m benchmarks.gpu_static.time_model`` predicts what they take.
"""
