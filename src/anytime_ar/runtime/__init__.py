"""What the package needs of the machine: files, memory, threads, signals, devices, processes."""
