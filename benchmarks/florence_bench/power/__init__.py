"""Energy, clocks and throttling, from wherever the board tells: RAPL, INA3221, tegrastats, NVML.

`meter` measures the energy of some work, `conditions` looks at clocks and limits; the other modules each read one
source. Every reader takes the root of the file tree, so that recorded trees can be read as well.
"""
