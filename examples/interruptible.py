"""Stop a sample from another thread and refine it later: python examples/interruptible.py."""

import threading

import anytime_ar as aar

model = aar.load("cifar10")
stop = threading.Event()
threading.Timer(0.05, stop.set).start()
result = model.generate(4, seed=0, cancel=stop)
print(f"{result.codes_drawn} codes when {result.stop_reason}")
better = result.state.refine()
print(f"{better.codes_drawn} codes after refining")
assert (better.codes == model.sample_codes(4, seed=0)).all()
