"""A model of one SM that predicts how fast the CUDA kernels are, from their machine code.

It has three steps. launches.py asks the sources which kernel serves an operator and with what
parameters. execution.py runs the SASS of a warp, or of all warps of a block, on usual matrices,
instruction by instruction (warp.py, operations.py, floating_point.py, memory.py), and checks the
results: so the path through the code, the addresses, bank conflicts, barriers and bytes are those
of the kernel, whatever it is. No table says which branches are taken or how often a loop runs.
simulator.py replays what was executed in all warps of an SM.

What it prints are predictions. On an H200 kernels of an earlier commit were measured
(docs/measurements-cuda.md). The model's clocks for their machine code, times a factor for each
operator and dtype (CALIBRATION in predictions.py), are within 10 % of the 24 times of the class
warp except one: gradients of order 6 took 1.5 times as long. The model's constants were chosen by
half of these times. Of the class block no time had a part in the constants; times one factor
(BLOCK_CALIBRATION) the model is within 12 % of 29 of 30 times, and 28 % above one. The class
cluster and the LU of the class large, of which nothing is measured yet, take the same factor.
Kernels of the class thread, which the memory bounds, took 1.0 to 1.4 times the model's clocks: its
memory is ideal. So the model ranks variants of a kernel, and is right within 15 to 20 %; LIMITS
says what it leaves out. Each run on a GPU is a reason to calibrate anew.
"""

LIMITS = (
    "The model knows nothing of: fetching instructions (code beyond 20 to 40 KB is slower), the "
    "class large but for\nits LU, the last blocks of a launch, multiprocessors that no cluster "
    "fits on, clocks other than 1.98 GHz, and\nshared memory that the driver does not give to "
    "blocks. Data that lies in a cache counts as read from memory, but\nfor that LU, whose "
    "matrices are all in the L2 cache."
)
