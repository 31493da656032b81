# %% [markdown]
# # An audio model
#
# What changes when the samples are sounds?
#
# Nothing in sampling, refining or serving. The shipped model `fsdd` draws spoken digits: 0.64
# seconds at 8 kHz as 896 codes.

# %%
import anytime_ar as aar

model = aar.load("fsdd")
print(model)

# %% [markdown]
# ## Budgets
#
# Few codes give the coarse shape of the sound, more codes its detail.

# %%
full = model.sample_codes(2, label=7, seed=0)
for k in (56, 224, 896):
    clips = model.decode(full[:, :k])  # float32 [2, 1, T] in [-1, 1]
    print(k, "codes:", list(clips.shape), f"peak {float(clips.abs().max()):.2f}")

# %% [markdown]
# ## Bits a second
#
# The codes are a codec as well: every prefix is a lower bit rate.

# %%
seconds = model.sample_shape[-1] / model.sample_rate
for point in model.curve.points[:: len(model.curve.points) // 4]:
    print(f"{point.codes:>4} codes: {point.bits / seconds / 1000:.1f} kbit/s, MSE {point.mse:.4f}")

# %% [markdown]
# ## Encode and decode
#
# `encode` takes clips of the model's length; `anytime encode fsdd recording.wav` encodes recordings
# of any length in overlapping windows.

# %%
clips = model.decode(full)
codes = model.encode(clips)
for k in (56, 224, 896):
    error = (model.decode(codes[:, :k]) - clips).square().mean()
    print(k, "codes:", f"squared error {float(error):.5f}")
