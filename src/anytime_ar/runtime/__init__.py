"""Use the machine: files, memory, threads, signals, devices and processes."""
