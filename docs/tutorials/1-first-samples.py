# %% [markdown]
# # First samples and budgets
#
# How do I draw samples from a shipped model, and what does a budget change?
#
# An anytime model draws codes one at a time, the most important first. It can stop after any of
# them: every prefix of the codes decodes to a complete sample.

# %%
import anytime_ar as aar

model = aar.load("mnist")
print(model)

# %% [markdown]
# ## A budget in codes
#
# `sample` returns a tensor: `float32 [n, C, H, W]` in [-1, 1]. `codes` says how many codes to draw.

# %%
coarse = model.sample(8, codes=4, label=3, seed=0)
fine = model.sample(8, codes=16, label=3, seed=0)
print(coarse.shape, fine.shape)

# %% [markdown]
# Both tensors hold the same eight samples. The first four codes are equal, since sample `i` of a
# seed does not depend on the budget, on `n` or on the batch.

# %%
codes = model.sample_codes(8, label=3, seed=0)
prefix = model.sample_codes(8, codes=4, label=3, seed=0)
assert (codes[:, :4] == prefix).all()
print(codes[0].tolist())

# %% [markdown]
# ## A budget in seconds
#
# `deadline_s` counts from the call to the decoded samples. The model measures its own speed once,
# and then draws as many codes as fit.

# %%
result = model.generate(8, deadline_s=0.5, seed=0)
print(result.codes_drawn, "codes,", result.stop_reason)

# %% [markdown]
# ## A budget in quality
#
# A shipped model carries its measured curve: the distance to real images at every number of codes.
# `quality=0.9` asks for the fewest codes whose distance is at most that of all codes, divided by
# 0.9.

# %%
result = model.generate(8, quality=0.9, seed=0)
print(result.codes_drawn, "of", model.code_length, "codes")
for point in model.curve.points[::5]:
    print(point.codes, "codes:", f"FD {point.fd_sample:.2f}")

# %% [markdown]
# ## Encode and decode
#
# Encoding turns images into codes, coarse to fine. Any prefix decodes.

# %%
codes = model.encode(fine)
for k in (1, 4, 16):
    error = (model.decode(codes[:, :k]) - fine).square().mean()
    print(k, "codes:", f"squared error {float(error):.3f}")
