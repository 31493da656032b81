"""Draw as many codes as a number of seconds allows: python examples/sample_until.py 0.5."""

import sys
import time

import anytime_ar as aar

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
model = aar.load("mnist")
model.warm_up(16)
begin = time.perf_counter()
result = model.generate(16, deadline_s=seconds, seed=0)
print(
    f"{result.codes_drawn} of {model.code_length} codes in {time.perf_counter() - begin:.3f} s, "
    f"stopped by {result.stop_reason}"
)
