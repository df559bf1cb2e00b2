"""What bench/device.py runs its parts with: processes, time limits, clocks, and the report.

machine.py   what a part is told: the device, small or full sizes, how much time is left
part.py      a part by name: its file, its arguments, its limits
process.py   a part's process from outside: started, waited for, killed, started again
child.py     the same from inside: piece after piece, each result written at once
report.py    what the parts found, as JSON and Markdown
timing.py    clocks of the device and of the host, captured graphs, the kernels of a call
models.py    checkpoints with random weights, pictures
door.py      the engine as a worker starts it, asked through its door
insides.py   every name behind that door that a part needs
"""
