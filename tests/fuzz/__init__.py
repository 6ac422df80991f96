"""A seeded search for wrong answers, crashes and refusals, in single calls and in whole programs.

A case is plain JSON: it can be stored, replayed and made smaller. hypothesis draws cases and
shrinks them, a child process runs them, oracles that share no code with torchdet judge them.

tensors.py    specifications of tensors: contents, dtypes, layouts in memory
judge.py      exact answers for single calls
calls.py      the strategy that draws single calls of public functions and registered operators
answers.py    runs a call, and looks at its answer
sums.py       calls of slogsumdet and slogsumdet_laplacian, drawn and run
sum_judge.py  whether their answers are right, by balls.py: arithmetic with errors
reference.py  determinants from plain torch operations, which autograd differentiates by itself
composed.py   functions of a matrix that are made of sums of determinants, for programs
programs.py   what programs consist of, and the strategy that draws them
machine.py    what each step does
compare.py    runs a program on torchdet and on the reference, step by step
transforms.py the steps that use torch.func
child.py      the process that runs cases, and how its death becomes a finding
search.py     the search: draw, run, shrink, keep
__main__.py   the command
"""
