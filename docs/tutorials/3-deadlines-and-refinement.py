# %% [markdown]
# # Deadlines, interruption and refinement
#
# How do I promise a latency, stop a sample at any moment, and go on with it later?

# %%
import tempfile
import threading
from pathlib import Path

import anytime_ar as aar

model = aar.load("cifar10")

# %% [markdown]
# ## Deadlines
#
# The first call with a deadline measures what a step and a decode take on this machine. Later calls
# reserve the time to decode, and draw as many codes as fit before it.

# %%
model.warm_up(4)
print(f"shortest deadline for 4 samples: {1000 * model.min_deadline_s(4):.1f} ms")
for deadline_s in (0.02, 0.05, 0.2):
    deadline_s = max(deadline_s, 1.1 * model.min_deadline_s(4))
    result = model.generate(4, deadline_s=deadline_s, seed=0)
    print(
        f"{1000 * deadline_s:.0f} ms: {result.codes_drawn} codes in "
        f"{1000 * result.elapsed_s:.1f} ms, stopped by {result.stop_reason}"
    )

# %% [markdown]
# A deadline that not even one code fits is refused, with the shortest one that would do:

# %%
try:
    model.generate(4, deadline_s=1e-6)
except aar.InputError as error:
    print(error)

# %% [markdown]
# ## Interruption
#
# `stream` yields a preview after every code. Closing it ends the work. `cancel` takes any object
# with `is_set()`, such as a `threading.Event` that a user interface sets.

# %%
stop = threading.Event()
for preview in model.stream(4, seed=0, cancel=stop):
    if preview.codes_drawn == 10:
        stop.set()
print(preview.codes_drawn, "codes")

# %% [markdown]
# ## Refinement
#
# Every preview and result has a `state`. It can be saved, loaded in another process, and refined.
# The codes are those that one uninterrupted run would have drawn.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "state.safetensors"
    preview.state.save(path)
    better = model.load_state(path).refine(codes=40)
whole = model.sample_codes(4, codes=40, seed=0)
assert (better.codes == whole).all()
print(better.codes_drawn, "codes, equal to one run")
